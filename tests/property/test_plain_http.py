"""What an endpoint may answer to the plain HTTP client: any bytes in any pieces, and which connections are kept."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slayq_server.engine.plain_connection import Broken, Connection

LIMIT = 64
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
INFORMED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PLAIN
UNTIL_EOF = b"HTTP/1.1 200 OK\r\n\r\nhello"
ANSWERS = [PLAIN, CHUNKED, INFORMED, UNTIL_EOF, b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello"]


class Transport(asyncio.Transport):
    """Takes note of what the connection does with it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.closed = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def asked(*, streaming: bool = False) -> tuple[Connection, Transport]:
    """A connection on which a request went out."""
    connection, transport = Connection(asyncio.get_running_loop(), ("localhost", 80)), Transport()
    connection.connection_made(transport)
    connection.send(b"POST", LIMIT, streaming=streaming)
    return connection, transport


async def outcome(pieces: list[bytes], *, ends: bool = True, streaming: bool = False) -> tuple[Any, ...]:
    """What an answer in these pieces comes to, and whether the connection may be used again."""
    connection, transport = asked(streaming=streaming)
    for piece in pieces:
        if transport.closed:
            break
        connection.data_received(piece)
    reusable = connection.reusable
    if ends:
        connection.connection_lost(None)
    try:
        if streaming:
            await connection.head()
            body = b""
            while piece := await connection.read():
                body += piece
        else:
            body = await connection.whole()
    except Broken as broken:
        return broken.why, reusable
    return connection.status, body, connection.truncated, reusable


def cut(answer: bytes, places: list[int]) -> list[bytes]:
    """The answer in pieces."""
    edges = sorted({0, len(answer), *(place % (len(answer) + 1) for place in places)})
    return [answer[begin:end] for begin, end in pairwise(edges)]


@pytest.mark.parametrize("streaming", [False, True])
@given(answer=st.sampled_from(ANSWERS), places=st.lists(st.integers(0, 400), max_size=12))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_however_it_is_cut(streaming: bool, answer: bytes, places: list[int]) -> None:
    """The same answer comes out of any pieces."""

    async def run() -> None:
        whole = await outcome([answer], streaming=streaming)
        assert whole == await outcome(cut(answer, places), streaming=streaming)
        assert whole[0] in (200, 204)

    asyncio.run(run())


@given(
    answer=st.one_of(st.binary(max_size=300), st.sampled_from(ANSWERS)),
    places=st.lists(st.integers(0, 400), max_size=6),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    streaming=st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=500)
def test_any_bytes(answer: bytes, places: list[int], changes: list[tuple[int, int]], streaming: bool) -> None:
    """An answer or Broken comes of it, nothing else, and nothing waits for ever."""
    mutated = bytearray(answer)
    for place, value in changes:
        if mutated:
            mutated[place % len(mutated)] = value

    async def run() -> None:
        async with asyncio.timeout(10):
            found = await outcome(cut(bytes(mutated), places), streaming=streaming)
        assert found[0] in ("closed", "within", "invalid", "head") or 100 <= found[0] <= 999
        if len(found) > 2 and not streaming:
            assert len(found[1]) <= LIMIT

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (PLAIN, True),
        (CHUNKED, True),
        (INFORMED, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (PLAIN + b"HTTP/1.1 200 OK\r\n", False),
        (PLAIN + PLAIN, False),
        (UNTIL_EOF, False),
        (PLAIN[:-1], False),
    ],
)
async def test_which_connections_are_used_again(answer: bytes, reusable: bool) -> None:
    """Only those whose answer came to its end, with nothing after it, and that both sides keep."""
    connection, transport = asked()
    connection.data_received(answer)
    assert reusable == connection.reusable
    if reusable:
        connection.data_received(b"x")
        assert transport.closed, "nothing was asked for"


async def test_a_head_is_bounded() -> None:
    """One header, all of them, and their number."""
    for head in (
        b"X: " + b"a" * 9000,
        b"\r\n".join(b"X%d: %s" % (number, b"a" * 7000) for number in range(12)),
        b"\r\n".join(b"X%d: a" % number for number in range(200)),
        b"X: a\r\n" * 20_000,
    ):
        assert "head" == (await outcome([b"HTTP/1.1 200 OK\r\n", head, b"\r\n\r\n"]))[0]


async def test_endless_informational_answers() -> None:
    """They are no way round the bound."""
    assert "head" == (await outcome([b"HTTP/1.1 100 Continue\r\n\r\n"] * 5000))[0]


async def test_a_stream_that_nobody_reads_is_held_back() -> None:
    """Reading from the socket stops at a bound, and goes on once the stream is read."""
    connection, transport = asked(streaming=True)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(100):
        if transport.paused:
            break
        connection.data_received(b"a" * 10_000)
    assert transport.paused
    assert 100_000 < len(await connection.read()) < 200_000
    assert not transport.paused


async def test_an_answer_over_the_limit() -> None:
    """The beginning is kept, the rest is not waited for."""
    connection, _ = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"a" * 100)
    assert b"a" * LIMIT == await connection.whole()
    assert connection.truncated
    assert not connection.reusable
