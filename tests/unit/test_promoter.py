"""The promoter: a timer for what falls due, and passes over what dead workers and lost heads leave behind."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from slayq_server.engine.promoter import Promoter
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import Matched, Promoted, Reaped
from tests.support.virtual import VirtualClock, in_virtual_time, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOTHING = Promoted(0, (), 0, 0, None)


class FakeStore:
    """Remembers when it was asked for what; answers what it was told to, then nothing more."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.promoted: list[Promoted] = []
        self.matched: list[Matched] = []
        self.matched_after: list[int] = []
        self.promotes_at_most = 500
        self.reaped: list[list[Reaped]] = []
        self.failing: set[str] = set()

    async def _ask(self, what: str) -> None:
        self.asked.append((what, round(now(), 3)))
        await asyncio.sleep(0.001)
        if what in self.failing:
            raise DatabaseUnavailable(what)

    async def promote(self, most: int) -> Promoted:
        await self._ask("promote")
        if most > self.promotes_at_most:
            raise DatabaseUnavailable("canceling statement due to statement timeout")
        return self.promoted.pop(0) if self.promoted else NOTHING

    async def match_events(self, most: int, after: int) -> Matched:
        await self._ask("match")
        self.matched_after.append(after)
        return self.matched.pop(0) if self.matched else Matched(0, (), more=False, left_over=False)

    async def advance_headless_lanes(self, most: int) -> tuple[str, ...]:
        await self._ask("sweep")
        return ("lane",)

    async def reap(self, most: int) -> tuple[list[Reaped], tuple[str, ...]]:
        await self._ask("reap")
        return (self.reaped.pop(0) if self.reaped else []), ("head",)

    def times(self, what: str) -> list[float]:
        return [at for asked, at in self.asked if asked == what]


class Rig:
    """A promoter on a fake store."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.ready: list[str] = []
        self.reaped: list[int] = []
        self.errors: list[DatabaseUnavailable] = []
        self.promoter = Promoter(
            self.store,
            VirtualClock(),
            on_ready=lambda names: self.ready.extend(sorted(names)),
            on_promoted=lambda _: None,
            on_reaped=lambda jobs: self.reaped.extend(job.job_id for job in jobs),
            on_error=self.errors.append,
        )

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[Promoter]:
        """Runs the promoter."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.promoter.run())
            yield self.promoter
            task.cancel()


@in_virtual_time
async def test_it_sleeps_until_the_next_job_is_due() -> None:
    """Not by polling: one pass when it falls due, and each pass says when the next one is."""
    rig = Rig()
    rig.store.promoted = [Promoted(1, ("mail",), 0, 0, 100.0)]
    async with rig.runs() as promoter:
        promoter.due_in(2.0)
        await asyncio.sleep(1000)
    assert [2.0, 102.001] == rig.store.times("promote")
    assert ["mail"] == rig.ready


@in_virtual_time
async def test_an_earlier_job_moves_the_timer() -> None:
    """A later one, or none, does not."""
    rig = Rig()
    async with rig.runs() as promoter:
        promoter.due_in(10.0)
        await asyncio.sleep(1)
        promoter.due_in(2.0)
        promoter.due_in(50.0)
        promoter.due_in(None)
        await asyncio.sleep(1000)
    assert [3.0] == rig.store.times("promote")


@in_virtual_time
async def test_a_full_batch_is_followed_by_the_next() -> None:
    """A million jobs that fall due at once are no reason to wait."""
    rig = Rig()
    rig.store.promoted = [Promoted(500, ("mail",), 0, 0, None)] * 3
    async with rig.runs() as promoter:
        promoter.due_in(0.0)
        await asyncio.sleep(1)
    assert 4 == len(rig.store.times("promote"))


@in_virtual_time
async def test_an_outage_forgets_nothing() -> None:
    """What was due stays due, and is tried again at growing distances."""
    rig = Rig()
    rig.store.failing = {"promote", "reap", "sweep"}
    async with rig.runs() as promoter:
        promoter.due_in(0.0)
        promoter.reap()
        promoter.sweep()
        await asyncio.sleep(60)
        assert 20 < len(rig.errors) < 50
        rig.store.failing = set()
        rig.store.asked.clear()
        await asyncio.sleep(60)
    assert ["promote", "reap", "sweep"] == sorted(what for what, _ in rig.store.asked)


@in_virtual_time
async def test_one_step_that_fails_does_not_hold_up_the_others() -> None:
    """A dead worker's job that cannot be taken back is no reason for all scheduled jobs to stand still."""
    rig = Rig()
    rig.store.failing = {"reap"}
    async with rig.runs() as promoter:
        promoter.reap()
        promoter.due_in(1.0)
        promoter.sweep()
        await asyncio.sleep(10)
    assert rig.store.times("promote")
    assert ["lane"] == rig.ready


@in_virtual_time
async def test_reaped_jobs_and_freed_heads_are_passed_on() -> None:
    """A full batch is followed by another."""
    rig = Rig()
    rig.store.reaped = [[Reaped(n, "mail", "ready") for n in range(500)], [Reaped(500, "mail", "dead")]]
    async with rig.runs() as promoter:
        promoter.reap()
        await asyncio.sleep(1)
    assert 2 == len(rig.store.times("reap"))
    assert (501, {"mail", "head"}) == (len(rig.reaped), set(rig.ready))


@in_virtual_time
async def test_sweeps_are_gathered() -> None:
    """A burst of words makes one sweep."""
    rig = Rig()
    async with rig.runs() as promoter:
        for _ in range(100):
            promoter.sweep()
            await asyncio.sleep(0.0005)
        await asyncio.sleep(10)
    assert [0.1] == rig.store.times("sweep")


@in_virtual_time
async def test_events_are_matched_until_none_is_left() -> None:
    """At once while there are more; a little later for a run that somebody had locked; again after an outage."""
    rig = Rig()
    rig.store.matched = [
        Matched(3, ("mail",), more=True, left_over=True, last=9),
        Matched(1, ("video",), more=False, left_over=False),
    ]
    async with rig.runs() as promoter:
        promoter.match()
        promoter.match()
        await asyncio.sleep(10)
        assert [0.0, 0.001, 0.102] == rig.store.times("match")
        assert [0, 9, 0] == rig.store.matched_after
        assert ["mail", "video"] == rig.ready
        rig.store.failing = {"match"}
        promoter.match()
        await asyncio.sleep(10)
        failed = len(rig.store.times("match"))
        rig.store.failing = set()
        await asyncio.sleep(10)
    assert failed > 3
    assert failed + 1 == len(rig.store.times("match"))


@in_virtual_time
async def test_what_happens_during_a_round_has_another_round() -> None:
    """It may have been committed late, and then comes before the events at which the round is by now."""
    rig = Rig()
    rig.store.matched = [Matched(3, (), more=True, left_over=False, last=last) for last in (5, 9)]
    async with rig.runs() as promoter:
        promoter.match()
        await asyncio.sleep(0.0015)
        promoter.match()
        await asyncio.sleep(10)
    assert [0, 5, 9, 0] == rig.store.matched_after
    assert [0.0, 0.001, 0.002, 0.003] == rig.store.times("match")


@in_virtual_time
async def test_what_takes_too_long_is_promoted_in_smaller_batches() -> None:
    """Postgres has a time limit for a statement: the same batch again would run into it again."""
    rig = Rig()
    rig.store.promotes_at_most = 40
    rig.store.promoted = [Promoted(31, ("mail",), 0, 0, None)]
    async with rig.runs() as promoter:
        promoter.due_in(0.0)
        await asyncio.sleep(10)
    assert ["mail"] == rig.ready
