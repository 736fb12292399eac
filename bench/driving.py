"""How the cases drive a side: a worker that is warm, jobs that all come at once, steadily, or as they are done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import psutil

    from bench.context import Context
    from bench.sides import Side

QUEUE = "bench"
WARM = 100
"""Jobs of each queue that go before: connections are open, plans are made, code is compiled."""
WARM_FROM = 1_000_000_000
_PIECE = 1_000


@contextlib.asynccontextmanager
async def worker(
    context: Context, side: Side, queues: Mapping[str, int], count: int = 1
) -> AsyncIterator[tuple[str, list[psutil.Process]]]:
    """So many warm workers on a new database: its URL, and their processes. The endpoint has forgotten what came."""
    context.endpoint.ask("reset")
    url = await side.database(context.cluster)
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(side.running(url, queues, context.endpoint)) for _ in range(count)]
        await warm(context, side, url, queues, count)
        yield url, processes


async def warm(context: Context, side: Side, url: str, queues: Mapping[str, int], count: int = 1) -> None:
    """Lets each queue deliver something."""
    async with connected(url) as connection:
        for number, queue in enumerate(queues):
            first = WARM_FROM + number * WARM * count
            await connection.execute(side.add, queue, context.endpoint.url, first, first + WARM * count - 1)
        await context.endpoint.wait_for(WARM * count * len(queues), timeout=120)
        await settled(connection, side)
        # What a start has left behind must not be written out while the clock runs.
        await connection.execute("checkpoint")
        await asyncio.sleep(0.3)
    context.endpoint.ask("reset")


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that has minutes for a statement."""
    connection = await asyncpg.connect(url, command_timeout=600)
    try:
        yield connection
    finally:
        await connection.close()


async def settled(connection: asyncpg.Connection, side: Side, timeout: float = 60) -> None:
    """Returns when no job is left."""
    deadline = time.monotonic() + timeout
    while await connection.fetchval(side.left):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{side.name}: jobs were delivered, but not settled")
        await asyncio.sleep(0.02)


async def add_all(connection: asyncpg.Connection, side: Side, url: str, jobs: int, queue: str = QUEUE) -> None:
    """Adds jobs numbered from 0, in as few statements as memory likes."""
    for first in range(0, jobs, _PIECE):
        await connection.execute(side.add, queue, url, first, min(first + _PIECE, jobs) - 1)


def payload(url: str, number: int) -> str:
    """As an app would write it."""
    return json.dumps({"url": url, "event": "bench/noop", "data": {"n": number}}, separators=(",", ":"))


async def paced(
    connections: Sequence[asyncpg.Connection], side: Side, queues: Sequence[str], url: str, numbers: range, rate: float
) -> dict[int, float]:
    """Adds one job after the other at a steady rate, over all connections in turn; when each was committed."""
    committed: dict[int, float] = {}
    begin = time.monotonic() + 0.05

    async def adding(share: int) -> None:
        for place in range(share, len(numbers), len(connections)):
            await asyncio.sleep(max(0.0, begin + place / rate - time.monotonic()))
            number = numbers[place]
            await connections[share].execute(side.add_one, queues[place % len(queues)], payload(url, number))
            committed[number] = time.monotonic()

    async with asyncio.TaskGroup() as group:
        for share in range(len(connections)):
            group.create_task(adding(share))
    return committed


def waits(committed: Mapping[int, float], arrivals: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds from each commit to its arrival, as percentiles. What arrived before the client knew: 0."""
    times = sorted(max(0.0, arrivals[str(number)] - at) * 1000 for number, at in committed.items())
    return {
        "p50_ms": statistics.median(times),
        "p95_ms": times[int(len(times) * 0.95)],
        "p99_ms": times[int(len(times) * 0.99)],
        "max_ms": times[-1],
    }


class Feeder:
    """Adds jobs as they are delivered, so that some always wait, and not many."""

    def __init__(self, context: Context, side: Side, connection: asyncpg.Connection, queue: str, first: int) -> None:
        self._context = context
        self._side = side
        self._connection = connection
        self._queue = queue
        self._first = first
        self.added = 0

    async def feed(self, jobs: int, waiting: int) -> None:
        """Adds so many, with at most `waiting` of them undelivered."""
        while self.added < jobs:
            found = await asyncio.to_thread(self._context.endpoint.ask, "count")
            if self.added - found["count"] > waiting - _PIECE:
                await asyncio.sleep(0.01)
                continue
            first, count = self._first + self.added, min(_PIECE, jobs - self.added)
            await self._connection.execute(
                self._side.add, self._queue, self._context.endpoint.url, first, first + count - 1
            )
            self.added += count
