"""Segments over real sockets: what goes out, how the answer is read, and what never goes out.

Every test runs on asyncio's own loop and on uvloop (see conftest.py).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slayq.errors import InvalidSecret
from slayq_server.engine.address_guard import AddressGuard, BlockedReason
from slayq_server.engine.segment import Segments
from slayq_server.errors import WorkerLost
from slayq_server.model import Answer, CallbackResult, Done, LeasedJob, Op, Run, Suspend
from tests.support.ops_app import CONTENT_TYPE, SECRET
from tests.support.raw_server import Conversation, RawServer, closed_port
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = 1_700_000_000.5
RUN = "5f6f9a0e-4c3e-4a59-9a0e-1f2d3c4b5a69"
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}; charset=utf-8\r\nConnection: close\r\n\r\n".encode()
HELLO = json.dumps({"op": "hello", "lease": f"{RUN}.3"}).encode() + b"\n"
DONE = b'{"op":"done","output":null}\n'


class FakeClock:
    """Stands still."""

    def monotonic(self) -> float:
        return 100.0

    def wall(self) -> float:
        return NOW


class Sink:
    """Takes ops; has room unless `full` is set."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.has_room = asyncio.Event()
        self.has_room.set()

    def put(self, ops: Iterable[Op]) -> None:
        self.names += [op.name for op in ops]

    async def room(self) -> None:
        await self.has_room.wait()


def job(url: str, **fields: Any) -> LeasedJob:
    run = Run(RUN, url, "2030-01-01T00:00:00Z", "[]", 0)
    payload = json.dumps({"url": "http://old.example/", "event": "a/b", "data": {"n": 1}})
    made = LeasedJob(1, 3, "mail", None, 2, 5, payload, None, None, 0.0, run)
    return replace(made, **fields)


class Sender:
    """Segments that may go to the given origins, started."""

    def __init__(self, *allow: str, **options: Any) -> None:
        self.blocked: list[str] = []
        self.sink = Sink()
        self.segments = Segments(
            [SECRET, "older"], AddressGuard(allow), FakeClock(), on_blocked=self.blocked.append, **options
        )

    async def __aenter__(self) -> Sender:
        await self.segments.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.segments.close()

    async def send(self, url: str, timeout: float = 20.0, **fields: Any) -> Answer:
        return await self.segments.deliver(job(url, **fields), self.sink, timeout=timeout, connect_timeout=5.0)


def step(name: str, size: int = 1) -> bytes:
    return f'{{"op":"step","name":"{name}","output":"{"x" * size}"}}\n'.encode()


async def test_what_goes_out() -> None:
    """The request's bytes, and every secret's signature in its headers."""
    async with RawServer(HEAD + HELLO + DONE) as server, Sender(server.origin) as sender:
        url = f"{server.origin}/slayq?x=1"
        assert Done("null") == (await sender.send(url, timeout=10.0)).terminal
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /slayq?x=1 HTTP/1.1\r\n")
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert (f"{RUN}.3".encode(), b"1700000000", b"2", b"application/json") == (
        headers[b"webhook-id"],
        headers[b"webhook-timestamp"],
        headers[b"x-slayq-protocol"],
        headers[b"Content-Type"],
    )
    assert 2 == len(headers[b"webhook-signature"].split(b" "))
    assert (
        f'{{"v":2,"audience":"{url}","lease":{{"token":"{RUN}.3","deadline":1700000010500}},'
        f'"run":{{"id":"{RUN}","event":"a/b","data":{{"n": 1}},"attempt":2,"max_attempts":5,'
        '"created_at":"2030-01-01T00:00:00Z"},"steps":[],"limits":{"line_bytes":1048576,"ops":1000}}'
    ) == body.decode()


async def test_a_function_that_is_registered_no_more() -> None:
    """Goes where it was when the run was made."""
    async with RawServer(HEAD + HELLO + DONE) as server, Sender(server.origin) as sender:
        leased = job("")
        assert leased.run is not None
        payload = json.dumps({"url": server.origin, "event": "a", "data": {}})
        answer = await sender.send("", run=replace(leased.run, url=None), payload=payload)
    assert Done("null") == answer.terminal


@pytest.mark.parametrize(
    ("allow", "reason"),
    [((), BlockedReason.LOOPBACK), (("https://elsewhere.example",), BlockedReason.LOOPBACK)],
)
async def test_the_address_guard(allow: tuple[str, ...], reason: BlockedReason) -> None:
    """A registered url need not be listed, but its addresses are judged all the same."""
    async with RawServer(HEAD + HELLO + DONE) as server, Sender(*allow) as sender:
        answer = await sender.send(server.origin)
        assert (CallbackResult.BLOCKED, [reason], 0) == (answer.result, sender.blocked, server.connections)
        answer = await sender.send("http://169.254.169.254/latest/meta-data/")
        assert (CallbackResult.BLOCKED, BlockedReason.METADATA) == (answer.result, sender.blocked[-1])
    guard = AddressGuard(["https://elsewhere.example"], deny=["https://denied.example"])
    assert "https://app.example" == guard.check_url("https://app.example/x", registered=True).origin
    for url, registered in (("https://app.example", False), ("https://denied.example", True)):
        with pytest.raises(Exception, match=r"to callbacks\.allow|in callbacks\.deny"):
            guard.check_url(url, registered=registered)


async def test_ops_are_handed_on_as_they_come() -> None:
    """While the app goes on talking."""
    go_on = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(HEAD + HELLO + step("a") + step("b")[:10])
        await go_on.wait()
        await conversation.say(step("b")[10:] + b'\n\n{"op":"suspend"}\n')

    async with RawServer(script) as server, Sender(server.origin) as sender, asyncio.TaskGroup() as group:
        task = group.create_task(sender.send(server.origin))
        await wait_until(lambda: sender.sink.names == ["a"])
        go_on.set()
        assert Suspend() == (await task).terminal
        assert ["a", "b"] == sender.sink.names


async def test_an_app_that_never_stops_is_not_read_faster_than_it_is_written_down() -> None:
    """What nobody takes stays with the sender; closing the delivery ends it."""
    said = 0

    async def script(conversation: Conversation) -> None:
        nonlocal said
        await conversation.request()
        await conversation.say(HEAD + HELLO)
        while True:
            await conversation.say(step(f"s{said}", 200_000))
            said += 1

    async with RawServer(script) as server, Sender(server.origin) as sender, asyncio.TaskGroup() as group:
        sender.sink.has_room.clear()
        # The time limit is for the app's silence, and not for Postgres's.
        task = group.create_task(sender.send(server.origin, timeout=0.3))
        await wait_until(lambda: sender.sink.names)
        await asyncio.sleep(0.5)  # longer than the limit; and as long as it takes to fill every buffer
        assert ([f"s{n}" for n in range(len(sender.sink.names))], False) == (sender.sink.names, task.done())
        assert len(sender.sink.names) < 10
        assert said < 60
        task.cancel()
        await wait_until(lambda: server.ended == 1, what="the connection being closed")


async def test_what_never_ends_is_bounded() -> None:
    """An endless line is left at its limit."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(HEAD + HELLO + step("a"))
        while True:
            await conversation.say(b"x" * 100_000)

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
        await wait_until(lambda: server.ended == 1)
    assert (CallbackResult.TOO_LARGE, ["a"]) == (answer.result, sender.sink.names)
    assert answer.error is not None
    assert "line 3 has more than 1048576 bytes" in answer.error


@pytest.mark.parametrize("ending", ["open", "reset"])
async def test_an_answer_is_over_with_its_terminal_op(ending: str) -> None:
    """However its connection ends, or whether it does."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(HEAD + HELLO + step("a") + DONE)
        if ending == "reset":
            conversation.reset()
        else:
            await conversation.gone()

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
        await wait_until(lambda: server.ended == 1)
    assert (Done("null"), ["a"]) == (answer.terminal, sender.sink.names)


async def test_what_comes_after_the_terminal_op_breaks_the_answer() -> None:
    """In the same bytes or later; what came before the fault is handed on."""
    for pieces in ([step("a") + DONE + step("b")], [step("a") + DONE, step("b")]):

        async def script(conversation: Conversation, pieces: list[bytes] = pieces) -> None:
            await conversation.request()
            await conversation.say(HEAD + HELLO)
            for piece in pieces:
                await conversation.say(piece)
                await asyncio.sleep(0.02)

        async with RawServer(script) as server, Sender(server.origin) as sender:
            answer = await sender.send(server.origin)
        assert (None, CallbackResult.PROTOCOL_ERROR, ["a"]) == (answer.terminal, answer.result, sender.sink.names)
        assert answer.error is not None
        assert "line 4 comes after the terminal op" in answer.error


async def test_an_app_that_is_not_there() -> None:
    """A refused connection is told so."""
    port = closed_port()
    async with Sender(f"http://127.0.0.1:{port}") as sender:
        answer = await sender.send(f"http://127.0.0.1:{port}/x")
    assert CallbackResult.CONNECT_ERROR is answer.result
    assert f"127.0.0.1:{port}: no connection (connection refused)" == answer.error


async def test_a_body_that_breaks_off() -> None:
    """Its length was promised."""
    promised = HEAD.replace(b"Connection: close", b"Content-Length: 1000")
    async with RawServer(promised + HELLO + step("a")) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
    assert (CallbackResult.CONNECT_ERROR, ["a"]) == (answer.result, sender.sink.names)
    assert answer.error is not None
    assert answer.error.endswith("the connection broke within the answer")


async def test_silence_before_the_answer() -> None:
    """The time limit is for that, too."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.gone()

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin, timeout=0.1)
    assert (CallbackResult.TIMEOUT, True) == (answer.result, (answer.error or "").endswith("no line came within 0.1 s"))


async def test_nothing_goes_out_without_trust() -> None:
    """The lease was lost while the connection was made."""
    async with (
        RawServer(HEAD + HELLO + DONE) as server,
        Sender(server.origin, may_send=lambda: False) as sender,
    ):
        with pytest.raises(WorkerLost):
            await sender.send(server.origin)
        assert [] == server.requests


async def test_a_run_that_makes_no_request() -> None:
    """Is told so, and not sent."""
    async with Sender("http://127.0.0.1:1") as sender:
        answer = await sender.send("http://127.0.0.1:1", payload="[]")
    assert (True, CallbackResult.PROTOCOL_ERROR) == (answer.undeliverable, answer.result)


async def test_a_retry_that_is_put_off() -> None:
    """503 with Retry-After, up to the limit."""
    answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    async with RawServer(answer) as server, Sender(server.origin, retry_after_max=5.0) as sender:
        told = await sender.send(server.origin)
    assert (CallbackResult.SERVER_ERROR, 503, 5.0) == (told.result, told.status, told.retry_after)


def test_a_secret_that_cannot_sign_is_told_at_once() -> None:
    """And not with each delivery."""
    with pytest.raises(InvalidSecret):
        Segments(["whsec_!"], AddressGuard(), FakeClock())
