"""Looking for runs that are cancelled while they are delivered: at a word, and by itself now and then."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from slayq_server.engine.cancelling import LOOK_EVERY, SAFETY_NET_EVERY, Cancellations
from slayq_server.errors import DatabaseUnavailable
from tests.support.virtual import in_virtual_time, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection


class Rig:
    """Cancellations on a fake store; run 1 is cancelled from the start."""

    def __init__(self) -> None:
        self.id: int | None = 1
        self.delivers_runs = True
        self.away = False
        self.looks: list[float] = []
        self.cancelled: list[tuple[int, int]] = []
        self.errors: list[DatabaseUnavailable] = []
        self.cancellations = Cancellations(
            self,
            self,
            delivers_runs=lambda: self.delivers_runs,
            cancel=self._cancel,
            on_error=self.errors.append,
        )

    async def cancelled_runs(self, worker_id: int) -> list[tuple[int, int]]:
        assert 1 == worker_id
        self.looks.append(now())
        if self.away:
            raise DatabaseUnavailable("away")
        return [(1, 7)]

    def _cancel(self, leases: Collection[tuple[int, int]]) -> int:
        self.cancelled += leases
        return len(leases)

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[Cancellations]:
        """Runs it."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.cancellations.run())
            await asyncio.sleep(0)
            yield self.cancellations
            task.cancel()


@in_virtual_time
async def test_a_word_leads_to_a_look_at_once() -> None:
    """And nothing else does for a while, where words come."""
    rig = Rig()
    async with rig.runs() as cancellations:
        cancellations.listening(connected=True)
        await asyncio.sleep(0.5)
        cancellations.look()
        cancellations.look()
        await asyncio.sleep(SAFETY_NET_EVERY - 0.1)
        assert [0.0, 0.5] == rig.looks
        await asyncio.sleep(0.2)
        assert [0.0, 0.5, 0.5 + SAFETY_NET_EVERY] == rig.looks
    assert [(1, 7)] * 3 == rig.cancelled


@in_virtual_time
async def test_without_words_it_looks_each_second() -> None:
    """While runs are being delivered, under a worker row; not else."""
    rig = Rig()
    async with rig.runs():
        await asyncio.sleep(3.5)
        assert [1.0, 2.0, 3.0] == rig.looks
        rig.delivers_runs = False
        await asyncio.sleep(10)
        rig.delivers_runs, rig.id = True, None
        await asyncio.sleep(10)
        assert 3 == len(rig.looks)


@in_virtual_time
async def test_an_outage_is_no_end() -> None:
    """The look is made as soon as the database is back."""
    rig = Rig()
    rig.away = True
    async with rig.runs() as cancellations:
        cancellations.listening(connected=True)
        await asyncio.sleep(2.5)
        assert len(rig.errors) >= 2
        rig.away = False
        await asyncio.sleep(2 * LOOK_EVERY)
    assert [(1, 7)] == rig.cancelled


def test_a_word_that_comes_before_the_answer_to_the_lease() -> None:
    """The run is cancelled while it is being leased; its delivery begins a moment later, and ends within the second."""

    @in_virtual_time
    async def go(*, others: bool) -> None:
        rig = Rig()
        begun = False
        rig.delivers_runs = others
        rig.cancellations = Cancellations(
            rig,
            rig,
            delivers_runs=lambda: rig.delivers_runs,
            cancel=lambda leases: rig._cancel(leases) if begun else 0,
            on_error=rig.errors.append,
        )
        async with rig.runs() as cancellations:
            cancellations.listening(connected=True)
            cancellations.look()
            await asyncio.sleep(0.01)
            begun = rig.delivers_runs = True
            await asyncio.sleep(LOOK_EVERY + 0.1)
        assert [(1, 7)] == rig.cancelled

    go(others=False)
    go(others=True)
