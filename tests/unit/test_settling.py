"""Settling: outcomes in batches, kept while the database is away, forgotten with the worker row they belong to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from slayq_server.engine.settling import Settler
from slayq_server.errors import DatabaseUnavailable, StatementFailed
from slayq_server.model import Outcome, OutcomeKind, Settled, Settlement
from tests.support.virtual import in_virtual_time, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


def outcome(job_id: int) -> Settlement:
    """The completion of a job."""
    return Settlement(job_id, 1, "mail", Outcome(OutcomeKind.COMPLETED))


class FakeStore:
    """Settles everything, after a millisecond, unless told otherwise."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int]]] = []
        self.locked: set[int] = set()
        self.poison: set[int] = set()
        self.away = False
        self.error = DatabaseUnavailable("away")
        self.meanwhile: Callable[[], Any] = lambda: None
        self.ready: set[str] = set()

    async def settle(self, worker_id: int, batch: Sequence[Settlement], *, keep_done: bool = False) -> Settled:
        ids = [settlement.job_id for settlement in batch]
        self.batches.append((worker_id, ids))
        await asyncio.sleep(0.001)
        self.meanwhile()
        if self.away:
            raise self.error
        if self.poison & set(ids):
            raise StatementFailed("no")
        return Settled({job_id: "locked" if job_id in self.locked else "settled" for job_id in ids}, self.ready)


class Rig:
    """A settler on a fake store."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.settled: list[tuple[int, str]] = []
        self.errors: list[DatabaseUnavailable] = []
        self.ready: list[str] = []
        self.distrusted: set[int] = set()
        self.settler = Settler(
            self.store,
            keep_done=False,
            on_settled=lambda settlement, verdict: self.settled.append((settlement.job_id, verdict)),
            on_ready=self.ready.extend,
            on_error=self.errors.append,
            may_write=lambda worker_id: worker_id not in self.distrusted,
        )

    def put(self, *job_ids: int, worker: int = 1) -> None:
        for job_id in job_ids:
            self.settler.put(worker, outcome(job_id))

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        """Runs the settler until all is settled."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.settler.run())
            yield
            await self.settler.drained()
            task.cancel()


@in_virtual_time
async def test_what_comes_while_a_batch_is_on_its_way_makes_the_next() -> None:
    """Batches form by themselves under load; none is mixed of two worker rows."""
    rig = Rig()
    async with rig.runs():
        rig.put(1)
        await asyncio.sleep(0.0005)
        rig.put(2, 3)
        rig.put(4, worker=2)
        rig.put(5)
    assert [(1, [1]), (1, [2, 3]), (2, [4]), (1, [5])] == rig.store.batches


@in_virtual_time
async def test_outcomes_outlast_an_outage() -> None:
    """Kept in order, and written as soon as the database is back; in hand all the while."""
    rig = Rig()
    rig.store.away = True
    async with rig.runs():
        rig.put(1, 2)
        await asyncio.sleep(20)
        assert [1, 2] == rig.settler.job_ids()
        assert 10 < len(rig.errors) < 60
        rig.store.away = False
    assert [(1, "settled"), (2, "settled")] == rig.settled
    assert [] == rig.settler.job_ids()


@in_virtual_time
async def test_a_locked_row_is_tried_again_and_holds_up_nobody() -> None:
    """Somebody's transaction has the job's row: the others are settled, and it as soon as it is free."""
    rig = Rig()
    rig.store.locked = {1}
    async with rig.runs():
        rig.put(1, 2)
        await asyncio.sleep(3)
        assert [(2, "settled")] == rig.settled
        assert [1] == rig.settler.job_ids()
        rig.store.locked = set()
    assert [(2, "settled"), (1, "settled")] == rig.settled


@in_virtual_time
async def test_a_locked_row_is_tried_again_under_load_too() -> None:
    """However many outcomes keep coming."""
    rig = Rig()
    rig.store.locked = {1}
    async with rig.runs():
        rig.put(1)
        for number in range(100, 1100):
            rig.put(number)  # one each half millisecond: there is always something waiting
            await asyncio.sleep(0.0005)
            if now() > 0.2:
                rig.store.locked = set()
        assert (1, "settled") in rig.settled


@in_virtual_time
async def test_what_belongs_to_a_lost_row_is_forgotten() -> None:
    """Waiting or locked; what belongs to the new row stays."""
    rig = Rig()
    rig.store.locked = {1}
    async with rig.runs():
        rig.put(1)
        await asyncio.sleep(0.05)
        rig.store.away = True
        rig.put(2)
        rig.put(3, worker=2)
        await asyncio.sleep(0.02)
        assert 2 == rig.settler.forget(1)
        assert [3] == rig.settler.job_ids()
        rig.store.away = False
    assert [(3, "settled")] == rig.settled


@in_virtual_time
async def test_what_is_in_hand_when_its_row_is_lost_is_not_tried_again() -> None:
    """The database went away in the middle of a batch, and then the row was lost."""
    rig = Rig()
    rig.store.away = True

    def lose() -> None:
        rig.settler.forget(1)
        rig.store.meanwhile = lambda: None

    rig.store.meanwhile = lose
    async with rig.runs():
        rig.put(1)
    assert [(1, [1])] == rig.store.batches
    assert [] == rig.settler.job_ids()


@in_virtual_time
async def test_what_is_in_hand_when_its_row_is_lost_may_still_be_written_down() -> None:
    """The statement was carried out all the same: nobody had taken the job yet."""
    rig = Rig()
    rig.store.meanwhile = lambda: rig.settler.forget(1)
    rig.store.locked = {2}
    async with rig.runs():
        rig.put(1, 2)
    assert [(1, "settled")] == rig.settled


@in_virtual_time
async def test_an_outcome_that_postgres_refuses_holds_up_no_other() -> None:
    """The batch is split; the one is tried again now and then, and said to be so."""
    rig = Rig()
    rig.store.poison = {3}
    async with rig.runs():
        rig.put(1, 2, 3, 4, 5)
        await asyncio.sleep(1)
        assert [(n, "settled") for n in (1, 2, 4, 5)] == rig.settled
        rig.put(6, 7, 8)
        await asyncio.sleep(1)
        assert (1, [6, 7, 8]) == rig.store.batches[-1]
        await asyncio.sleep(60)
        assert len(rig.store.batches) < 25
        assert [3] == rig.settler.job_ids()
        rig.store.poison = set()
    assert (3, "settled") == rig.settled[-1]


@in_virtual_time
async def test_drained_waits_for_what_is_locked_and_in_hand() -> None:
    """Only when all is written down, or forgotten, is there nothing left."""
    rig = Rig()
    rig.store.locked = {1}
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.settler.run())
        rig.put(1)
        drained = group.create_task(rig.settler.drained())
        await asyncio.sleep(1)
        assert not drained.done()
        rig.settler.forget(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert drained.done()
        task.cancel()


@in_virtual_time
async def test_heads_that_became_ready_are_passed_on() -> None:
    """A serial queue's next job may be leased at once."""
    rig = Rig()
    rig.store.ready = {"mail"}
    async with rig.runs():
        rig.put(1)
    assert ["mail"] == rig.ready


@in_virtual_time
async def test_a_database_that_takes_no_writes_splits_no_batch() -> None:
    """Read-only, or without room: nothing in the batch is at fault, so it stays as it is, and comes back whole."""
    rig = Rig()
    rig.store.away = True
    rig.store.error = DatabaseUnavailable("read-only", "read_only")
    async with rig.runs():
        rig.put(*range(100))
        await asyncio.sleep(20)
        rig.store.away = False
    assert {(1, tuple(range(100)))} == {(worker, tuple(ids)) for worker, ids in rig.store.batches}
    assert 100 == len(rig.settled)


@in_virtual_time
async def test_nothing_is_written_under_a_row_that_is_not_trusted() -> None:
    """Its time is up, and who minds it has not noticed yet: what belongs to it waits, and is forgotten and counted."""
    rig = Rig()
    rig.distrusted = {1}
    async with rig.runs():
        rig.put(1, 2)
        await asyncio.sleep(1)
        assert [] == rig.store.batches
        assert 2 == rig.settler.forget(1)
        rig.put(3, worker=2)
    assert [(2, [3])] == rig.store.batches
