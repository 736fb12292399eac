"""What signed requests have in common, those of protocol v1 (`rpc`) and of v2 (`api`).

Nothing of a body is looked at before its signature has been checked, and what a stranger can hold is bounded: the size
of a body, the time it may take to come, and how many large ones are held at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from logging import ERROR, INFO
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import web

from slayq_server.errors import DatabaseUnavailable, RequestRefused, SlayQServerError, StatementFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from slayq_server.repeats import Repeats

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

_T = TypeVar("_T")


class Refused(Exception):
    """Why a request is not carried out.

    `status` is HTTP's; `code` a word for programs, or a SQLSTATE; `reason` for people; `hint` what to do, where the
    reason does not say that; `retry_after` when to try again, in seconds.
    """

    def __init__(
        self, status: int, code: str, reason: str, *, hint: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason
        self.hint = hint
        self.retry_after = retry_after


class Bodies:
    """Reads bodies within limits that hold for all of them together."""

    def __init__(self, timeout: float = BODY_TIMEOUT) -> None:
        """A whole body must have come within `timeout` seconds."""
        self._timeout = timeout
        self._large = 0

    @contextlib.asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it came; a large one counts among those held until the block ends. Raises Refused."""
        if (request.content_length or 0) > BODY_LIMIT:
            raise _too_large()
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    async for chunk in request.content.iter_any():
                        self._grow(body, chunk)
            except TimeoutError:
                raise Refused(408, "timeout", f"the body did not come within {self._timeout:g} s") from None
            except (web.RequestPayloadError, ConnectionError):
                raise Refused(400, "body", "the body broke off") from None
            yield bytes(body)
        finally:
            if len(body) > _SMALL:
                self._large -= 1

    def _grow(self, body: bytearray, chunk: bytes) -> None:
        if len(body) + len(chunk) > BODY_LIMIT:
            raise _too_large()
        if len(body) <= _SMALL < len(body) + len(chunk):
            if self._large >= _MOST_LARGE:
                raise Refused(503, "busy", "too many large bodies at once: try again", retry_after=_BUSY_RETRY)
            self._large += 1
        body += chunk


async def beside_the_loop(body: bytes, check: Callable[[], _T]) -> _T:
    """Calls `check`, in a thread if the body that it looks at is a large one."""
    return await asyncio.to_thread(check) if len(body) > _SMALL else check()


async def carried_out(
    task: str, call: Awaitable[_T], on_error: Callable[[DatabaseUnavailable], None], repeats: Repeats
) -> _T:
    """What comes of a call; raises Refused for each of the server's errors."""
    try:
        return await call
    except RequestRefused as error:
        repeats.log(INFO, "rpc_refused", kind=f"{task} {error.sqlstate}", task=task, sqlstate=error.sqlstate)
        raise Refused(400, error.sqlstate, error.reason, hint=error.hint) from error
    except StatementFailed as error:
        on_error(error)
        raise _failed(task, error, repeats) from error
    except DatabaseUnavailable as error:
        on_error(error)
        repeats.log(INFO, "rpc_unavailable", kind=task, task=task, error=str(error))
        raise Refused(503, "unavailable", f"{error}: try again", retry_after=_AWAY_RETRY) from error
    except SlayQServerError as error:  # no schema, or no right to it
        raise _failed(task, error, repeats) from error


def _failed(task: str, error: SlayQServerError, repeats: Repeats) -> Refused:
    repeats.log(ERROR, "rpc_failed", kind=f"{task} {type(error).__name__}", task=task, error=str(error))
    return Refused(500, "failed", str(error))


def _too_large() -> Refused:
    return Refused(
        413,
        "too_large",
        f"the body has more than {BODY_LIMIT} bytes: store large data elsewhere, and send a reference",
    )
