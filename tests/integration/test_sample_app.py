"""The sample app of `slayq-server dev`: what it believes, and how it answers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from slayq.protocol import SIGNATURE_HEADER
from slayq.signing import sign_v1
from slayq_server.dev import functions
from slayq_server.dev.behaviours import EVENTS, reply_to
from slayq_server.dev.sample_app import PATH, SampleApp, Seen
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "the app's secret"


class Visitor:
    """Posts callbacks to a sample app, and keeps what that tells."""

    def __init__(self, client: TestClient[Any, Any], told: list[Seen]) -> None:
        self._client = client
        self.told = told

    async def post(self, event: str, retry: int = 1, age: float = 0.0, secret: str = SECRET, **data: Any) -> Any:
        """The answer to a signed callback."""
        members = {"job_key": "k", "retry": retry, "time": int((time.time() - age) * 1000), "event": event}
        body = json.dumps({**members, "data": data}).encode()
        return await self.post_raw(body, sign_v1(secret, body))

    async def post_raw(self, body: bytes, signature: str | None) -> Any:
        """The answer to any bytes."""
        headers = {} if signature is None else {SIGNATURE_HEADER: signature}
        return await self._client.post(PATH, data=body, headers=headers)

    async def index(self) -> str:
        """What the app says at /."""
        return str(await (await self._client.get("/")).text())


@pytest_asyncio.fixture
async def visitor() -> AsyncIterator[Visitor]:
    """A sample app, and who visits it."""
    told: list[Seen] = []
    async with TestClient(TestServer(SampleApp(SECRET, told.append).application())) as client:
        yield Visitor(client, told)


async def test_the_app_says_what_it_knows(visitor: Visitor) -> None:
    """Every event, those of its durable functions too."""
    text = await visitor.index()
    assert all(event in text for event in (*EVENTS, *functions.EVENTS))


async def test_a_good_callback_is_answered_and_told(visitor: Visitor) -> None:
    """One line when it comes, one when it is answered."""
    assert 200 == (await visitor.post("demo/success")).status
    came, answered = visitor.told
    assert ("demo/success", "k", 1, None, "came, signature good") == (
        came.event,
        came.job_key,
        came.retry,
        came.status,
        came.words,
    )
    assert "demo/success (k), attempt 1: succeeds → 200" == answered.told()


async def test_a_wrong_signature_is_refused(visitor: Visitor) -> None:
    """Another secret, no signature, or bytes that were changed: 401, and nothing is run."""
    assert 401 == (await visitor.post("demo/success", secret="another")).status
    assert 401 == (await visitor.post_raw(b"{}", None)).status
    assert 401 == (await visitor.post_raw(b"{ }", sign_v1(SECRET, b"{}"))).status
    assert {"REFUSED: the signature is wrong"} == {seen.words for seen in visitor.told}


async def test_an_old_or_strange_body_is_refused(visitor: Visitor) -> None:
    """As in the stock client, a body is good for 15 s; what is no callback is told as such."""
    assert 401 == (await visitor.post("demo/success", age=16)).status
    assert 401 == (await visitor.post_raw(b"[]", sign_v1(SECRET, b"[]"))).status
    old, strange = visitor.told
    assert old.words.startswith("REFUSED: signed 16 s ago")
    assert "REFUSED: the body is no callback" == strange.words


async def test_what_comes_from_outside_is_told_harmlessly(visitor: Visitor) -> None:
    """An event's name cannot write to the terminal."""
    assert 404 == (await visitor.post("x\x1b[2J\n")).status
    assert "\x1b" not in visitor.told[-1].line()
    assert "\n" not in visitor.told[-1].line()


async def test_those_in_progress_are_counted(visitor: Visitor) -> None:
    """Two callbacks of one event at once are seen as such."""
    await asyncio.gather(*(visitor.post("demo/slow", seconds=0.2) for _ in range(2)))
    assert [1, 2] == sorted(seen.at_once for seen in visitor.told if seen.status is None)


@pytest.mark.parametrize(
    ("event", "retry", "data", "status"),
    [
        ("demo/flaky", 1, None, 500),
        ("demo/flaky", 2, {}, 500),
        ("demo/flaky", 3, {}, 200),
        ("demo/flaky", 2, {"failures": 1}, 200),
        ("demo/flaky", 1, {"failures": "many"}, 500),
        ("demo/broken", 9, {}, 500),
        ("demo/no-retry", 1, {}, 666),
        ("demo/busy", 1, {}, 503),
        ("demo/busy", 2, {}, 200),
        ("cron", 1, {}, 200),
        ("demo/unknown", 1, {}, 404),
    ],
)
def test_events_are_answered_by_name(event: str, retry: int, data: Any, status: int) -> None:
    """The same callback always gets the same answer."""
    assert status == reply_to(event, retry, data).status


def test_every_listed_event_is_known() -> None:
    """What the app says it can do, it can."""
    assert [] == [event for event in EVENTS if reply_to(event, 1, {}).status == 404]


def test_without_a_secret_it_does_not_start() -> None:
    """It could not check anything."""
    finished = subprocess.run(
        [sys.executable, "-m", "slayq_server.dev.sample_app", "--port", "0"],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (78, "") == (finished.returncode, finished.stdout)
    assert "error: SLAY_Q_SECRET is not set" in finished.stderr
