"""The helpers that other tests lean on."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.endpoint import SECRET, Endpoint, Received, Reply
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
        yield session


def signed(body: bytes) -> dict[str, str]:
    """The headers of a signed body."""
    return {"X-SlayQ-Signature": hmac.new(SECRET.encode(), body, hashlib.sha512).hexdigest()}


async def test_wait_until_gives_what_became_true() -> None:
    """Both kinds of predicates are looked at until they give something true."""
    looks = iter((0, None, 3))
    assert await wait_until(lambda: next(looks)) == 3

    async def answer() -> str:
        return "yes"

    assert await wait_until(answer) == "yes"


async def test_wait_until_names_what_it_waited_for() -> None:
    """After its deadline it fails the test, and says what did not come true and what was there instead."""
    nothing = 0
    with pytest.raises(AssertionError, match="the moon; last seen was 0"):
        await wait_until(lambda: 0, timeout=0.05, what="the moon")
    with pytest.raises(AssertionError, match="nothing > 0"):
        await wait_until(lambda: nothing > 0, timeout=0.05)
    with pytest.raises(AssertionError, match="a silent one"):
        await wait_until(asyncio.Event().wait, timeout=0.05, what="a silent one")


async def test_the_endpoint_records_what_it_receives(endpoint: Endpoint, client: aiohttp.ClientSession) -> None:
    """A callback is kept with its bytes, its body, its headers, its times and whether its signature was right."""
    body = json.dumps({"job_key": "k", "retry": 2, "event": "a/b", "data": {"n": 1}}).encode()
    async with client.post(endpoint.url, data=body, headers=signed(body)) as answer:
        assert answer.status == 200
    async with client.post(f"{endpoint.origin}/x?y=1", data=b"{", headers=signed(b"other")) as answer:
        assert answer.status == 200

    good, bad = await endpoint.wait_for_finished(2)

    assert (good.raw, good.event, good.job_key, good.retry, good.data) == (body, "a/b", "k", 2, {"n": 1})
    assert (good.number, good.method, good.path, good.signature_valid) == (1, "POST", "/slayq", True)
    assert (bad.number, bad.path, bad.body, bad.signature_valid) == (2, "/x?y=1", None, False)
    assert good.started <= (good.ended or 0) <= bad.started


async def test_the_endpoint_answers_as_told(endpoint: Endpoint, client: aiohttp.ClientSession) -> None:
    """A handler gives a status, or a whole reply, at once or as a coroutine."""
    replies = iter((666, Reply(503, "later", {"Retry-After": "7"})))

    async def handler(callback: Received) -> Reply | int:
        return next(replies)

    endpoint.handler = handler
    async with client.post(endpoint.url) as answer:
        assert answer.status == 666
    async with client.post(endpoint.url) as answer:
        assert (answer.status, answer.headers["Retry-After"], await answer.text()) == (503, "7", "later")


async def test_the_endpoint_holds_answers_back(endpoint: Endpoint, client: aiohttp.ClientSession) -> None:
    """An answer can wait for an event; a caller that goes away meanwhile is noticed."""
    gate = asyncio.Event()
    endpoint.handler = lambda _: Reply(hold=gate)

    async def call() -> int:
        async with client.post(endpoint.url) as answer:
            return answer.status

    async with asyncio.TaskGroup() as group:
        patient, hasty = group.create_task(call()), group.create_task(call())
        await endpoint.wait_for(2)
        assert (endpoint.running, endpoint.most_at_once, endpoint.finished) == (2, 2, [])
        hasty.cancel()
        (gone,) = await endpoint.wait_for_finished(1)
        gate.set()
    assert patient.result() == 200
    assert gone.abandoned
    with pytest.raises(AssertionError, match="2 of 3 callbacks have come in"):
        await endpoint.wait_for(3, timeout=0.05)
