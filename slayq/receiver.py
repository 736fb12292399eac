"""Receives what the server posts: checks it, finds the function, and answers with what comes of the run's segment.

Whatever is refused is refused before anything of the app runs, with a status and a JSON body that says why:

    401  no signature, a wrong one, one from another time, or a request that is meant for another URL
    400  signed, but no request of protocol v2
    404  there is no function for the event
    413  larger than any request can be
    500  there is no usable secret
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from slayq.background import background
from slayq.errors import BadRequest, InvalidSecret, InvalidSignature, StaleTimestamp
from slayq.protocol import CONTENT_TYPE as JSON_TYPE
from slayq.protocol_v2 import (
    CONTENT_TYPE,
    KEEP_ALIVE_SECONDS,
    PROTOCOL_HEADER,
    REQUEST_BYTES,
    VERSION,
    keep_alive_of,
    parse_request,
)
from slayq.segment.runner import Runner
from slayq.signing import verify_v2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slayq.protocol_v2 import Segment
    from slayq.segment.journal import Journal
    from slayq.segment.runner import Runnable

logger = logging.getLogger("slayq")


class Lines(AsyncIterator[bytes]):
    """The body of an answer, piece by piece. `aclose` gives up what is not read yet."""

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """May be called at any time, more than once, and while another task waits for the next piece."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. Closing `lines` cancels the function, if it still runs."""

    status: int
    headers: dict[str, str]
    lines: Lines


class SyncLines(Iterator[bytes]):
    """`Lines` for code that is not async. `close` gives up what is not read yet."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __next__(self) -> bytes:
        line = background.run(_next(self._lines))
        if line is None:
            raise StopIteration
        return line

    def close(self) -> None:
        """May be called more than once."""
        background.run(self._lines.aclose())


async def _next(lines: Lines) -> bytes | None:
    return await anext(lines, None)


@dataclass(frozen=True, slots=True)
class SyncReply:
    """As `Reply`, for code that is not async."""

    status: int
    headers: dict[str, str]
    lines: SyncLines


class Receiver:
    """Answers requests for the functions of one app."""

    def __init__(
        self,
        functions: Mapping[str, Runnable],
        secrets: Callable[[], Sequence[str]],
        *,
        url: str | None = None,
        time_multiplier: float = 1.0,
        clock: Callable[[], float] = time.time,
        keep_alive: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        """`functions` by event, as they are at each request; `clock` is in seconds since 1970; `keep_alive`: how many
        seconds an answer may be silent where the server would wait for longer than three times that."""
        self._functions = functions
        self._secrets = secrets
        self._url = url
        self._time_multiplier = time_multiplier
        self._clock = clock
        self._keep_alive = keep_alive

    def receive(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """The answer to a request. The function starts when the first line is asked for."""
        try:
            function, segment, keep_alive = self._checked(headers, body)
        except _Refused as refused:
            return refused.reply()
        lines = OpStream(lambda: Runner(function, segment, time_multiplier=self._time_multiplier), keep_alive)
        return Reply(200, {"content-type": CONTENT_TYPE, "cache-control": "no-store", "x-accel-buffering": "no"}, lines)

    def _checked(self, headers: Mapping[str, str], body: bytes) -> tuple[Runnable, Segment, float]:
        if len(body) > REQUEST_BYTES:
            raise _Refused(413, "size", f"the request has more than {REQUEST_BYTES:,} bytes")
        try:
            signed_at = verify_v2(self._secrets(), headers, body, now=self._clock())
            segment = parse_request(body)
        except InvalidSignature as error:
            raise _Refused(401, "signature", str(error)) from None
        except StaleTimestamp as error:
            raise _Refused(401, "timestamp", str(error)) from None
        except InvalidSecret as error:
            logger.exception("request_cannot_be_verified")
            raise _Refused(500, "secret", str(error)) from None
        except BadRequest as error:
            raise _Refused(400, "request", str(error)) from None
        self._check_addressee(headers, segment)
        function = self._functions.get(segment.run.event)
        if function is None:
            raise _Refused(404, "function", f"this app has no function for the event {segment.run.event!r:.200}")
        return function, segment, keep_alive_of(segment, signed_at, self._keep_alive)

    def _check_addressee(self, headers: Mapping[str, str], segment: Segment) -> None:
        version = next((value for name, value in headers.items() if name.lower() == PROTOCOL_HEADER), str(VERSION))
        if version.strip() != str(VERSION):
            raise _Refused(400, "request", f"the header {PROTOCOL_HEADER} is not {VERSION}")
        if self._url is not None and segment.audience.rstrip("/") != self._url.rstrip("/"):
            raise _Refused(
                401,
                "audience",
                f"the request is meant for {segment.audience!r:.200}, and this app is SlayQ(url={self._url!r:.200}):"
                f" let the app have the URL that it registers",
            )


class _Refused(Exception):
    """A request that is answered without running anything."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self._status = status
        self._code = code
        self._message = message

    def reply(self) -> Reply:
        body = json.dumps({"error": {"code": self._code, "message": self._message}}).encode("ascii")
        headers = {"content-type": JSON_TYPE, "content-length": str(len(body))}
        return Reply(self._status, headers, _Once(body))


class _Once(Lines):
    """A body that is there as a whole."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __anext__(self) -> bytes:
        body, self._body = self._body, None
        if body is None:
            raise StopAsyncIteration
        return body

    async def aclose(self) -> None:
        self._body = None


_CLOSE_SECONDS: Final = 10.0
"""How long closing waits for a function that was cancelled."""


class OpStream(Lines):
    """The ops of one segment, as lines. An empty line comes whenever there was none for `keep_alive` seconds."""

    def __init__(self, start: Callable[[], Runner], keep_alive: float = KEEP_ALIVE_SECONDS) -> None:
        """`start` is called once the first line is asked for."""
        self._start = start
        self._keep_alive = keep_alive
        self._journal: Journal | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._journal is None:
            runner = self._start()
            self._journal = runner.journal
            self._task = asyncio.get_running_loop().create_task(runner.take(), name="slayq segment")
            self._task.add_done_callback(_log_fault)
        try:
            # Not `wait_for`, which in Python 3.11 may return a line in place of being cancelled.
            async with asyncio.timeout(self._keep_alive):
                line = await self._journal.next_line()
        except TimeoutError:
            return b"\n"
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if line is None:
            self._ended = True
            raise StopAsyncIteration
        return line

    async def aclose(self) -> None:
        """Cancel the function, if it still runs, and wait until it has ended."""
        self._ended = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)

    def __del__(self) -> None:
        # Dropped without a close: nobody will read the rest.
        if self._task is not None and not self._task.done():
            loop = self._task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._task.cancel)


def _log_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("segment_failed", exc_info=task.exception())
