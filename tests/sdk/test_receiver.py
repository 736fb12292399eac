"""Receiving: what is let in, what is refused before anything runs, and the way for code that is not async."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from slayq import SlayQ, Step, SyncStep
from slayq.errors import BadRequest
from slayq.protocol_v2 import CONTENT_TYPE, REQUEST_BYTES, keep_alive_of, parse_request
from slayq.receiver import Receiver
from slayq.signing import v2_headers
from tests.support.segments import RUN, done, request

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq import Reply

NOW = 1_700_000_000.0
ran: list[str] = []


@pytest.fixture
def sq() -> SlayQ:
    ran.clear()
    sq = SlayQ(url="https://app.test/slayq/", secret=["new", "old"])
    sq.receiver = Receiver(sq.functions, lambda: sq.secrets, url=sq.url, clock=lambda: NOW)

    @sq.function(event="test/event")
    async def function(step: Step) -> str:
        ran.append("async")
        return str(step.run_id)

    @sq.function(event="test/plain")
    def plain(step: SyncStep) -> str:
        ran.append("plain")
        return threading.current_thread().name

    return sq


def signed(body: bytes, secret: str = "old", now: float = NOW) -> dict[str, str]:
    headers = v2_headers([secret], body, message_id="run.1", now=now)
    return {name.title(): value for name, value in headers.items()} | {"X-SlayQ-Protocol": "2"}


def encoded(**members: Any) -> bytes:
    return json.dumps(request() | members).encode()


async def body_of(reply: Reply) -> bytes:
    return b"".join([line async for line in reply.lines])


async def test_a_good_request(sq: SlayQ) -> None:
    """It is answered with hello, the ops, and a terminal op, under the content type of the protocol."""
    body = encoded()
    reply = await sq.receive(signed(body), body)
    lines = [json.loads(line) for line in (await body_of(reply)).splitlines()]
    assert (200, CONTENT_TYPE) == (reply.status, reply.headers["content-type"])
    assert ("hello", "token-1") == (lines[0]["op"], lines[0]["lease"])
    assert {"op": "done", "output": RUN} == lines[-1]


BODY = encoded()


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, BODY, 401, "signature"),
        (signed(BODY, "other"), BODY, 401, "signature"),
        (signed(BODY), BODY + b" ", 401, "signature"),
        (signed(BODY, now=NOW - 301), BODY, 401, "timestamp"),
        (signed(BODY, now=NOW + 301), BODY, 401, "timestamp"),
        (signed(b"no json"), b"no json", 400, "request"),
        (signed(b"[]"), b"[]", 400, "request"),
        (signed(BODY) | {"X-SlayQ-Protocol": "3"}, BODY, 400, "request"),
        *[
            (signed(encoded(**change)), encoded(**change), status, code)
            for change, status, code in [
                ({"v": 1}, 400, "request"),
                ({"lease": None}, 400, "request"),
                ({"steps": [{}]}, 400, "request"),
                ({"run": request()["run"] | {"data": []}}, 400, "request"),
                ({"audience": "https://other.test/slayq"}, 401, "audience"),
                ({"run": request()["run"] | {"event": "test/unknown"}}, 404, "function"),
            ]
        ],
    ],
)
async def test_refusals(sq: SlayQ, headers: dict[str, str], body: bytes, status: int, code: str) -> None:
    """Each has its status and a JSON body that says why, and the function does not run."""
    reply = await sq.receive(headers, body)
    content = await body_of(reply)
    assert (status, code) == (reply.status, json.loads(content)["error"]["code"])
    assert str(len(content)) == reply.headers["content-length"]
    assert [] == ran


async def test_a_request_for_another_url(sq: SlayQ) -> None:
    """The refusal says whose it is, and what this app takes for its own."""
    body = encoded(audience="http://app.test/slayq")
    said = (await body_of(await sq.receive(signed(body), body))).decode()
    assert "'http://app.test/slayq'" in said
    assert "SlayQ(url='https://app.test/slayq/')" in said


async def test_a_body_that_is_too_large(sq: SlayQ) -> None:
    """It is refused unread."""
    reply = await sq.receive({}, b" " * (REQUEST_BYTES + 1))
    assert 413 == reply.status


async def test_no_secret(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An app without a secret says so, and runs nothing."""
    for name in ("SLAY_Q_SECRET", "SLAY_Q_WORKER_SECRET", "SLAY_Q_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)
    reply = await SlayQ().receive(signed(BODY), BODY)
    assert 500 == reply.status
    assert b"SLAY_Q_SECRET" in await body_of(reply)


async def test_nothing_runs_before_the_first_line_is_read(sq: SlayQ) -> None:
    """A reply that is dropped unread has run nothing."""
    reply = await sq.receive(signed(BODY), BODY)
    await reply.lines.aclose()
    assert b"" == await body_of(reply)
    assert [] == ran


@pytest.mark.parametrize("event", ["test/event", "test/plain"])
def test_receiving_without_async(sq: SlayQ, event: str) -> None:
    """WSGI and the like read lines from a plain iterator, for async and for plain functions."""
    body = json.dumps(request(event)).encode()
    reply = sq.receive_sync(signed(body), body)
    lines = [json.loads(line) for line in reply.lines]
    assert (200, ["hello", "done"]) == (reply.status, [line["op"] for line in lines])
    reply.lines.close()
    assert 401 == sq.receive_sync({}, body).status


def test_closing_without_async(sq: SlayQ) -> None:
    """Closing in the middle cancels the function."""
    started, ended = threading.Event(), threading.Event()

    @sq.function(event="test/long")
    async def long(step: Step) -> None:
        async def body() -> None:
            started.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        await step.run("long", body)

    body = json.dumps(request("test/long")).encode()
    reply = sq.receive_sync(signed(body), body)
    assert b"hello" in next(reply.lines)
    assert started.wait(5)
    reply.lines.close()
    assert ended.is_set()
    assert [] == list(reply.lines)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r["run"].pop("id"),
        lambda r: r["run"].update(id="nonsense"),
        lambda r: r["run"].update(attempt=0),
        lambda r: r["run"].update(attempt=True),
        lambda r: r["run"].update(created_at="2030-01-01T00:00:00"),
        lambda r: r["run"].update(created_at="soon"),
        lambda r: r["lease"].update(token=7),
        lambda r: r["lease"].update(deadline="soon"),
        lambda r: r.update(steps={}),
        lambda r: r.update(steps=[done("a", kind="dance")]),
        lambda r: r.update(steps=[{"name": "a", "kind": "run", "state": "failed", "error": {}}]),
        lambda r: r.update(limits={"ops": 0}),
        lambda r: r.pop("audience"),
    ],
)
def test_requests_that_are_not_of_the_protocol(spoil: Callable[[dict[str, Any]], Any]) -> None:
    """What is missing or of the wrong type is named, and nothing of the content is shown."""
    spoilt = request(data={"card": "4111"})
    spoil(spoilt)
    with pytest.raises(BadRequest) as caught:
        parse_request(json.dumps(spoilt).encode())
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize(
    ("patience", "expected"),
    [(300.0, 15.0), (45.0, 15.0), (9.0, 3.0), (0.75, 0.25), (0.0, 15.0), (-7.0, 15.0)],
)
def test_how_long_an_answer_may_be_silent(patience: float, expected: float) -> None:
    """A third of what the server waits for, 15 s at the most; a deadline that has passed says nothing of that."""
    lease = {"token": "token-1", "deadline": (NOW + patience) * 1000}
    assert expected == keep_alive_of(parse_request(encoded(lease=lease)), NOW)


@pytest.mark.parametrize("drift", [-200, 0, 200])
async def test_a_server_that_waits_for_a_short_time_hears_of_a_long_step(sq: SlayQ, drift: float) -> None:
    """Empty lines come often enough for a queue with a short timeout, whatever time it is here."""
    gate = asyncio.Event()
    sq.receiver = Receiver(sq.functions, lambda: sq.secrets, clock=lambda: NOW + drift)

    @sq.function(event="test/long")
    async def long(step: Step) -> None:
        await step.run("long", gate.wait)

    lease = {"token": "token-1", "deadline": NOW * 1000 + 30}
    body = json.dumps(request("test/long", lease=lease)).encode()
    reply = await sq.receive(signed(body), body)
    async with asyncio.timeout(10):
        assert b"hello" in await anext(reply.lines)
        assert b"\n" == await anext(reply.lines)
    gate.set()
    assert b'"done"' in await body_of(reply)


def test_members_that_are_not_known_are_passed_over() -> None:
    """A newer server may say more."""
    assert "token-1" == parse_request(encoded(more={"a": 1})).lease_token
