"""The endpoint of the benchmark, by whose word everything is measured."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bench.ceiling import ceiling
from bench.rig import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bare() -> Iterator[Endpoint]:
    """The endpoint in its process."""
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


async def post(url: str, number: int) -> int:
    """One delivery; the answer's status."""
    async with aiohttp.ClientSession() as session, session.post(url, json={"data": {"n": number}}) as answer:
        return answer.status


async def test_it_counts_each_job_once(bare: Endpoint) -> None:
    """A job that comes twice is a duplicate, and keeps its first arrival."""
    # The number as the senders print it: without a blank.
    async with aiohttp.ClientSession() as session:
        for number in (1, 2, 1):
            async with session.post(bare.url, data=b'{"data":{"n":%d}}' % number) as answer:
                assert 200 == answer.status
    found = await asyncio.to_thread(bare.ask, "arrivals")
    assert (2, 1) == (found["count"], found["duplicates"])
    assert found["first"] == found["arrivals"]["1"] < found["arrivals"]["2"] == found["last"]
    await asyncio.to_thread(bare.ask, "reset")
    assert 0 == (await asyncio.to_thread(bare.ask, "count"))["count"]


async def test_what_is_held_is_answered_at_the_reset(bare: Endpoint) -> None:
    """So that a worker's slots can be kept."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        held = group.create_task(post(bare.held_url, 7))
        await bare.wait_for(1, 20, "held")
        assert not held.done()
        await asyncio.to_thread(bare.ask, "reset")
    assert 200 == held.result()


async def test_its_ceiling_is_of_what_was_answered(bare: Endpoint) -> None:
    """A bare client's requests all count as deliveries."""
    rate = await ceiling(bare.port, 3, 0.5)
    found = await bare.wait_for(3, 20)
    assert 0 < rate
    assert 0 == found["duplicates"]
