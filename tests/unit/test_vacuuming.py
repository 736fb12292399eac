"""Vacuum where many jobs go through: not where autovacuum is enough, not all the time, and not where it may not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from slayq_server.engine.vacuuming import ENDED, WITHIN, Vacuum
from slayq_server.errors import DatabaseUnavailable
from tests.support.virtual import VirtualClock, in_virtual_time, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FakeStore:
    """Vacuums take as long as `takes`, or fail."""

    def __init__(self) -> None:
        self.takes = 0.2
        self.may = True
        self.fails = False
        self.vacuums: list[float] = []
        """When each began."""

    async def may_vacuum(self) -> bool:
        return self.may

    async def vacuum(self) -> None:
        self.vacuums.append(now())
        await asyncio.sleep(self.takes)
        if self.fails:
            raise DatabaseUnavailable("canceling statement due to statement timeout")


@asynccontextmanager
async def running(store: FakeStore) -> AsyncIterator[Vacuum]:
    vacuum = Vacuum(store, VirtualClock())
    task = asyncio.ensure_future(vacuum.run())
    yield vacuum
    task.cancel()
    await asyncio.wait([task])


async def end_jobs(vacuum: Vacuum, number: int, seconds: float) -> None:
    """So many jobs end, spread over so many seconds."""
    for _ in range(10):
        await asyncio.sleep(seconds / 10)
        for _ in range(number // 10):
            vacuum.ended()


@in_virtual_time
async def test_after_so_many_jobs() -> None:
    store = FakeStore()
    async with running(store) as vacuum:
        await end_jobs(vacuum, ENDED - 10, 10.0)
        assert [] == store.vacuums
        await end_jobs(vacuum, 10, 1.0)
        await asyncio.sleep(100)
        assert 1 == len(store.vacuums)
        await end_jobs(vacuum, ENDED, 10.0)
        await asyncio.sleep(100)
        assert 2 == len(store.vacuums)


@in_virtual_time
async def test_never_where_autovacuum_keeps_up() -> None:
    store = FakeStore()
    async with running(store) as vacuum:
        for _ in range(5):
            await end_jobs(vacuum, ENDED, 1.2 * WITHIN)
        assert [] == store.vacuums


@in_virtual_time
async def test_it_rests_for_ten_times_as_long_as_it_took() -> None:
    """Where it is of no use, because an old transaction is open, it costs a tenth of a core at the most."""
    store = FakeStore()
    store.takes = 3.0
    async with running(store) as vacuum:
        for _ in range(20):
            await end_jobs(vacuum, ENDED, 5.0)
        assert 3 <= len(store.vacuums)
        assert all(33 <= later - earlier for earlier, later in pairwise(store.vacuums))


@in_virtual_time
async def test_it_waits_after_one_that_failed() -> None:
    store = FakeStore()
    store.fails = True
    async with running(store) as vacuum:
        for _ in range(30):
            await end_jobs(vacuum, ENDED, 5.0)
        assert 3 == len(store.vacuums)
        assert all(60 <= later - earlier for earlier, later in pairwise(store.vacuums))


@in_virtual_time
async def test_it_leaves_it_to_autovacuum_where_it_may_not() -> None:
    store = FakeStore()
    store.may = False
    async with running(store) as vacuum:
        for _ in range(3):
            await end_jobs(vacuum, ENDED, 5.0)
        assert [] == store.vacuums
