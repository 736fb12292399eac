"""RPC over HTTP (protocol v1): `POST /{task}` with a JSON body, signed in `X-SlayQ-Signature` over its raw bytes."""

from __future__ import annotations

import functools
import json
from logging import INFO, WARNING
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from slayq.protocol import SIGNATURE_HEADER, Task
from slayq.signing import verify_v1
from slayq_server.http.signed import Bodies, Refused, beside_the_loop, carried_out
from slayq_server.protocol.rpc_v1 import InvalidBody, read_call
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from slayq_server.errors import DatabaseUnavailable
    from slayq_server.metrics import Metrics
    from slayq_server.protocol.rpc_v1 import Call


class Rpc:
    """The six tasks. `routes` are for an HttpServer to mount."""

    def __init__(
        self,
        carry_out: Callable[[Call], Awaitable[None]],
        secrets: Sequence[str],
        metrics: Metrics,
        *,
        bodies: Bodies,
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            carry_out: does what a call says; raises the server's errors.
            secrets: a body may be signed with any of them.
            metrics: counts requests, and those refused for their signature.
            bodies: reads them.
            on_error: called when the database is away or refuses a statement.
        """
        self._carry_out = carry_out
        self._secrets = tuple(secrets)
        self._metrics = metrics
        self._bodies = bodies
        self._on_error = on_error
        self._repeats = Repeats()

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
        except Refused as refused:
            reason = refused.reason if refused.hint is None else f"{refused.reason}. {refused.hint}"
            answer = _json(refused.status, {"status": "error", "error": reason})
            if refused.retry_after is not None:
                answer.headers[hdrs.RETRY_AFTER] = str(refused.retry_after)
        self._metrics.rpc_request(task, answer.status)
        return answer

    async def _handle(self, task: Task, request: web.Request) -> None:
        signature = request.headers.get(SIGNATURE_HEADER)
        if signature is None:
            raise self._unauthorized(task, "missing")
        async with self._bodies.read(request) as body:
            try:
                call = await beside_the_loop(body, functools.partial(_checked, task, self._secrets, body, signature))
            except InvalidBody as error:
                self._repeats.log(INFO, "rpc_refused", kind=task, task=task, reason=str(error))
                raise Refused(400, "body", str(error)) from None
            if call is None:
                raise self._unauthorized(task, "invalid")
            await carried_out(task, self._carry_out(call), self._on_error, self._repeats)

    def _unauthorized(self, task: Task, reason: str) -> Refused:
        self._metrics.auth_failure("rpc", reason)
        self._repeats.log(WARNING, "rpc_unauthorized", kind=f"{task} {reason}", task=task, reason=reason)
        problem = "is missing" if reason == "missing" else "does not fit the body"
        return Refused(
            401,
            "signature",
            f"the signature {problem}: send, as {SIGNATURE_HEADER}, the lower-case hex of the HMAC-SHA512 of the "
            "body's bytes under the server's SLAY_Q_SECRET",
        )


def _checked(task: Task, secrets: Sequence[str], body: bytes, signature: str) -> Call | None:
    """The call that a body makes; None if its signature is wrong. Raises InvalidBody."""
    return read_call(task, body) if verify_v1(secrets, body, signature) else None


def _json(status: int, body: dict[str, str]) -> web.Response:
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type="application/json")
