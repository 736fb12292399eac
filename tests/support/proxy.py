"""A TCP proxy on loopback that a test can cut: whatever is on its way then is lost, and both sides see a reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Proxy:
    """Passes connections on to a port of 127.0.0.1; `port` is its own."""

    def __init__(self, target: int, *, allows: Callable[[bytes], int] = len) -> None:
        """`allows` is asked of each piece that comes back from the target: how many of its bytes may pass. If that is
        not all of them, the connection ends after those, without a reset for who reads them."""
        self._target = target
        self._allows = allows
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cuts all connections that are open now."""
        for writer in self._open:
            _reset(writer)
        self.cuts += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        both = {writer, onward}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, onward, len, both))
                group.create_task(self._pass_on(back, writer, self._allows, both))
        finally:
            self._open -= both
            for each in both:
                each.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        allows: Callable[[bytes], int],
        both: set[asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                allowed = allows(data)
                writer.write(data[:allowed])
                await writer.drain()
                if allowed < len(data):
                    self.cuts += 1
                    writer.close()
                    for each in both - {writer}:
                        _reset(each)
                    return
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection with a reset in place of a goodbye."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
