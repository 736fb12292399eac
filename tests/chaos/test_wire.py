"""The wire that breaks: it breaks as it is told, and carries again when it is told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.chaos.wire import Manner, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = 10.0


class Far:
    """Answers each line with the same in capitals, and knows what it has heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line.upper())
                await writer.drain()
        except OSError:
            pass
        finally:
            self.ended.set()
            writer.close()


@pytest_asyncio.fixture
async def far() -> AsyncIterator[tuple[Far, Wire]]:
    """The far end, and the wire to it."""
    end = Far()
    server = await asyncio.start_server(end.serve, "127.0.0.1", 0)
    async with Wire(server.sockets[0].getsockname()[1]) as wire:
        yield end, wire
        for writer in near_ends:
            writer.transport.abort()
        near_ends.clear()
    server.close()


near_ends: list[asyncio.StreamWriter] = []


async def connected(wire: Wire) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection through it; the fixture closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    near_ends.append(writer)
    return reader, writer


async def said(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    """What comes back."""
    reader, writer = pair
    async with asyncio.timeout(LIMIT):
        writer.write(line)
        return await reader.readline()


async def ends(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    """What still comes until the connection is over, however that ends."""
    data = b""
    async with asyncio.timeout(LIMIT):
        try:
            while piece := await pair[0].read(100):
                data += piece
        except ConnectionError:
            pass
    return data


async def test_it_carries(far: tuple[Far, Wire]) -> None:
    """Both ways."""
    assert b"A\n" == await said(await connected(far[1]), b"a\n")


async def test_cut(far: tuple[Far, Wire]) -> None:
    """Both ends see it; a new connection works."""
    end, wire = far
    pair = await connected(wire)
    await said(pair, b"a\n")
    wire.cut()
    assert b"" == await ends(pair)
    async with asyncio.timeout(LIMIT):
        await end.ended.wait()
    assert b"B\n" == await said(await connected(wire), b"b\n")


async def test_silent(far: tuple[Far, Wire]) -> None:
    """Nothing gets through, also on a new connection; then all of it does."""
    end, wire = far
    pair = await connected(wire)
    await said(pair, b"a\n")
    await wire.become(Manner(silent=True))
    other = await connected(wire)
    pair[1].write(b"b\n")
    other[1].write(b"c\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await pair[0].readline()
    assert [b"a\n"] == end.heard
    await wire.become(Manner())
    async with asyncio.timeout(LIMIT):
        assert [b"B\n", b"C\n"] == [await pair[0].readline(), await other[0].readline()]


async def test_hold(far: tuple[Far, Wire]) -> None:
    """What was sent arrives although its sender has gone."""
    end, wire = far
    await wire.become(Manner(hold=0.1))
    _, writer = await connected(wire)
    writer.write(b"a\n")
    writer.close()
    async with asyncio.timeout(LIMIT):
        await end.ended.wait()
    assert [b"a\n"] == end.heard


async def test_limit(far: tuple[Far, Wire]) -> None:
    """The connection ends after so many bytes."""
    await far[1].become(Manner(limit=3))
    pair = await connected(far[1])
    pair[1].write(b"abcdef\n")
    assert b"ABC" == await ends(pair)


async def test_swallow(far: tuple[Far, Wire]) -> None:
    """What is asked is carried out, and the answer is lost."""
    end, wire = far
    await wire.become(Manner(swallows=lambda data: b"commit" in data))
    pair = await connected(wire)
    assert b"A\n" == await said(pair, b"a\n")
    pair[1].write(b"commit\n")
    assert b"" == await ends(pair)
    assert [b"a\n", b"commit\n"] == end.heard


async def test_refuse(far: tuple[Far, Wire]) -> None:
    """New connections end at once."""
    end, wire = far
    await wire.become(Manner(refuses=True))
    assert b"" == await ends(await connected(wire))
    assert [] == end.heard
