"""Deliveries in flight: each ends in exactly one outcome, or in none once its worker row is lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slayq_server.engine.breaker import PutOff
from slayq_server.engine.dispatch import Dispatcher, Recording
from slayq_server.engine.pools import Pool
from slayq_server.errors import WorkerLost
from slayq_server.model import (
    Answer,
    CallbackResult,
    DeadReason,
    Done,
    LeasedJob,
    Op,
    Outcome,
    OutcomeKind,
    Run,
    Suspend,
)
from slayq_server.protocol.v1 import Callback
from tests.support.virtual import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from slayq_server.model import Settlement

BATCH = '[{"url": "u", "event": "e", "data": 1}, {"url": "u", "event": "e", "data": 2}]'


def job(number: int = 1, lease: int = 1, **changes: object) -> LeasedJob:
    """A leased job."""
    return replace(LeasedJob(number, lease, "mail", None, 1, 25, BATCH, None, None, 0.0), **changes)  # type: ignore[arg-type]


def run(number: int = 1, lease: int = 1, **changes: object) -> LeasedJob:
    """A leased run."""
    return job(number, lease, run=Run(f"run-{number}", "http://app/", "2030-01-01T00:00:00Z", "[]", 0), **changes)


class FakeWorker:
    """A worker row, trusted until told otherwise."""

    def __init__(self) -> None:
        self.id: int | None = 1
        self.trusted = True


class FakeExchange:
    """A delivery without a task, which a test answers."""

    def __init__(self, done: Callable[[Answer], None]) -> None:
        self.done = done
        self.ended = False

    def answer(self, status: int = 200) -> None:
        self.ended = True
        self.done(Answer(CallbackResult.OK, status, duration=0.001))

    def cancel(self) -> bool:
        cancelled, self.ended = not self.ended, True
        return cancelled


class FakeCallbacks:
    """Answers once `hold` is set, by default at once and with 200."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.answer: Answer | Exception = Answer(CallbackResult.OK, 200)
        self.begun: list[int] = []
        self.slow_to_close = 0.0
        self.at_once = False
        self.exchanges: list[FakeExchange] = []

    def prepared(self, leased: LeasedJob) -> Callback | None:
        return Callback("u", "e", "") if self.at_once else None

    async def deliver(
        self, leased: LeasedJob, callback: Callback | None, *, timeout: float, connect_timeout: float
    ) -> Answer:
        self.begun.append(leased.id)
        answer = self.answer
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(self.slow_to_close)
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def deliver_now(
        self, leased: LeasedJob, callback: Callback, *, timeout: float, done: Callable[[Answer], None]
    ) -> FakeExchange | None:
        self.begun.append(leased.id)
        exchange = FakeExchange(done)
        self.exchanges.append(exchange)
        return exchange


class FakeRecord:
    """Remembers what it is told."""

    def __init__(self, worker_id: int, job_id: int, refusal: Callable[[str], Outcome]) -> None:
        self.worker_id, self.job_id, self.refusal = worker_id, job_id, refusal
        self.ops: list[Op] = []
        self.end: Outcome | None = None

    def put(self, ops: Iterable[Op]) -> None:
        self.ops += ops

    async def room(self) -> None: ...

    def finish(self, outcome: Outcome) -> None:
        self.end = outcome


class FakeJournal:
    """Opens records."""

    def __init__(self) -> None:
        self.records: list[FakeRecord] = []

    def open(self, worker_id: int, leased: LeasedJob, queue: str, refusal: Callable[[str], Outcome]) -> FakeRecord:
        assert "mail" == queue
        self.records.append(FakeRecord(worker_id, leased.id, refusal))
        return self.records[-1]


class FakeSegments:
    """Says one op, waits for `hold`, and ends."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.answer = Answer(CallbackResult.OK, 200, terminal=Suspend())

    async def deliver(self, leased: LeasedJob, sink: Recording, *, timeout: float, connect_timeout: float) -> Answer:
        sink.put([Op("step", "a", "1")])
        await self.hold.wait()
        return self.answer


class FakeBreaker:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.noted: list[tuple[CallbackResult, tuple[int, int]]] = []
        self.gone: list[tuple[int, int]] = []

    def note(self, answer: Answer, delivery: tuple[int, int]) -> None:
        self.noted.append((answer.result, delivery))

    def let_go(self, delivery: tuple[int, int]) -> None:
        self.gone.append(delivery)


class FakeMetrics:
    """Counts nothing."""

    def response(self, queue: str, result: CallbackResult) -> None: ...
    def callback_duration(self, queue: str, seconds: float) -> None: ...
    def job_wait(self, queue: str, seconds: float) -> None: ...


class Rig:
    """A dispatcher on fakes."""

    def __init__(self) -> None:
        self.callbacks = FakeCallbacks()
        self.segments = FakeSegments()
        self.journal = FakeJournal()
        self.worker = FakeWorker()
        self.breaker = FakeBreaker()
        self.metrics = FakeMetrics()
        self.pool = Pool("mail", ("mail",), 5)
        self.settled: list[tuple[int, Settlement]] = []
        self.freed = 0

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[Dispatcher]:
        """Its tasks live in a group; in the end nothing is in flight."""
        async with asyncio.TaskGroup() as group:
            dispatcher = Dispatcher(
                self.callbacks,
                self.segments,
                self.journal,
                self.worker,
                self.breaker,
                self.metrics,
                spawn=group.create_task,
                settle=lambda worker_id, settlement: self.settled.append((worker_id, settlement)),
                on_freed=self._freed,
            )
            yield dispatcher
            await dispatcher.drained()
        await asyncio.sleep(0)
        assert (0, []) == (self.pool.in_flight, dispatcher.job_ids())
        assert not dispatcher.has_runs

    def _freed(self, pool: Pool) -> None:
        self.freed += 1

    @property
    def kinds(self) -> list[OutcomeKind]:
        return [settlement.outcome.kind for _, settlement in self.settled]


@in_virtual_time
async def test_a_delivery_holds_a_slot_until_its_outcome_is_with_the_settler() -> None:
    """Whoever asks in between which jobs are held gets a complete answer."""
    rig = Rig()
    rig.callbacks.hold.clear()
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        dispatcher.start(job(2), rig.pool)
        assert ([1, 2], 2) == (dispatcher.job_ids(), rig.pool.in_flight)
        rig.callbacks.hold.set()
    assert [(1, 1), (1, 2)] == [(worker, settlement.job_id) for worker, settlement in rig.settled]
    assert 2 == rig.freed


@in_virtual_time
async def test_a_row_that_is_lost_closes_its_deliveries_and_settles_nothing() -> None:
    """Those of a newer row go on."""
    rig = Rig()
    rig.callbacks.hold.clear()
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        rig.worker.id = 2
        dispatcher.start(job(2), rig.pool)
        await asyncio.sleep(1)
        assert 1 == dispatcher.abandon(1)
        await asyncio.sleep(1)
        assert [2] == dispatcher.job_ids()
        rig.callbacks.hold.set()
    assert [(2, 2)] == [(worker, settlement.job_id) for worker, settlement in rig.settled]


@in_virtual_time
async def test_a_job_may_be_here_again_before_its_lost_delivery_has_ended() -> None:
    """Closing takes a while; the new row leases the same job meanwhile. Each delivery counts for itself."""
    rig = Rig()
    rig.callbacks.hold.clear()
    rig.callbacks.slow_to_close = 5.0
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1, lease=1), rig.pool)
        await asyncio.sleep(1)
        dispatcher.abandon(1)
        rig.worker.id = 2
        dispatcher.start(job(1, lease=2), rig.pool)
        await asyncio.sleep(10)
        assert ([1], 1) == (dispatcher.job_ids(), rig.pool.in_flight)
        rig.callbacks.hold.set()
    assert [(2, 2)] == [(worker, settlement.lease) for worker, settlement in rig.settled]


@in_virtual_time
async def test_giving_back_ends_everything_unharmed() -> None:
    """Also what has not taken its first step."""
    rig = Rig()
    rig.callbacks.hold.clear()
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        await asyncio.sleep(1)
        dispatcher.start(job(2), rig.pool)
        assert 2 == dispatcher.give_back()
    assert [1] == rig.callbacks.begun
    assert [OutcomeKind.RELEASED] * 2 == rig.kinds


@in_virtual_time
async def test_nothing_is_sent_without_trust() -> None:
    """The job goes back when the row is reaped: there is no outcome to write down."""
    rig = Rig()
    async with rig.runs() as dispatcher:
        rig.worker.trusted = False
        dispatcher.start(job(1), rig.pool)
    assert ([], []) == (rig.callbacks.begun, rig.settled)


@pytest.mark.parametrize(("attempts", "expected"), [(1, OutcomeKind.RETRIED), (25, OutcomeKind.DEAD)])
def test_a_fault_of_ours_costs_one_attempt(attempts: int, expected: OutcomeKind) -> None:
    """Whatever a delivery raises."""

    @in_virtual_time
    async def run() -> None:
        rig = Rig()
        rig.callbacks.answer = RuntimeError("secret details")
        async with rig.runs() as dispatcher:
            dispatcher.start(job(1, attempts=attempts), rig.pool)
        assert [expected] == rig.kinds
        assert "the server failed: RuntimeError" == rig.settled[0][1].outcome.error

    run()


@in_virtual_time
async def test_an_answer_that_breaks_our_reckoning_costs_one_attempt() -> None:
    """The payload proves to be no batch when its failed elements are to be picked out."""
    rig = Rig()
    rig.callbacks.answer = Answer(CallbackResult.OK, 200, b"[1]", batch_size=2)
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1, payload="{}"), rig.pool)
        dispatcher.start(job(2), rig.pool)
    assert [OutcomeKind.RETRIED] * 2 == rig.kinds
    assert [None, '[{"url": "u", "event": "e", "data": 2}]'] == [settlement.payload for _, settlement in rig.settled]


@in_virtual_time
async def test_the_pools_rules_count() -> None:
    """Those of the moment at which the delivery ends."""
    rig = Rig()
    rig.callbacks.answer = Answer(CallbackResult.CLIENT_ERROR, 404)
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        await dispatcher.drained()
        rig.pool.not_found_is_done = True
        dispatcher.start(job(2), rig.pool)
    assert [OutcomeKind.DEAD, OutcomeKind.COMPLETED] == rig.kinds
    assert DeadReason.NOT_FOUND == rig.settled[0][1].outcome.reason


@in_virtual_time
async def test_a_callback_that_may_no_longer_go_out_settles_nothing() -> None:
    """The lease was lost between the start of the delivery and its sending: the job goes back with the row."""
    rig = Rig()
    rig.callbacks.answer = WorkerLost("the lease was lost")
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
    assert [] == rig.settled


# Without a task


@in_virtual_time
async def test_a_delivery_that_begins_at_once_has_one_outcome() -> None:
    """As one with a task has."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        dispatcher.start(job(2, serial_queue="lane"), rig.pool)
        assert ([1, 2], 2) == (dispatcher.job_ids(), rig.pool.in_flight)
        for exchange in rig.callbacks.exchanges:
            exchange.answer()
        assert ([], 0) == (dispatcher.job_ids(), rig.pool.in_flight)
    assert [(1, False), (2, True)] == [(settlement.job_id, settlement.serial) for _, settlement in rig.settled]
    assert [OutcomeKind.COMPLETED] * 2 == rig.kinds


@in_virtual_time
async def test_a_delivery_that_begins_at_once_can_be_closed() -> None:
    """One whose answer came just before has its outcome already."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        for number in (1, 2):
            dispatcher.start(job(number), rig.pool)
        rig.callbacks.exchanges[0].answer()
        assert 1 == dispatcher.give_back()
        dispatcher.close(2, 1)  # a second time
    assert [(1, OutcomeKind.COMPLETED), (2, OutcomeKind.RELEASED)] == [
        (settlement.job_id, settlement.outcome.kind) for _, settlement in rig.settled
    ]


@in_virtual_time
async def test_a_lost_row_settles_nothing_of_what_began_at_once() -> None:
    """Nor of what waits for a slot."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        for number in range(1, 8):
            dispatcher.start(job(number), rig.pool)
        assert 7 == dispatcher.abandon(1)
    assert [] == rig.settled
    assert 0 == rig.pool.ahead


# Ahead


@in_virtual_time
async def test_what_is_leased_ahead_waits_for_a_slot_and_is_held_meanwhile() -> None:
    """The limit holds, the order too."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        for number in range(1, 9):
            dispatcher.start(job(number), rig.pool)
        assert (5, 3) == (rig.pool.in_flight, rig.pool.ahead)
        assert [*range(1, 9)] == dispatcher.job_ids()
        rig.callbacks.exchanges[0].answer()
        assert ([1, 2, 3, 4, 5, 6], 5, 2) == (rig.callbacks.begun, rig.pool.in_flight, rig.pool.ahead)
        for exchange in rig.callbacks.exchanges[1:]:
            exchange.answer()
        for exchange in rig.callbacks.exchanges[6:]:
            exchange.answer()
    assert [*range(1, 9)] == rig.callbacks.begun
    assert [OutcomeKind.COMPLETED] * 8 == rig.kinds


@in_virtual_time
async def test_what_is_ahead_goes_back_unharmed() -> None:
    """When its queue is paused, or the daemon stops: runs, too, whose records are opened to say so."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        for number in range(1, 7):
            dispatcher.start(job(number), rig.pool)
        dispatcher.start(run(7), rig.pool)
        dispatcher.give_back_ahead(rig.pool)
        assert ([1, 2, 3, 4, 5], 5, 0) == (dispatcher.job_ids(), rig.pool.in_flight, rig.pool.ahead)
        for exchange in rig.callbacks.exchanges:
            exchange.answer()
    assert (6, OutcomeKind.RELEASED) == (rig.settled[0][1].job_id, rig.kinds[0])
    (record,) = rig.journal.records
    assert (7, Outcome(OutcomeKind.RELEASED)) == (record.job_id, record.end)


@in_virtual_time
async def test_what_is_ahead_for_too_long_goes_back() -> None:
    """The app hangs: others may have the jobs, and nothing more is leased ahead until deliveries end again."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        for number in range(1, 6):
            dispatcher.start(job(number), rig.pool)
        rig.pool.rate = 1000.0
        await asyncio.sleep(1)
        dispatcher.start(job(6), rig.pool)
        await asyncio.sleep(0.09)
        dispatcher.start(job(7), rig.pool)
        assert 2 == rig.pool.ahead
        await asyncio.sleep(0.02)
        assert ([1, 2, 3, 4, 5], 0, 0.0) == (dispatcher.job_ids(), rig.pool.ahead, rig.pool.rate)
        assert [OutcomeKind.RELEASED] * 2 == rig.kinds
        for exchange in rig.callbacks.exchanges:
            exchange.answer()


@in_virtual_time
async def test_what_was_being_leased_when_its_queue_was_taken_away_begins() -> None:
    """There is no slot to wait for."""
    rig = Rig()
    rig.callbacks.at_once = True
    rig.pool.limit = 0
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        assert ([1], 0) == (rig.callbacks.begun, rig.pool.ahead)
        rig.callbacks.exchanges[0].answer()


@in_virtual_time
async def test_what_is_ahead_can_be_cancelled() -> None:
    """A run that has not begun is closed like one that has."""
    rig = Rig()
    rig.callbacks.at_once = True
    async with rig.runs() as dispatcher:
        for number in range(1, 6):
            dispatcher.start(job(number), rig.pool)
        dispatcher.start(run(6), rig.pool)
        assert 1 == dispatcher.cancel([(6, 1)])
        for exchange in rig.callbacks.exchanges:
            exchange.answer()
    assert Outcome(OutcomeKind.RELEASED) == rig.journal.records[0].end


# Durable runs


@in_virtual_time
async def test_a_run_fills_a_record_and_its_outcome_ends_it() -> None:
    """Beside jobs, in the same slots."""
    rig = Rig()
    rig.segments.answer = Answer(CallbackResult.OK, 200, terminal=Done("[1]"))
    rig.segments.hold.clear()
    async with rig.runs() as dispatcher:
        dispatcher.start(run(1), rig.pool)
        dispatcher.start(job(2), rig.pool)
        assert ([1, 2], 2, True) == (dispatcher.job_ids(), rig.pool.in_flight, dispatcher.has_runs)
        await asyncio.sleep(1)
        assert [1] == dispatcher.job_ids()
        rig.segments.hold.set()
    (record,) = rig.journal.records
    assert (1, 1, [Op("step", "a", "1")]) == (record.worker_id, record.job_id, record.ops)
    assert Outcome(OutcomeKind.COMPLETED, output="[1]") == record.end
    assert [2] == [settlement.job_id for _, settlement in rig.settled]


@in_virtual_time
async def test_a_drain_releases_runs() -> None:
    """What they have said stays; their attempt does not count."""
    rig = Rig()
    rig.segments.hold.clear()
    async with rig.runs() as dispatcher:
        dispatcher.start(run(1), rig.pool)
        await asyncio.sleep(1)
        dispatcher.give_back()
    (record,) = rig.journal.records
    assert (1, Outcome(OutcomeKind.RELEASED)) == (len(record.ops), record.end)


@in_virtual_time
async def test_runs_of_a_lost_row_end_nowhere() -> None:
    """The journal forgets them by itself."""
    rig = Rig()
    rig.segments.hold.clear()
    async with rig.runs() as dispatcher:
        dispatcher.start(run(1), rig.pool)
        await asyncio.sleep(1)
        assert 1 == dispatcher.abandon(1)
    assert [None] == [record.end for record in rig.journal.records]


@in_virtual_time
async def test_one_run_can_be_closed() -> None:
    """Because it is cancelled, or nothing more of it will be written down."""
    rig = Rig()
    rig.segments.hold.clear()
    async with rig.runs() as dispatcher:
        for number in (1, 2, 3):
            dispatcher.start(run(number, lease=7), rig.pool)
        await asyncio.sleep(1)
        assert 1 == dispatcher.cancel([(1, 7), (3, 6), (4, 7)])
        dispatcher.close(2, 7)
        dispatcher.close(2, 8)
        await asyncio.sleep(1)
        assert [3] == dispatcher.job_ids()
        rig.segments.hold.set()
    kinds = [record.end and record.end.kind for record in rig.journal.records]
    assert [OutcomeKind.RELEASED, OutcomeKind.RELEASED, OutcomeKind.SUSPENDED] == kinds


@pytest.mark.parametrize(("attempts", "expected"), [(1, OutcomeKind.RETRIED), (25, OutcomeKind.DEAD)])
def test_what_postgres_refuses_counts_as_the_functions_failure(attempts: int, expected: OutcomeKind) -> None:
    """Its error is the reason that Postgres gives."""

    @in_virtual_time
    async def go() -> None:
        rig = Rig()
        async with rig.runs() as dispatcher:
            dispatcher.start(run(1, attempts=attempts), rig.pool)
        outcome = rig.journal.records[0].refusal("unknown event")
        assert (expected, "unknown event") == (outcome.kind, outcome.error)

    go()


@in_virtual_time
async def test_a_fault_of_ours_costs_a_run_one_delivery() -> None:
    """And no attempt at its function."""
    rig = Rig()
    rig.segments.deliver = None  # type: ignore[assignment]
    async with rig.runs() as dispatcher:
        dispatcher.start(run(1, attempts=25), rig.pool)
    end = rig.journal.records[0].end
    assert end is not None
    assert (OutcomeKind.UNDELIVERED, "the server failed: TypeError") == (end.kind, end.error)


def test_what_is_put_off_has_no_answer() -> None:
    """It goes back with its endpoint and the time to wait: nothing was sent, so nobody is told how it went."""

    @in_virtual_time
    async def test() -> None:
        rig = Rig()
        rig.callbacks.answer = PutOff("https://app.example.com", 300.0)
        async with rig.runs() as dispatcher:
            dispatcher.start(job(1), rig.pool)
        ((_, settlement),) = rig.settled
        assert Outcome(OutcomeKind.PUT_OFF, delay=300.0, endpoint="https://app.example.com") == settlement.outcome
        assert ([], [(1, 1)]) == (rig.breaker.noted, rig.breaker.gone)

    test()


@in_virtual_time
async def test_the_breaker_hears_of_every_end() -> None:
    """Of an answer with what it was; of a delivery that is cut off only that it is over."""
    rig = Rig()
    async with rig.runs() as dispatcher:
        dispatcher.start(job(1), rig.pool)
        await asyncio.sleep(1)
        rig.callbacks.hold.clear()
        dispatcher.start(job(2), rig.pool)
        await asyncio.sleep(1)
        dispatcher.give_back()
    assert [(CallbackResult.OK, (1, 1))] == rig.breaker.noted
    assert [(1, 1), (2, 1)] == rig.breaker.gone
