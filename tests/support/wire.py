"""A wire to Postgres that can fall silent: a small proxy between a daemon and its server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Wire:
    """Relays connections to the server of `url`, from a port of its own, until it is silenced.

    async with Wire(database_url) as wire:
        pool = Pool(wire.url)
        wire.silence()  # from now on nothing gets through, either way, and nothing is closed: a half-open connection
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port or 5432
        self._parts = parts
        self._open = asyncio.Event()
        self._open.set()
        self._welcome = asyncio.Event()
        self._welcome.set()
        self._marks: tuple[bytes, ...] = ()
        self.fell_silent = asyncio.Event()
        """Set once it is silenced."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._ends: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        """The database's URL by way of this wire."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        login = self._parts.netloc.rpartition("@")[0]
        place = f"127.0.0.1:{port}"
        return urlunsplit(self._parts._replace(netloc=f"{login}@{place}" if login else place))

    def silence(self) -> None:
        """Lets nothing through; new connections are taken and never answered."""
        self._open.clear()
        self.fell_silent.set()

    def keep_out(self) -> None:
        """New connections are taken and never answered; those that there are go on."""
        self._welcome.clear()

    def silence_at(self, *marks: bytes) -> None:
        """Falls silent at the first data that have any of these in them: they do not get through."""
        self._marks = marks

    def restore(self) -> None:
        """Lets everything through again, what was held back included."""
        self._open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._ends.append(writer)
        # Only __aexit__ cancels, and asyncio's server does not expect its handlers to be.
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._welcome.wait()
        await self._open.wait()
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._ends.append(far_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay(reader, far_writer))
            group.create_task(self._relay(far_reader, writer))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if any(mark in data for mark in self._marks):
                    self.silence()
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # one end is gone: so is the other
        writer.close()
