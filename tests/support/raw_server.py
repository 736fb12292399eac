"""A server that speaks whatever bytes a test makes it speak: for answers that no HTTP library would give."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl


@dataclass(eq=False)
class Conversation:
    """One connection, with the requests read from it so far."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """Its place among the server's connections, from 1."""

    async def request(self) -> bytes:
        """Read one request to its end; return it whole. Raises IncompleteReadError once the caller is gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head + await self.reader.readexactly(length)

    async def say(self, text: bytes) -> None:
        """Send bytes; waits while the other side does not read."""
        self.writer.write(text)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the other side has closed the connection."""
        while await self.reader.read(65_536):
            pass

    def reset(self) -> None:
        """End the connection with an RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Conversation], Awaitable[None]]
"""What the server does with a connection; it is closed afterwards."""


class RawServer:
    """Listens on 127.0.0.1 and runs a script for each connection.

    async with RawServer(script) as server:
        ...  # server.origin, server.requests, server.connections
    """

    def __init__(
        self, script: Script | bytes, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """A script of bytes reads one request, says them, and closes. `port` 0 is any that is free."""
        self._script = script if not isinstance(script, bytes) else None
        self._answer = script if isinstance(script, bytes) else b""
        self._tls = tls
        self._host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port
        self.connections = 0
        self.ended = 0
        """Connections that the other side has closed, or the script is done with."""
        self.requests: list[bytes] = []
        """Those that scripts of bytes have read."""

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._converse(Conversation(reader, writer, self.connections)))
        self._tasks.add(task)

    async def _converse(self, conversation: Conversation) -> None:
        try:
            if self._script is not None:
                await self._script(conversation)
            else:
                self.requests.append(await conversation.request())
                await conversation.say(self._answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side went: what many tests are about
        finally:
            self.ended += 1
            conversation.writer.close()


def closed_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
