"""One connection of `plain_http`: an asyncio protocol around httptools' parser, and the exchange on it.

Invariants:

- A connection has one exchange at a time. It may be used again only if the answer came to its end, allows it, and
  nothing came after it.
- What is held of an answer is bounded: its head, its body up to the limit, or, of a stream, what has not been read yet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD_LIMIT: Final = 64 * 1024
"""Bytes of an answer's head, informational ones before it included."""
_HEADER_LIMIT: Final = 8190
"""Bytes of one header."""
_HEADERS_LIMIT: Final = 128
_BUFFERED: Final = 128 * 1024
"""Bytes of a stream that may wait to be read before the sender has to wait."""
_SWITCHING: Final = 101


class Broken(Exception):
    """There is no answer, or no whole one. `cause` is the socket's error, if there was one."""

    def __init__(self, why: str, cause: Exception | None = None) -> None:
        super().__init__(why)
        self.why = why
        """closed: without an answer; within: in the middle of it; invalid: no HTTP; head: too long a head."""
        self.cause = cause


class Connection(asyncio.Protocol):
    """One connection, and the exchange on it."""

    __slots__ = (
        "_buffer",
        "_complete",
        "_fed",
        "_headers",
        "_informational",
        "_limit",
        "_loop",
        "_overlong",
        "_parser",
        "_paused",
        "_reusable",
        "_streaming",
        "_surplus",
        "_until_eof",
        "_waiter",
        "answered",
        "failure",
        "idle_since",
        "key",
        "on_end",
        "peer",
        "status",
        "transport",
        "truncated",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, key: tuple[str, int]) -> None:
        self._loop = loop
        self.key = key
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.idle_since = 0.0
        self._parser: Any = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self.on_end: Callable[[], None] | None = None
        """Called once when the answer is there, as far as it is kept, or `failure` is: for who does not wait."""
        self._begin(0, streaming=False)
        self._complete = True  # nothing is asked for yet

    def _begin(self, limit: int, *, streaming: bool) -> None:
        self.status = 0
        self.answered = False
        """The head of the answer is there."""
        self.truncated = False
        self._limit = limit
        self._streaming = streaming
        self._buffer = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._fed = 0
        self._overlong = False
        self._complete = False
        self._informational = False
        self._until_eof = False
        self._reusable = False
        self._surplus = False
        self._paused = False
        self.failure: Broken | None = None
        """Why there will be no answer, or no whole one."""

    # The exchange

    def send(self, request: bytes, limit: int, *, streaming: bool = False) -> None:
        """Sends a request. Of the answer's body `limit` bytes are kept; a stream's is read piece by piece."""
        assert self.transport is not None
        self._begin(limit, streaming=streaming)
        self.transport.write(request)

    async def whole(self) -> bytes:
        """The answer's body, as far as it is kept. Raises Broken."""
        while not (self._complete or self.truncated):
            await self._progress()
        return self.body

    @property
    def body(self) -> bytes:
        """What is there of the answer's body, as far as it is kept."""
        return bytes(self._buffer[: self._limit])

    async def head(self) -> None:
        """Returns when the answer's head is there. Raises Broken."""
        while not self.answered:
            await self._progress()

    async def read(self) -> bytes:
        """What has come of the body since; empty at its end. Raises Broken, after all that came before."""
        while not self._buffer:
            if self._complete:
                return b""
            await self._progress()
        piece = bytes(self._buffer)
        self._buffer.clear()
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return piece

    def header(self, name: bytes) -> str | None:
        """The first header of that name, which is in lower case."""
        for given, value in self._headers:
            if given == name:
                return value.decode("latin-1").strip()
        return None

    @property
    def reusable(self) -> bool:
        """Whether another request may go out on it."""
        return (
            self._complete
            and self._reusable
            and not self._surplus
            and self.transport is not None
            and not self.transport.is_closing()
        )

    def abort(self) -> None:
        """Closes it at once, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    async def _progress(self) -> None:
        """Waits until something has happened. Raises what has gone wrong."""
        if self.failure is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        else:
            raise self.failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str, cause: Exception | None = None) -> None:
        if self.failure is None and not self._complete:
            self.failure = Broken(why, cause)
            self._wake()
        self.abort()  # first, so that nobody takes it for reusable
        self._tell_end()  # also where the answer was whole, and what is wrong came after it

    def _tell_end(self) -> None:
        tell = self.on_end
        if tell is not None and (self._complete or self.truncated or self.failure is not None):
            self.on_end = None
            tell()

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = transport  # type: ignore[assignment]
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if name else ""

    def data_received(self, data: bytes) -> None:
        """Something came."""
        if self._complete:
            self._surplus = True
            self.abort()
            return
        if not self.answered:
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("invalid")
            return
        if self._overlong or len(self._headers) > _HEADERS_LIMIT or (not self.answered and self._fed > _HEAD_LIMIT):
            self._fail("head")
        else:
            self._tell_end()  # not from within the parser: the next request may go out at once

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._complete:
            return
        if self.answered and self._until_eof and exc is None:
            self._complete = True
            self._wake()
            self._tell_end()
        else:
            self._fail("within" if self.answered else "closed", exc)

    # What the parser says

    def on_message_begin(self) -> None:
        """An answer begins: the one that was asked for, or one too many."""
        if self._complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if not self._surplus:
            self._headers.append((name.lower(), value))
            self._overlong |= len(name) + len(value) > _HEADER_LIMIT

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._surplus:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != _SWITCHING:
            self._informational = True
            return
        self.status = status
        if self._overlong or len(self._headers) > _HEADERS_LIMIT:
            return
        self.answered = True
        names = {name for name, _ in self._headers}
        self._until_eof = b"content-length" not in names and b"transfer-encoding" not in names
        if self._streaming:
            self._wake()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._surplus:
            return
        self._buffer += body
        if self._streaming:
            if len(self._buffer) > _BUFFERED and not self._paused and self.transport is not None:
                self._paused = True
                self.transport.pause_reading()
            self._wake()
        elif len(self._buffer) > self._limit and not self.truncated:
            self.truncated = True
            self._wake()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._surplus:
            return
        if self._informational:
            self._informational = False
            self._headers = []
            return
        self._complete = True
        self._reusable = self._parser.should_keep_alive()
        self._wake()
