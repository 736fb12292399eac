"""What an adapter is given in place of a `SlayQ`: answers a first line, and the last one when the test lets it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slayq.drivers import Registered
from slayq.protocol_v2 import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

TIME_LIMIT = 20.0
FIRST = b'{"op":"hello"}\n'
LAST = b'{"op":"done"}\n'


@dataclass
class Reply:
    """As `SlayQ.receive` gives it."""

    status: int
    headers: dict[str, str]
    lines: Any


@dataclass
class Scripted:
    """A receiver that does as it is told."""

    status: int = 200
    failures: list[Exception] = field(default_factory=list)
    """What the next registrations raise."""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each request, in lower case."""
    registrations: int = 0
    closed: int = 0
    let_go: threading.Event = field(default_factory=threading.Event)
    """Set it, and the function ends."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the answer is over, whatever ended it."""
    finished: bool = False
    """Whether the function came to its end."""

    async def receive(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """One request."""
        self._note(headers, body)
        return Reply(self.status, {"content-type": CONTENT_TYPE, "x-of-slayq": "yes"}, self._lines())

    def receive_sync(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """One request."""
        self._note(headers, body)
        return Reply(self.status, {"content-type": CONTENT_TYPE, "x-of-slayq": "yes"}, self._lines_sync())

    async def register(self) -> Registered:
        """One registration."""
        self.registrations += 1
        if self.failures:
            raise self.failures.pop(0)
        return Registered(1, ("it invokes what nobody has",))

    async def close(self) -> None:
        """Closes nothing."""
        self.closed += 1

    def _note(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers.append({name.lower(): value for name, value in headers.items()})
        self.bodies.append(body)

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            yield FIRST
            async with asyncio.timeout(TIME_LIMIT):
                while not self.let_go.is_set():
                    await asyncio.sleep(0.01)
            self.finished = True
            yield LAST
        finally:
            self.ended.set()

    def _lines_sync(self) -> Iterator[bytes]:
        try:
            yield FIRST
            for _ in range(int(TIME_LIMIT / 0.02)):
                if self.let_go.wait(0.02):
                    break
                yield b"\n"  # as keep-alives do, by which WSGI finds out that nobody is there
            self.finished = True
            yield LAST
        finally:
            self.ended.set()
