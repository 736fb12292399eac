"""Deliveries in flight: from a leased job to its outcome.

A job of protocol v1 is a callback whose outcome goes to the settler. A durable run is a segment that fills a record of
the journal as it goes along; its outcome ends the record. All else is the same for both: slots, trust, the drain.

Most callbacks begin at once and end in a call (see `exchange`); what has to wait first, and every segment, has a task.

A pool that is busy leases a little more than it has slots for: what it will begin within some 20 ms waits here for the
next slot, *ahead*, so that no slot waits for Postgres. It goes back, the attempt not counted, when it has waited for
longer than it should, when the configuration changes, its queue is paused, or the daemon stops.

Invariant: a job is in `running` from the moment it is leased until its outcome is with the settler or the journal, or
given up, so that whoever asks "what do we hold?" gets a complete answer.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from dataclasses import dataclass
from logging import DEBUG, ERROR, INFO
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from slayq_server.engine.breaker import PutOff
from slayq_server.engine.outcome import decide, decide_segment
from slayq_server.errors import WorkerLost
from slayq_server.model import Answer, CallbackResult, Failed, Outcome, OutcomeKind, Settlement
from slayq_server.protocol.v1 import keep_indexes
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable

    from slayq_server.engine.pools import Pool
    from slayq_server.model import LeasedJob, Op
    from slayq_server.protocol.v1 import Callback

_AHEAD_PATIENCE: Final = 0.1
"""Seconds that a job may be ahead."""
_DELIVERY_FAILED = ("job_retried", "job_undelivered")
_log = structlog.get_logger()


class Cancellable(Protocol):
    """A delivery that goes on without a task."""

    def cancel(self) -> bool:
        """Closes it, and nobody is told. Whether there was anything left to cancel."""
        ...


class Delivering(Protocol):
    """What sends a callback."""

    def prepared(self, job: LeasedJob) -> Callback | None: ...
    async def deliver(
        self, job: LeasedJob, callback: Callback | None, *, timeout: float, connect_timeout: float
    ) -> Answer: ...
    def deliver_now(
        self, job: LeasedJob, callback: Callback, *, timeout: float, done: Callable[[Answer], None]
    ) -> Cancellable | None: ...


class Recording(Protocol):
    """What a run's segment fills, and its outcome ends."""

    def put(self, ops: Iterable[Op]) -> None: ...
    async def room(self) -> None: ...
    def finish(self, outcome: Outcome) -> None: ...


class DeliveringRuns(Protocol):
    """What delivers segments."""

    async def deliver(self, job: LeasedJob, sink: Recording, *, timeout: float, connect_timeout: float) -> Answer: ...


class Journaling(Protocol):
    """What writes down what runs say."""

    def open(self, worker_id: int, job: LeasedJob, queue: str, refusal: Callable[[str], Outcome]) -> Recording: ...


class Trust(Protocol):
    """The worker row under which jobs are held."""

    @property
    def trusted(self) -> bool: ...
    @property
    def id(self) -> int | None: ...


class Breaking(Protocol):
    """What knows the endpoints that are away, and raises PutOff in `deliver`."""

    def note(self, answer: Answer, delivery: tuple[int, int]) -> None: ...
    def let_go(self, delivery: tuple[int, int]) -> None: ...


class DispatchMetrics(Protocol):
    """What deliveries are counted by."""

    def response(self, queue: str, result: CallbackResult) -> None: ...
    def callback_duration(self, queue: str, seconds: float) -> None: ...
    def job_wait(self, queue: str, seconds: float) -> None: ...


@dataclass(slots=True, eq=False)
class _Running:
    job: LeasedJob
    pool: Pool
    worker_id: int | None
    """None once the row is lost: the delivery's end is then written down nowhere."""
    leased_at: float
    """By the event loop's clock."""
    begun_at: float = 0.0
    record: Recording | None = None
    """A run's."""
    callback: Callback | None = None
    """A job's, once it is made."""
    delivery: asyncio.Task[Settlement | None] | Cancellable | None = None
    """None while it waits for a slot, and while it begins."""


class Dispatcher:
    """Starts deliveries and passes their outcomes on."""

    def __init__(
        self,
        callbacks: Delivering,
        segments: DeliveringRuns,
        journal: Journaling,
        worker: Trust,
        breaker: Breaking,
        metrics: DispatchMetrics,
        *,
        spawn: Callable[[Coroutine[Any, Any, Settlement | None]], asyncio.Task[Settlement | None]],
        settle: Callable[[int, Settlement], None],
        on_freed: Callable[[Pool], None],
    ) -> None:
        """Does nothing yet.

        Args:
            callbacks: sends jobs.
            segments: sends runs.
            journal: writes down what runs say.
            worker: nothing is sent, and nothing settled, once its row is not trusted.
            breaker: told how each delivery went.
            metrics: counts.
            spawn: starts a task in the daemon's group.
            settle: takes an outcome over, with the id of the worker row it was reached under.
            on_freed: called with the pool when a delivery has ended and its slot is free.
        """
        self._callbacks = callbacks
        self._segments = segments
        self._journal = journal
        self._worker = worker
        self._breaker = breaker
        self._metrics = metrics
        self._spawn = spawn
        self._settle = settle
        self._on_freed = on_freed
        # By lease, not by job: a job that was given up with its worker row may be here again before that has ended.
        self._running: dict[tuple[int, int], _Running] = {}
        self._ahead: defaultdict[Pool, deque[_Running]] = defaultdict(deque)
        """Leased, and waiting for a slot."""
        self._ahead_checks: dict[Pool, asyncio.TimerHandle] = {}
        self._runs = 0
        self._repeats = Repeats()
        self._tells_all = _log.is_enabled_for(DEBUG)
        self._idle = asyncio.Event()
        self._idle.set()

    def job_ids(self) -> list[int]:
        """The jobs being delivered, or about to be."""
        return [job_id for job_id, _ in self._running]

    @property
    def has_runs(self) -> bool:
        """Whether a durable run is being delivered."""
        return self._runs > 0

    def start(self, job: LeasedJob, pool: Pool) -> None:
        """Takes a leased job over and begins its delivery, or keeps it for the pool's next slot."""
        worker_id = self._worker.id
        assert worker_id is not None
        self._idle.clear()
        running = _Running(job, pool, worker_id, asyncio.get_running_loop().time())
        self._running[job.id, job.lease] = running
        if pool.full and pool.limit and not pool.cluster:
            self._put_ahead(running)
        else:
            self._begin(running)

    def abandon(self, worker_id: int) -> int:
        """Closes the deliveries of a worker row that is lost; nothing of them is settled. How many there were."""
        lost = [running for running in self._running.values() if running.worker_id == worker_id]
        for running in lost:
            running.worker_id = None
        for running in lost:
            self._cancel(running, "the lease is lost")
        return len(lost)

    def close(self, job_id: int, lease: int) -> None:
        """Closes one delivery: nothing that it says counts any more."""
        running = self._running.get((job_id, lease))
        if running is not None:
            self._cancel(running, "nothing more of it is written down")

    def cancel(self, leases: Collection[tuple[int, int]]) -> int:
        """Closes the deliveries of these (job id, lease), which have been cancelled. How many there were."""
        cancelled = [running for lease in leases if (running := self._running.get(lease)) is not None]
        for running in cancelled:
            self._cancel(running, "the run is cancelled")
        return len(cancelled)

    async def drained(self) -> None:
        """Returns when no delivery is in flight."""
        await self._idle.wait()

    def give_back(self) -> int:
        """Closes all deliveries; their jobs go back unharmed, the attempt not counted. How many there were."""
        every = list(self._running.values())
        for running in every:
            self._cancel(running, "the daemon is stopping")
        return len(every)

    def give_back_ahead(self, pool: Pool) -> None:
        """Gives back what waits for a slot of the pool."""
        for running in list(self._ahead[pool]):
            self._cancel(running, "it is not to begin")

    # Ahead

    def _put_ahead(self, running: _Running) -> None:
        pool = running.pool
        self._ahead[pool].append(running)
        pool.ahead += 1
        if pool not in self._ahead_checks:
            loop = asyncio.get_running_loop()
            self._ahead_checks[pool] = loop.call_later(_AHEAD_PATIENCE, self._check_ahead, pool)

    def _check_ahead(self, pool: Pool) -> None:
        """Gives back what waits for too long: deliveries were quick, and are so no longer."""
        del self._ahead_checks[pool]
        ahead = self._ahead[pool]
        if not ahead:
            return
        loop = asyncio.get_running_loop()
        left = ahead[0].leased_at + _AHEAD_PATIENCE - loop.time()
        if left > 0.001:
            self._ahead_checks[pool] = loop.call_later(left, self._check_ahead, pool)
            return
        pool.rate = 0.0  # nothing ahead until some have ended again
        self.give_back_ahead(pool)

    def _begin_ahead(self, pool: Pool) -> None:
        ahead = self._ahead[pool]
        while ahead and not pool.full:
            pool.ahead -= 1
            self._begin(ahead.popleft())

    # One delivery

    def _begin(self, running: _Running) -> None:
        job, pool = running.job, running.pool
        pool.in_flight += 1
        running.begun_at = asyncio.get_running_loop().time()
        if job.run is not None:
            self._runs += 1
            self._open_record(running)
        elif self._worker.trusted:
            running.delivery = self._begin_now(running)
        if running.delivery is None:
            task = running.delivery = self._spawn(self._deliver(running))
            # A callback, not a finally: a task that is cancelled before its first step never runs any of its code.
            task.add_done_callback(lambda task: self._task_ended(task, running))

    def _open_record(self, running: _Running) -> Recording:
        job, pool = running.job, running.pool
        assert running.worker_id is not None
        running.record = self._journal.open(
            running.worker_id, job, pool.name, lambda note: self._refusal(note, job, pool)
        )
        return running.record

    def _begin_now(self, running: _Running) -> Cancellable | None:
        """Begins a delivery that needs no task; None: it does."""
        try:
            callback = running.callback = self._callbacks.prepared(running.job)
            if callback is None:
                return None
            return self._callbacks.deliver_now(
                running.job, callback, timeout=running.pool.timeout, done=lambda answer: self._answered(running, answer)
            )
        except PutOff:
            return None  # as its task will find, too
        except Exception as error:
            self._log_fault("delivery_failed_unexpectedly", error, running.job, running.pool)
            return None

    def _answered(self, running: _Running, answer: Answer) -> None:
        try:
            settlement = self._settlement(running, answer)
        except Exception as error:  # nobody is above who would hear of it
            self._log_fault("outcome_failed_unexpectedly", error, running.job, running.pool)
            settlement = _released(running)
        self._ended(running, settlement)

    def _cancel(self, running: _Running, why: str) -> None:
        """Closes a delivery, soon; its job goes back, unless the worker row is lost."""
        if isinstance(running.delivery, asyncio.Task):
            running.delivery.cancel(why)
        elif running.delivery is not None:
            if running.delivery.cancel():
                asyncio.get_running_loop().call_soon(self._ended, running, _released(running))
        elif running in self._ahead[running.pool]:
            self._ahead[running.pool].remove(running)
            running.pool.ahead -= 1
            if running.job.run is not None and running.worker_id is not None:
                self._open_record(running)
            self._forget(running, _released(running))

    def _task_ended(self, task: asyncio.Task[Settlement | None], running: _Running) -> None:
        self._ended(running, _released(running) if task.cancelled() else task.result())

    def _ended(self, running: _Running, settlement: Settlement | None) -> None:
        pool = running.pool
        self._breaker.let_go((running.job.id, running.job.lease))
        self._runs -= running.job.run is not None
        pool.in_flight -= 1
        pool.note_end()
        self._forget(running, settlement)
        self._begin_ahead(pool)
        self._on_freed(pool)

    def _forget(self, running: _Running, settlement: Settlement | None) -> None:
        # The settler or the journal has the outcome before `running` forgets the job.
        if settlement is not None and running.worker_id is not None:
            if running.record is None:
                self._settle(running.worker_id, settlement)
            else:
                running.record.finish(settlement.outcome)
        del self._running[running.job.id, running.job.lease]
        if not self._running:
            self._idle.set()

    async def _deliver(self, running: _Running) -> Settlement | None:
        if not self._worker.trusted:
            return None  # goes back when the row is reaped
        job, pool = running.job, running.pool
        # A fault of ours must cost this one attempt, not the daemon with all that it holds.
        try:
            limits = {"timeout": pool.timeout, "connect_timeout": pool.connect_timeout}
            if running.record is None:
                answer = await self._callbacks.deliver(job, running.callback, **limits)
            else:
                answer = await self._segments.deliver(job, running.record, **limits)
        except WorkerLost:
            return None  # as above
        except PutOff as away:
            outcome = Outcome(OutcomeKind.PUT_OFF, delay=away.delay, endpoint=away.endpoint)
            return Settlement(job.id, job.lease, pool.name, outcome, serial=job.serial_queue is not None)
        except Exception as error:
            self._log_fault("delivery_failed_unexpectedly", error, job, pool)
            answer = _fault(error)
        return self._settlement(running, answer)

    def _settlement(self, running: _Running, answer: Answer) -> Settlement:
        """What an answer comes to, counted and logged."""
        job, pool = running.job, running.pool
        self._breaker.note(answer, (job.id, job.lease))
        try:
            settlement = self._conclude(answer, job, pool)
        except Exception as error:
            self._log_fault("outcome_failed_unexpectedly", error, job, pool)
            answer = _fault(error)
            settlement = self._conclude(answer, job, pool)
        if answer.sent_after is not None:
            held = running.begun_at - running.leased_at
            self._metrics.job_wait(pool.name, max(0.0, job.waited) + held + answer.sent_after)
        self._metrics.response(pool.name, answer.result)
        self._metrics.callback_duration(pool.name, answer.duration)
        self._log(job, pool, answer, settlement.outcome)
        return settlement

    def _conclude(self, answer: Answer, job: LeasedJob, pool: Pool) -> Settlement:
        if job.run is not None:
            return Settlement(job.id, job.lease, pool.name, self._conclude_run(answer, job, pool))
        outcome = decide(
            answer,
            attempts=job.attempts,
            max_attempts=job.max_attempts,
            backoff=pool.backoff,
            random=random.random,
            not_found_is_done=pool.not_found_is_done,
        )
        payload = None if outcome.remaining is None else keep_indexes(job.payload, outcome.remaining)
        serial = job.serial_queue is not None
        return Settlement(job.id, job.lease, pool.name, outcome, pool.strict, payload, serial)

    def _conclude_run(self, answer: Answer, job: LeasedJob, pool: Pool) -> Outcome:
        assert job.run is not None
        return decide_segment(
            answer,
            attempts=job.attempts,
            max_attempts=job.max_attempts,
            delivery_failures=job.run.delivery_failures,
            backoff=pool.backoff,
            random=random.random,
        )

    def _refusal(self, note: str, job: LeasedJob, pool: Pool) -> Outcome:
        """How a run goes on that has said something which cannot be carried out: as if its function had failed."""
        return self._conclude_run(Answer(CallbackResult.OK, terminal=Failed(note, retry=True)), job, pool)

    def _log(self, job: LeasedJob, pool: Pool, answer: Answer, outcome: Outcome) -> None:
        if answer.result is CallbackResult.OK:
            for failed in _DELIVERY_FAILED:
                self._repeats.recovered(failed, "endpoint_answers_again", of=answer.endpoint, endpoint=answer.endpoint)
        ended_well = outcome.kind in (OutcomeKind.COMPLETED, OutcomeKind.SUSPENDED)
        if ended_well and not self._tells_all:
            return
        event = "job_" + outcome.kind.value
        fields = {
            "queue": pool.name,
            "job_id": job.id,
            "job_key": job.job_key,
            "attempt": job.attempts,
            "max_attempts": job.max_attempts,
            "outcome": outcome.kind.value,
            "reason": outcome.reason,
            "status_code": answer.status,
            "duration_seconds": round(answer.duration, 4),
            "error": outcome.error,
        }
        if ended_well:
            _log.debug(event, **fields)
        elif outcome.kind is OutcomeKind.DEAD:
            _log.warning(event, **fields)  # the last word on a job is never left out
        else:
            # Of an endpoint that fails, or of a queue whose functions do.
            of = pool.name if answer.result is CallbackResult.OK else answer.endpoint
            self._repeats.log(INFO, event, kind=f"{answer.result} {answer.status}", of=of, **fields)

    def _log_fault(self, event: str, error: Exception, job: LeasedJob, pool: Pool) -> None:
        kind = type(error).__name__
        self._repeats.log(ERROR, event, kind=kind, queue=pool.name, job_id=job.id, exc_info=error)


def _released(running: _Running) -> Settlement:
    return Settlement(running.job.id, running.job.lease, running.pool.name, Outcome(OutcomeKind.RELEASED))


def _fault(error: Exception) -> Answer:
    return Answer(CallbackResult.PROTOCOL_ERROR, error=f"the server failed: {type(error).__name__}")
