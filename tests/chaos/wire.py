"""A TCP proxy on loopback that breaks as it is told: slow, silent, cut, cut in the middle, or before the answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 65536


@dataclass(frozen=True)
class Manner:
    """How a wire carries."""

    delay: float = 0.0
    """Seconds that each piece takes, either way."""
    hold: float = 0.0
    """Seconds that each piece to the target takes; it arrives even where its sender has gone meanwhile."""
    silent: bool = False
    """Nothing gets through, and nothing is closed."""
    refuses: bool = False
    """New connections are reset."""
    limit: int | None = None
    """Each connection is cut once so many bytes have come back."""
    swallows: Callable[[bytes], bool] | None = None
    """Asked of each piece to the target: whether the answer to it is to be swallowed, and the connection cut."""


@dataclass(eq=False)
class _Link:
    """One connection, both ends."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    returned: int = 0
    swallow: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                _reset(writer)
        self.ended.set()


class Wire:
    """Carries connections from `port` to a port of 127.0.0.1 in its `manner`, which may change at any time."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._manner = Manner()
        self._changed = asyncio.Condition()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.become(Manner())
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def become(self, manner: Manner) -> None:
        """Carries like this from now on, also what is open already and what was held up."""
        async with self._changed:
            self._manner = manner
            self._changed.notify_all()

    def cut(self) -> None:
        """Resets all connections that are open now."""
        for link in list(self._links):
            link.reset()
        self.cuts += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._carry(reader, link)
        except (OSError, RuntimeError, ExceptionGroup):  # an end is gone
            link.reset()
        except (
            asyncio.CancelledError
        ):  # only __aexit__ cancels, and asyncio's server does not expect its handlers to be
            pass
        finally:
            self._links.discard(link)
            self._tasks.discard(task)
            link.near.close()
            if link.far is not None:
                link.far.close()

    async def _carry(self, reader: asyncio.StreamReader, link: _Link) -> None:
        await self._passable(link)
        if self._manner.refuses or link.ended.is_set():
            _reset(link.near)
            return
        back, link.far = await asyncio.open_connection("127.0.0.1", self._target)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._there(reader, link))
            group.create_task(self._back(back, link))

    async def _passable(self, link: _Link) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._manner.silent or link.ended.is_set())

    async def _there(self, reader: asyncio.StreamReader, link: _Link) -> None:
        assert link.far is not None
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(PIECE):
                manner = self._manner
                await asyncio.sleep(max(manner.delay, manner.hold))
                await self._passable(link)
                if manner.swallows is not None and manner.swallows(data):
                    link.swallow = True
                link.far.write(data)
                await link.far.drain()
            await self._passable(link)
            link.far.write_eof()
            return
        link.reset()

    async def _back(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(PIECE):
                manner = self._manner
                if manner.delay:
                    await asyncio.sleep(manner.delay)
                await self._passable(link)
                if link.swallow:
                    self.cuts += 1
                    link.reset()
                    return
                if manner.limit is not None and link.returned + len(data) > manner.limit:
                    link.near.write(data[: max(0, manner.limit - link.returned)])
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await link.near.drain()
                    self.cuts += 1
                    link.near.close()
                    _reset(link.far)
                    return
                link.returned += len(data)
                link.near.write(data)
                await link.near.drain()
            await self._passable(link)
            link.near.write_eof()
            return
        link.reset()


def _reset(writer: asyncio.StreamWriter | None) -> None:
    """Closes a connection with a reset in place of a goodbye."""
    if writer is None:
        return
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
