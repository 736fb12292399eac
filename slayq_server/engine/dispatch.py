"""Deliveries in flight: a task for each leased job, from the callback to the outcome.

A job of protocol v1 is a callback whose outcome goes to the settler. A durable run is a segment that fills a record of
the journal as it goes along; its outcome ends the record. All else is the same for both: slots, trust, the drain.

Invariant: a job is in `running` from the moment it is leased until its outcome is with the settler or the journal, or
given up, so that whoever asks "what do we hold?" gets a complete answer.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from logging import ERROR, INFO
from typing import TYPE_CHECKING, Any, Protocol

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

_DELIVERY_FAILED = ("job_retried", "job_undelivered")
_log = structlog.get_logger()


class Delivering(Protocol):
    """What sends a callback."""

    async def deliver(self, job: LeasedJob, *, timeout: float, connect_timeout: float) -> Answer: ...


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
    def in_flight(self, queue: str, n: int) -> None: ...


@dataclass(slots=True)
class _Running:
    worker_id: int | None
    """None once the row is lost: the delivery's end is then written down nowhere."""
    task: asyncio.Task[Settlement | None]
    record: Recording | None
    """A run's."""


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
        self._runs = 0
        self._repeats = Repeats()
        self._idle = asyncio.Event()
        self._idle.set()

    def job_ids(self) -> list[int]:
        """The jobs being delivered."""
        return [job_id for job_id, _ in self._running]

    @property
    def has_runs(self) -> bool:
        """Whether a durable run is being delivered."""
        return self._runs > 0

    def start(self, job: LeasedJob, pool: Pool) -> None:
        """Takes a leased job over and begins its delivery."""
        worker_id = self._worker.id
        assert worker_id is not None
        pool.in_flight += 1
        self._idle.clear()
        record = None
        if job.run is not None:
            self._runs += 1
            record = self._journal.open(worker_id, job, pool.name, lambda note: self._refusal(note, job, pool))
        task = self._spawn(self._deliver(job, pool, record))
        running = self._running[job.id, job.lease] = _Running(worker_id, task, record)
        # A callback, not a finally: a task that is cancelled before its first step never runs any of its code.
        task.add_done_callback(lambda task: self._ended(task, job, pool, running))
        self._metrics.in_flight(pool.name, pool.in_flight)

    def abandon(self, worker_id: int) -> int:
        """Closes the deliveries of a worker row that is lost; nothing of them is settled. How many there were."""
        lost = [running for running in self._running.values() if running.worker_id == worker_id]
        for running in lost:
            running.worker_id = None
            running.task.cancel("the lease is lost")
        return len(lost)

    def close(self, job_id: int, lease: int) -> None:
        """Closes one delivery: nothing that it says counts any more."""
        running = self._running.get((job_id, lease))
        if running is not None:
            running.task.cancel("nothing more of it is written down")

    def cancel(self, leases: Collection[tuple[int, int]]) -> int:
        """Closes the deliveries of these (job id, lease), which have been cancelled. How many there were."""
        cancelled = [running for lease in leases if (running := self._running.get(lease)) is not None]
        for running in cancelled:
            running.task.cancel("the run is cancelled")
        return len(cancelled)

    async def drained(self) -> None:
        """Returns when no delivery is in flight."""
        await self._idle.wait()

    def give_back(self) -> int:
        """Closes all deliveries; their jobs go back unharmed, the attempt not counted. How many there were."""
        for running in self._running.values():
            running.task.cancel("the daemon is stopping")
        return len(self._running)

    def _ended(self, task: asyncio.Task[Settlement | None], job: LeasedJob, pool: Pool, running: _Running) -> None:
        if task.cancelled():
            settlement: Settlement | None = Settlement(job.id, job.lease, pool.name, Outcome(OutcomeKind.RELEASED))
        else:
            settlement = task.result()
        self._breaker.let_go((job.id, job.lease))
        # The settler or the journal has the outcome before `running` forgets the job.
        if settlement is not None and running.worker_id is not None:
            if running.record is None:
                self._settle(running.worker_id, settlement)
            else:
                running.record.finish(settlement.outcome)
        del self._running[job.id, job.lease]
        self._runs -= job.run is not None
        pool.in_flight -= 1
        self._metrics.in_flight(pool.name, pool.in_flight)
        if not self._running:
            self._idle.set()
        self._on_freed(pool)

    async def _deliver(self, job: LeasedJob, pool: Pool, record: Recording | None) -> Settlement | None:
        if not self._worker.trusted:
            return None  # goes back when the row is reaped
        # A fault of ours must cost this one attempt, not the daemon with all that it holds.
        try:
            limits = {"timeout": pool.timeout, "connect_timeout": pool.connect_timeout}
            if record is None:
                answer = await self._callbacks.deliver(job, **limits)
            else:
                answer = await self._segments.deliver(job, record, **limits)
        except WorkerLost:
            return None  # as above
        except PutOff as away:
            outcome = Outcome(OutcomeKind.PUT_OFF, delay=away.delay, endpoint=away.endpoint)
            return Settlement(job.id, job.lease, pool.name, outcome)
        except Exception as error:
            self._log_fault("delivery_failed_unexpectedly", error, job, pool)
            answer = _fault(error)
        self._breaker.note(answer, (job.id, job.lease))
        try:
            settlement = self._conclude(answer, job, pool)
        except Exception as error:
            self._log_fault("outcome_failed_unexpectedly", error, job, pool)
            answer = _fault(error)
            settlement = self._conclude(answer, job, pool)
        if answer.sent_after is not None:
            self._metrics.job_wait(pool.name, max(0.0, job.waited) + answer.sent_after)
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
        return Settlement(job.id, job.lease, pool.name, outcome, pool.strict, payload)

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
        if outcome.kind in (OutcomeKind.COMPLETED, OutcomeKind.SUSPENDED):
            _log.debug(event, **fields)
        elif outcome.kind is OutcomeKind.DEAD:
            _log.warning(event, **fields)  # the last word on a job is never left out
        else:
            # Of an endpoint that fails, or of a queue whose functions do.
            of = pool.name if answer.result is CallbackResult.OK else answer.endpoint
            self._repeats.log(INFO, event, kind=f"{answer.result} {answer.status}", of=of, **fields)
        if answer.result is CallbackResult.OK:
            for failed in _DELIVERY_FAILED:
                self._repeats.recovered(failed, "endpoint_answers_again", of=answer.endpoint, endpoint=answer.endpoint)

    def _log_fault(self, event: str, error: Exception, job: LeasedJob, pool: Pool) -> None:
        kind = type(error).__name__
        self._repeats.log(ERROR, event, kind=kind, queue=pool.name, job_id=job.id, exc_info=error)


def _fault(error: Exception) -> Answer:
    return Answer(CallbackResult.PROTOCOL_ERROR, error=f"the server failed: {type(error).__name__}")
