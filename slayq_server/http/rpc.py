"""RPC over HTTP (protocol v1): `POST /{task}` with a JSON body, signed in `X-SlayQ-Signature` over its raw bytes.

Nothing of a body is looked at before its signature has been checked, and what a stranger can hold is bounded: the size
of a body, the time it may take to come, and how many large ones are held at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import hdrs, web

from slayq.protocol import SIGNATURE_HEADER, Task
from slayq.signing import verify_v1
from slayq_server.errors import DatabaseUnavailable, RequestRefused, SlayQServerError, StatementFailed
from slayq_server.protocol.rpc_v1 import InvalidBody, read_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from slayq_server.metrics import Metrics
    from slayq_server.protocol.rpc_v1 import Call

BODY_LIMIT: Final = 4 * 1024 * 1024 + 64 * 1024
"""Bytes of a body: the largest payload that the SQL functions take, and room for what stands beside it."""
BODY_TIMEOUT: Final = 30.0
"""Seconds in which a whole body must have come."""
_SMALL: Final = 64 * 1024
"""Bytes from which on a body counts as large, and is checked beside the event loop."""
_MOST_LARGE: Final = 16
"""Large bodies that are held at once."""
_AWAY_RETRY: Final = 5
_BUSY_RETRY: Final = 1

_log = structlog.stdlib.get_logger(__name__)


class _Refused(Exception):
    """Why a request is not carried out: an HTTP status, a reason for the app, and when to try again."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class Rpc:
    """The six tasks. `routes` are for an HttpServer to mount."""

    def __init__(
        self,
        carry_out: Callable[[Call], Awaitable[None]],
        secrets: Sequence[str],
        metrics: Metrics,
        *,
        on_error: Callable[[DatabaseUnavailable], None],
        body_timeout: float = BODY_TIMEOUT,
    ) -> None:
        """Does nothing yet.

        Args:
            carry_out: does what a call says; raises the server's errors.
            secrets: a body may be signed with any of them.
            metrics: counts requests, and those refused for their signature.
            on_error: called when the database is away or refuses a statement.
            body_timeout: seconds in which a whole body must have come.
        """
        self._carry_out = carry_out
        self._secrets = tuple(secrets)
        self._metrics = metrics
        self._on_error = on_error
        self._body_timeout = body_timeout
        self._large = 0

    @property
    def routes(self) -> list[web.RouteDef]:
        """`POST /{task}` for each task."""
        return [web.post(f"/{task}", functools.partial(self._serve, task)) for task in Task]

    def set_secrets(self, secrets: Sequence[str]) -> None:
        """Replaces the secrets, for bodies that are checked from now on."""
        self._secrets = tuple(secrets)

    async def _serve(self, task: Task, request: web.Request) -> web.Response:
        try:
            await self._handle(task, request)
            answer = _json(200, {"status": "ok"})
        except _Refused as refused:
            answer = _json(refused.status, {"status": "error", "error": refused.reason})
            if refused.retry_after is not None:
                answer.headers[hdrs.RETRY_AFTER] = str(refused.retry_after)
        self._metrics.rpc_request(task, answer.status)
        return answer

    async def _handle(self, task: Task, request: web.Request) -> None:
        signature = request.headers.get(SIGNATURE_HEADER)
        if signature is None:
            raise self._unauthorized(task, "missing")
        async with self._body(request) as body:
            check = functools.partial(_checked, task, self._secrets, body, signature)
            try:
                call = await asyncio.to_thread(check) if len(body) > _SMALL else check()
            except InvalidBody as error:
                _log.info("rpc_refused", task=task, reason=str(error))
                raise _Refused(400, str(error)) from None
            if call is None:
                raise self._unauthorized(task, "invalid")
            await self._call(task, call)

    async def _call(self, task: Task, call: Call) -> None:
        try:
            await self._carry_out(call)
        except RequestRefused as error:
            _log.info("rpc_refused", task=task, sqlstate=error.sqlstate)
            raise _Refused(400, str(error)) from error
        except StatementFailed as error:
            self._on_error(error)
            raise _failed(task, error) from error
        except DatabaseUnavailable as error:
            self._on_error(error)
            _log.info("rpc_unavailable", task=task, error=str(error))
            raise _Refused(503, f"{error}: try again", retry_after=_AWAY_RETRY) from error
        except SlayQServerError as error:  # no schema, or no right to it
            raise _failed(task, error) from error

    def _unauthorized(self, task: Task, reason: str) -> _Refused:
        self._metrics.auth_failure("rpc", reason)
        _log.warning("rpc_unauthorized", task=task, reason=reason)
        problem = "is missing" if reason == "missing" else "does not fit the body"
        return _Refused(
            401,
            f"the signature {problem}: send, as {SIGNATURE_HEADER}, the lower-case hex of the HMAC-SHA512 of the "
            "body's bytes under the server's SLAY_Q_SECRET",
        )

    @contextlib.asynccontextmanager
    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it came; a large one counts among those held until the block ends."""
        if (request.content_length or 0) > BODY_LIMIT:
            raise _too_large()
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._body_timeout):
                    async for chunk in request.content.iter_any():
                        self._grow(body, chunk)
            except TimeoutError:
                raise _Refused(408, f"the body did not come within {self._body_timeout:g} s") from None
            except (web.RequestPayloadError, ConnectionError):
                raise _Refused(400, "the body broke off") from None
            yield bytes(body)
        finally:
            if len(body) > _SMALL:
                self._large -= 1

    def _grow(self, body: bytearray, chunk: bytes) -> None:
        if len(body) + len(chunk) > BODY_LIMIT:
            raise _too_large()
        if len(body) <= _SMALL < len(body) + len(chunk):
            if self._large >= _MOST_LARGE:
                raise _Refused(503, "too many large bodies at once: try again", retry_after=_BUSY_RETRY)
            self._large += 1
        body += chunk


def _checked(task: Task, secrets: Sequence[str], body: bytes, signature: str) -> Call | None:
    """The call that a body makes; None if its signature is wrong. Raises InvalidBody."""
    return read_call(task, body) if verify_v1(secrets, body, signature) else None


def _failed(task: Task, error: SlayQServerError) -> _Refused:
    _log.error("rpc_failed", task=task, error=str(error))
    return _Refused(500, str(error))


def _too_large() -> _Refused:
    return _Refused(413, f"the body has more than {BODY_LIMIT} bytes: store large data elsewhere, and send a reference")


def _json(status: int, body: dict[str, str]) -> web.Response:
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type="application/json")
