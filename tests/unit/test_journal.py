"""The journal: ops of many runs in one flush, each run in order, and what becomes of a run at each verdict."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.engine import journal as module
from slayq_server.engine.journal import RUN_HOLDS, Journal, Record
from slayq_server.errors import DatabaseUnavailable, StatementFailed
from slayq_server.model import DeadReason, Flushed, LeasedJob, Op, Outcome, OutcomeKind, Run, RunVerdict
from tests.support.virtual import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from slayq_server.model import RunWrite, Settlement

DONE = Outcome(OutcomeKind.COMPLETED, output="1")
SUSPENDED = Outcome(OutcomeKind.SUSPENDED)


def step(name: str, size: int = 1) -> Op:
    """An op of about so many characters."""
    return Op("step", name, "1" * size)


def job(number: int, lease: int = 1) -> LeasedJob:
    """A leased run."""
    run = Run(f"run-{number}", None, "2030-01-01T00:00:00Z", "[]", 40 + number)
    return LeasedJob(number, lease, "mail", None, 1, 25, "{}", None, None, 0.0, run)


class FakeStore:
    """Writes everything down, after a millisecond, unless told otherwise."""

    def __init__(self) -> None:
        self.flushes: list[list[tuple[int, str, str]]] = []
        """Of each flush, its runs: job id, the names of its ops, the kind of its end."""
        self.written: dict[int, str] = {}
        """By job id: the names of the ops that are written down."""
        self.ended: dict[int, Outcome] = {}
        self.away = False
        self.locked: set[int] = set()
        self.verdicts: dict[int, RunVerdict] = {}
        """Given once."""
        self.poison = ""
        """A flush with an op of this name is refused as a whole; with a run's end, if it is the end's output."""
        self.meanwhile: Callable[[], Any] = lambda: None

    async def flush(
        self, worker_id: int, writes: Sequence[RunWrite], *, keep_done: bool = False, own_words: Sequence[str] = ()
    ) -> Flushed:
        assert ("mail",) == tuple(own_words)
        told = [(w.job_id, "".join(op.name for op in w.ops), w.end.kind.value if w.end else "") for w in writes]
        self.flushes.append(told)
        await asyncio.sleep(0.001)
        self.meanwhile()
        if self.away:
            raise DatabaseUnavailable("away")
        if self.poison and any(
            self.poison in names or (write.end and write.end.output == self.poison)
            for (_, names, _), write in zip(told, writes, strict=True)
        ):
            raise StatementFailed("no")
        assert all(40 + write.job_id == write.seen for write in writes)
        return Flushed({write.job_id: self._verdict(write) for write in writes})

    def _verdict(self, write: RunWrite) -> RunVerdict:
        if write.job_id in self.locked:
            return RunVerdict("locked")
        verdict = self.verdicts.pop(write.job_id, None)
        if verdict is not None:
            return verdict
        self.written[write.job_id] = self.written.get(write.job_id, "") + "".join(op.name for op in write.ops)
        if write.end is not None:
            self.ended[write.job_id] = write.end
        return RunVerdict("ok" if write.end is None else "settled")


class Rig:
    """A journal on a fake store."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.settled: list[tuple[int, str, str]] = []
        self.errors: list[DatabaseUnavailable] = []
        self.closed: list[tuple[int, int]] = []
        self.counted: list[tuple[int, int]] = []
        self.journal = Journal(
            self.store,
            keep_done=False,
            own_words=lambda: ["mail"],
            on_settled=self._on_settled,
            on_flushed=lambda runs, ops, _: self.counted.append((runs, ops)),
            close=lambda job_id, lease: self.closed.append((job_id, lease)),
            on_error=self.errors.append,
        )

    def _on_settled(self, settlement: Settlement, verdict: str) -> None:
        self.settled.append((settlement.job_id, settlement.outcome.kind.value, verdict))

    def open(self, number: int, lease: int = 1, worker: int = 1) -> Record:
        return self.journal.open(
            worker, job(number, lease), "mail", lambda note: Outcome(OutcomeKind.RETRIED, delay=5.0, error=note)
        )

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        """Runs the journal until all is written down."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.journal.run())
            yield
            await self.journal.drained()
            task.cancel()
        assert (0, []) == (self.journal._held, self.journal.items())


@in_virtual_time
async def test_what_comes_while_a_flush_is_on_its_way_makes_the_next() -> None:
    """Of all runs together: ten steps of a hundred runs are a few transactions."""
    rig = Rig()
    records = [rig.open(number) for number in range(100)]
    async with rig.runs():
        for name in "abcdefghij":
            for record in records:
                record.put([step(name)])
            await asyncio.sleep(0.0004)
        for record in records:
            record.finish(DONE)
        assert list(range(100)) == sorted(rig.journal.job_ids())
    assert len(rig.store.flushes) < 7
    assert dict.fromkeys(range(100), "abcdefghij") == rig.store.written
    assert {(number, "completed", "settled") for number in range(100)} == set(rig.settled)
    assert [] == rig.journal.job_ids()
    assert 1000 == sum(ops for _, ops in rig.counted)


@in_virtual_time
async def test_ops_and_end_go_together() -> None:
    """What comes at once is one flush; a run without ops has an end all the same."""
    rig = Rig()
    async with rig.runs():
        record = rig.open(1)
        record.put([step("a"), step("b")])
        record.finish(SUSPENDED)
        rig.open(2).finish(DONE)
    assert [[(1, "ab", "suspended"), (2, "", "completed")]] == rig.store.flushes


@in_virtual_time
async def test_an_outage_loses_nothing_and_keeps_the_order() -> None:
    """The run is held all the while, and may go on."""
    rig = Rig()
    rig.store.away = True
    async with rig.runs():
        record = rig.open(1)
        record.put([step("a")])
        await asyncio.sleep(5)
        record.put([step("b")])
        await asyncio.sleep(5)
        record.finish(DONE)
        await asyncio.sleep(5)
        assert ([1], []) == (rig.journal.job_ids(), rig.settled)
        assert len(rig.errors) > 10
        rig.store.away = False
    assert ({1: "ab"}, {1: DONE}) == (rig.store.written, rig.store.ended)


@in_virtual_time
async def test_a_locked_run_is_tried_again_and_holds_up_nobody() -> None:
    """What it says meanwhile comes after what was locked."""
    rig = Rig()
    rig.store.locked = {1}
    async with rig.runs():
        record = rig.open(1)
        record.put([step("a")])
        await asyncio.sleep(0.01)
        record.put([step("b")])
        record.finish(DONE)
        rig.open(2).finish(DONE)
        await asyncio.sleep(1)
        assert [(2, "completed", "settled")] == rig.settled
        await asyncio.sleep(59)
        assert len(rig.store.flushes) < 50, "less and less often: each try may make all others wait"
        rig.store.locked = set()
    assert {1: "ab"} == {1: rig.store.written[1]}
    assert (1, "completed", "settled") == rig.settled[-1]


@in_virtual_time
async def test_a_stale_lease_closes_the_stream_and_writes_nothing_more() -> None:
    """Counted once."""
    rig = Rig()
    rig.store.verdicts[1] = RunVerdict("stale")
    async with rig.runs():
        record = rig.open(1, lease=7)
        record.put([step("a")])
        await asyncio.sleep(1)
        assert [(1, 7)] == rig.closed
        record.put([step("b")])
        await record.room()
        record.finish(Outcome(OutcomeKind.RELEASED))
    assert [[(1, "a", "")]] == rig.store.flushes
    assert [(1, "released", "stale")] == rig.settled


@in_virtual_time
async def test_what_takes_too_long_is_written_in_smaller_flushes() -> None:
    """Postgres has a time limit for a statement: the same flush again would run into it again."""
    rig = Rig()
    too_many = 20

    def meanwhile() -> None:
        if len(rig.store.flushes[-1]) >= too_many:
            raise DatabaseUnavailable("canceling statement due to statement timeout")

    rig.store.meanwhile = meanwhile
    async with rig.runs():
        for number in range(200):
            rig.open(number).finish(DONE)
        await asyncio.sleep(30)
        assert [] == rig.journal.items()
        rig.store.meanwhile = lambda: None
        for number in range(200, 400):
            rig.open(number).finish(DONE)
    assert set(range(400)) == set(rig.store.ended)
    assert max(len(flush) for flush in rig.store.flushes[-10:]) > too_many


@in_virtual_time
async def test_one_that_always_takes_too_long_lets_the_others_by() -> None:
    """What it sends cancels a million runs, say."""
    rig = Rig()

    def meanwhile() -> None:
        if any(0 == number for number, *_ in rig.store.flushes[-1]):
            raise DatabaseUnavailable("canceling statement due to statement timeout")

    rig.store.meanwhile = meanwhile
    async with rig.runs():
        for number in range(20):
            rig.open(number).finish(DONE)
        await asyncio.sleep(60)
        assert set(range(1, 20)) == set(rig.store.ended)
        rig.journal.forget(1)


@in_virtual_time
async def test_a_run_that_is_leased_again_before_its_end_is_known_to_be_written() -> None:
    """The answer to the end's flush was lost, and the run is back: a flush has each run once, by its latest lease."""
    rig = Rig()
    rig.store.away = True
    async with rig.runs():
        rig.open(1, lease=7).finish(SUSPENDED)
        await asyncio.sleep(0.002)
        record = rig.open(1, lease=8)
        record.put([step("a")])
        rig.store.away = False
        await asyncio.sleep(0.1)
        record.finish(DONE)
    assert [[(1, "", "suspended")], [(1, "a", "")], [(1, "", "completed")]] == rig.store.flushes
    assert [(1, "suspended", "stale"), (1, "completed", "settled")] == rig.settled


@in_virtual_time
async def test_a_cancelled_run_is_closed_and_ended() -> None:
    """It had said something; Postgres drops it as soon as it has an end."""
    rig = Rig()
    rig.store.verdicts[1] = RunVerdict("dropped")
    async with rig.runs():
        record = rig.open(1)
        record.put([step("a")])
        await asyncio.sleep(0.0005)
        record.put([step("b")])
        rig.store.meanwhile = lambda: None
        await asyncio.sleep(0.001)
        assert [(1, 1)] == rig.closed
        rig.store.verdicts[1] = RunVerdict("dropped")
        record.finish(SUSPENDED)
    assert [[(1, "a", "")], [(1, "", "released")]] == rig.store.flushes
    assert [(1, "released", "dropped")] == rig.settled


@in_virtual_time
async def test_a_cancelled_run_that_has_ended_is_gone() -> None:
    """There is nothing to close any more."""
    rig = Rig()
    rig.store.verdicts[1] = RunVerdict("dropped")
    async with rig.runs():
        record = rig.open(1)
        record.put([step("a")])
        record.finish(DONE)
    assert ([(1, "completed", "dropped")], []) == (rig.settled, rig.closed)


@pytest.mark.parametrize("ended", [False, True])
def test_a_refused_op_ends_the_run_with_the_reason(ended: bool) -> None:
    """Whatever end its delivery gave: the ops before it are written, and those after it are not."""

    @in_virtual_time
    async def go() -> None:
        rig = Rig()
        rig.store.verdicts[1] = RunVerdict("refused", "no such event")
        async with rig.runs():
            record = rig.open(1)
            record.put([step("a"), step("b")])
            if ended:
                record.finish(DONE)
            await asyncio.sleep(0.0005)
            record.put([step("c")])
        kind = "completed" if ended else ""
        assert [[(1, "ab", kind)], [(1, "", "retried")]] == rig.store.flushes
        assert {1: Outcome(OutcomeKind.RETRIED, delay=5.0, error="no such event")} == rig.store.ended
        assert ([] if ended else [(1, 1)]) == rig.closed

    go()


@in_virtual_time
async def test_a_fast_app_waits_for_postgres() -> None:
    """A run holds no more than its share."""
    rig = Rig()
    rig.store.away = True
    async with rig.runs():
        record = rig.open(1)
        said = 0

        async def talk() -> None:
            nonlocal said
            for number in range(20):
                record.put([step(chr(97 + number), RUN_HOLDS // 4)])
                said += 1
                await record.room()
            record.finish(DONE)

        async with asyncio.TaskGroup() as group:
            group.create_task(talk())
            await asyncio.sleep(60)
            assert 4 == said
            rig.store.away = False
    assert {1: "abcdefghijklmnopqrst"} == rig.store.written


def test_all_runs_together_wait_for_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little each of them holds; one that holds nothing may say something."""
    monkeypatch.setattr(module, "ALL_HOLD", 5000)

    @in_virtual_time
    async def go() -> None:
        rig = Rig()
        rig.store.away = True
        async with rig.runs():
            records = [rig.open(number) for number in range(10)]

            async def say(record: Record) -> None:
                record.put([step("a", 1000)])
                await record.room()

            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(say(record)) for record in records]
                await asyncio.sleep(10)
                assert [True] * 4 + [False] * 6 == [task.done() for task in waiting]
                rig.store.away = False
            for record in records:
                record.finish(DONE)

    go()


@in_virtual_time
async def test_what_belongs_to_a_lost_row_is_forgotten() -> None:
    """Nobody who waits for room is left waiting; a newer lease of the same job goes on."""
    rig = Rig()
    rig.store.away = True
    async with rig.runs():
        record = rig.open(1)
        record.put([step("a", RUN_HOLDS + 1)])
        ended = rig.open(2)
        ended.finish(DONE)
        rig.open(3)
        async with asyncio.TaskGroup() as group:
            group.create_task(record.room())
            await asyncio.sleep(1)
            assert 1 == rig.journal.forget(1)
        newer = rig.open(1, lease=2, worker=2)
        newer.put([step("b")])
        record.finish(Outcome(OutcomeKind.RELEASED))
        assert [1] == rig.journal.job_ids()
        rig.store.away = False
        newer.finish(DONE)
    assert {1: "b"} == rig.store.written
    assert [] == rig.journal.job_ids()


@in_virtual_time
async def test_what_is_in_hand_when_its_row_is_lost_is_not_tried_again() -> None:
    """The statement on its way may yet write it down."""
    rig = Rig()
    rig.store.meanwhile = lambda: rig.journal.forget(1)
    rig.store.locked = {2}
    async with rig.runs():
        rig.open(1).finish(DONE)
        rig.open(2).finish(DONE)
        unended = rig.open(3)
        unended.put([step("a")])
    assert ([(1, "completed", "settled")], 1) == (rig.settled, len(rig.store.flushes))


@in_virtual_time
async def test_an_op_that_postgres_cannot_take_costs_its_own_run_alone() -> None:
    """It is found by writing one thing at a time; what stood before it is written down."""
    rig = Rig()
    rig.store.poison = "x"
    async with rig.runs():
        rig.open(1).finish(DONE)
        record = rig.open(2)
        record.put([step("a"), step("b"), step("x"), step("c")])
        record.finish(DONE)
        other = rig.open(3)
        other.put([step("d")])
        other.finish(DONE)
    assert {1: "", 2: "ab", 3: "d"} == rig.store.written
    assert {1: DONE, 2: Outcome(OutcomeKind.RETRIED, delay=5.0, error="no"), 3: DONE} == rig.store.ended


@in_virtual_time
async def test_an_end_that_postgres_cannot_take_is_replaced_or_kept() -> None:
    """One with an output, by the function's failure; another is tried again now and then, and said to be so."""
    rig = Rig()
    rig.store.poison = "bad"
    async with rig.runs():
        rig.open(1).finish(Outcome(OutcomeKind.COMPLETED, output="bad"))
        await asyncio.sleep(1)
        assert Outcome(OutcomeKind.RETRIED, delay=5.0, error="no") == rig.store.ended[1]
        rig.store.poison = ""
        rig.store.meanwhile = refuse
        rig.open(2).finish(Outcome(OutcomeKind.DEAD, error="why", reason=DeadReason.NO_RETRY))
        await asyncio.sleep(60)
        assert [2] == rig.journal.job_ids()
        assert len(rig.store.flushes) < 25
        rig.store.meanwhile = lambda: None
    assert OutcomeKind.DEAD is rig.store.ended[2].kind


def refuse() -> None:
    raise StatementFailed("never")


@in_virtual_time
async def test_flushes_are_bounded() -> None:
    """A run with much to say goes in several; many runs with much to say, too."""
    rig = Rig()
    async with rig.runs():
        for number in range(10):
            record = rig.open(number)
            record.put([step("a", RUN_HOLDS - 300), step("b", RUN_HOLDS // 2), step("c")])
            record.finish(DONE)
    assert max(map(len, rig.store.flushes)) <= 8
    assert dict.fromkeys(range(10), "abc") == rig.store.written
