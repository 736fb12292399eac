"""Exchanges without a task: whatever comes, they end once and at once, and a connection is kept only if it is clean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from slayq_server.engine.address_guard import AddressGuard, target_of
from slayq_server.engine.exchange import Exchange, PostFailed, Reply, send_now
from slayq_server.engine.plain_connection import Connection
from slayq_server.engine.plain_http import PlainClient
from slayq_server.model import CallbackResult
from tests.support.virtual import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "http://127.0.0.1:1/"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeTransport:
    """Remembers what is written."""

    def __init__(self) -> None:
        self.closing = False
        self.written: list[bytes] = []

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


class Rig:
    """A client with one idle connection, on which one exchange has begun."""

    def __init__(self) -> None:
        self.client = PlainClient({}, keep_alive=60, names_kept=60)
        self.connection = Connection(asyncio.get_running_loop(), ("127.0.0.1", 1))
        self.transport = FakeTransport()
        self.connection.connection_made(cast("Any", self.transport))
        self.connection.send(b"", 100)
        self.connection.data_received(OK)
        self.client.done(self.connection)
        self.told: list[Reply | PostFailed | None] = []
        self.exchange = self.begin(self.told.append)
        assert self.exchange is not None

    def begin(self, done: Callable[[Reply | PostFailed | None], None]) -> Exchange | None:
        guard = AddressGuard([URL])
        return send_now(self.client, target_of(URL), lambda: (b"{}", {}), guard, 65_536, 30.0, done)

    @property
    def keeps(self) -> bool:
        """Whether the connection is there for another one."""
        return self.client._idle_one(self.client._place(URL)) is not None


@pytest.mark.parametrize(
    ("answer", "status", "keeps"),
    [
        pytest.param(OK, 200, True, id="clean"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, True, id="100 first"),
        pytest.param(OK + b"garbage\r\n", 200, False, id="garbage after it"),
        pytest.param(OK + OK, 200, False, id="one too many"),
        pytest.param(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + b"X", 200, False, id="closed, and more"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 204, False, id="204 with a body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nfoo",
            200,
            False,
            id="after chunks",
        ),
    ],
)
def test_a_whole_answer_is_told_at_once_whatever_follows(answer: bytes, status: int, keeps: bool) -> None:
    """What comes after it costs the connection, and nothing else."""

    @in_virtual_time
    async def run() -> None:
        rig = Rig()
        rig.connection.data_received(answer)
        (reply,) = rig.told
        assert isinstance(reply, Reply)
        assert status == reply.status
        assert keeps == rig.keeps

    run()


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        pytest.param(b"SSH-2.0\r\n", CallbackResult.PROTOCOL_ERROR, id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, CallbackResult.TOO_LARGE, id="a head without an end"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, CallbackResult.TOO_LARGE, id="too many headers"),
    ],
)
def test_what_is_no_answer_is_told_at_once(answer: bytes, result: CallbackResult) -> None:
    """And the connection is not used again."""

    @in_virtual_time
    async def run() -> None:
        rig = Rig()
        rig.connection.data_received(answer)
        (failure,) = rig.told
        assert isinstance(failure, PostFailed)
        assert result == failure.result
        assert not rig.keeps

    run()


@in_virtual_time
async def test_the_next_request_may_go_out_from_within_the_last_answer() -> None:
    """On the same connection: the parser is done with it by then."""
    rig = Rig()
    statuses: list[int] = []

    def tell(reply: Reply | PostFailed | None) -> None:
        assert isinstance(reply, Reply)
        statuses.append(reply.status)
        if len(statuses) < 3:
            assert rig.begin(tell) is not None

    rig.connection.data_received(OK)
    assert rig.begin(tell) is not None
    for _ in range(3):
        rig.connection.data_received(OK)
    assert ([200] * 3, True) == (statuses, rig.keeps)


@in_virtual_time
async def test_time_runs_out_once() -> None:
    """An answer that comes later finds the connection closed."""
    rig = Rig()
    await asyncio.sleep(31)
    assert [None] == rig.told
    assert rig.transport.closing
    rig.connection.connection_lost(None)
    assert [None] == rig.told


@in_virtual_time
async def test_a_cancelled_exchange_tells_nobody() -> None:
    """A second time there is nothing to cancel."""
    rig = Rig()
    assert rig.exchange is not None
    assert rig.exchange.cancel()
    assert not rig.exchange.cancel()
    rig.connection.connection_lost(None)
    await asyncio.sleep(60)
    assert ([], True) == (rig.told, rig.transport.closing)


@in_virtual_time
async def test_a_connection_that_breaks_is_told() -> None:
    """Without an answer, or in the middle of one."""
    rig = Rig()
    rig.connection.connection_lost(ConnectionResetError(104, "reset"))
    (failure,) = rig.told
    assert isinstance(failure, PostFailed)
    assert CallbackResult.CONNECT_ERROR == failure.result
