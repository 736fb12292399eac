"""Joins the engine's parts: makes them, and tells each what another has found out. They do not know each other.

The daemon runs the loops and says when to lease, to drain and to stop; everything that happens in between is passed on
here.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any

import structlog

from slayq_server import __version__
from slayq_server.app_requests import AppRequests
from slayq_server.db.listener import Listener
from slayq_server.db.rpc import AppCalls
from slayq_server.db.schedules import Schedules
from slayq_server.db.store import Store
from slayq_server.engine.breaker import Breaker
from slayq_server.engine.cancelling import Cancellations
from slayq_server.engine.circuits import Circuits
from slayq_server.engine.delivery import Callbacks
from slayq_server.engine.dispatch import Dispatcher
from slayq_server.engine.journal import Journal
from slayq_server.engine.leasing import (
    CANCEL_WORD,
    ENDPOINTS_WORD,
    EVENTS_WORD,
    LANES_WORD,
    OTHER_WORDS,
    QUEUES_WORD,
    SCHEDULES_WORD,
    TIMER_WORD,
    Leaser,
)
from slayq_server.engine.pools import Pools
from slayq_server.engine.promoter import Promoter
from slayq_server.engine.scheduler import Scheduler
from slayq_server.engine.segment import Segments
from slayq_server.engine.settling import Settler
from slayq_server.engine.upkeep import Upkeep
from slayq_server.engine.vacuuming import Vacuum
from slayq_server.engine.worker import Worker
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence

    from slayq_server.clock import Clock
    from slayq_server.config import Config
    from slayq_server.db.pool import Pool as Connections
    from slayq_server.engine.breaker import Change
    from slayq_server.metrics import Metrics
    from slayq_server.model import Flushed, Heartbeat, ScheduleRow, Settlement
    from slayq_server.plan import Plan
    from slayq_server.report import Report, SnapshotRow

_log = structlog.get_logger()


class Switchboard:
    """The engine, wired."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        connections: Connections,
        clock: Clock,
        metrics: Metrics,
        report: Report,
        *,
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
        run_errand: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """Starts nothing yet.

        Args:
            config: as in force.
            plan: what it means for the engine.
            connections: to the database.
            clock: measures.
            metrics: counts.
            report: tells people.
            spawn: starts a task that is waited for at the end.
            run_errand: starts one that is not.
        """
        self._plan = plan
        self._connections = connections
        self._metrics = metrics
        self._report = report
        self._run_errand = run_errand
        self._telling: set[asyncio.Task[None]] = set()
        """Words for other daemons that are on their way."""
        self.leasing = False
        """Jobs are being leased: from when the loops run until the drain begins."""
        self.store = Store(connections)
        self.pools = Pools(plan.pools())
        metrics.watch_in_flight(lambda: ((pool.name, pool.in_flight) for pool in self.pools.all))
        self.app_requests = AppRequests(
            AppCalls(connections, at_once=max(1, config.database.pool_size // 2)),
            own_words=self._own_words,
            hear=self._hear_call,
            go_by=self._go_by,
        )
        self._make_delivery(config, plan, clock, spawn)
        self._make_loops(config, plan, clock)

    def _make_delivery(
        self, config: Config, plan: Plan, clock: Clock, spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        """The worker row, and what is done under it: lease, deliver, write down."""
        keep_done = config.retention.done is not None
        on_error = self._report.database_error
        limits = config.callbacks.limits
        tls = ssl.create_default_context()  # one for both: reading the system's certificates takes a while
        self.worker = Worker(
            self.store,
            clock,
            name=config.worker.name or f"{socket.gethostname()}:{os.getpid()}",
            version=__version__,
            queues=self.pools.names,
            lease=config.worker.lease,
            renew_every=config.worker.renew,
            on_start=self._worker_started,
            on_heartbeat=self._heartbeat,
            on_lost=self._worker_lost,
            on_renewal=self._report.renewal,
            on_error=on_error,
            circuits=lambda: self._circuits.row(),
        )
        self.breaker = Breaker(
            config.callbacks.breaker.rule(),
            clock.monotonic,
            random.random,
            on_change=self._circuit_changed,
            on_sooner=lambda: self._circuits.look(),
        )
        self.callbacks = Callbacks(
            plan.secrets,
            plan.guard,
            clock,
            retry_after_max=limits.retry_after_max,
            response_limit=limits.response_bytes,
            tls=tls,
            on_blocked=self._metrics.blocked,
            may_send=lambda: self.worker.trusted,
            admit=self.breaker.admit,
        )
        self.segments = Segments(
            plan.secrets,
            plan.guard,
            clock,
            retry_after_max=limits.retry_after_max,
            tls=tls,
            on_blocked=self._metrics.blocked,
            may_send=lambda: self.worker.trusted,
            admit=self.breaker.admit,
            answers=self.breaker.answers,
        )
        self.settler = Settler(
            self.store,
            keep_done=keep_done,
            on_settled=self._settled,
            on_ready=self._ready_by_timer,
            on_error=on_error,
            may_write=self.worker.trusts,
        )
        self.journal = Journal(
            self.store,
            keep_done=keep_done,
            own_words=self._own_words,
            on_settled=self._run_settled,
            on_flushed=self._flushed,
            close=lambda job_id, lease: self.dispatcher.close(job_id, lease),
            on_error=on_error,
            may_write=self.worker.trusts,
        )
        self.dispatcher = Dispatcher(
            self.callbacks,
            self.segments,
            self.journal,
            self.worker,
            self.breaker,
            self._metrics,
            spawn=spawn,
            settle=self.settler.put,
            on_freed=lambda pool: self.leaser.slot_freed(pool),
        )
        self.leaser = Leaser(
            self.store,
            self.worker,
            self.pools,
            clock,
            start=self.dispatcher.start,
            held=lambda: self.dispatcher.job_ids() + self.settler.job_ids() + self.journal.job_ids(),
            on_batch=self._metrics.lease_batch,
            on_error=on_error,
            forbidden_flags=config.forbidden_flags,
            listens=config.database.listens,
            poll_every=plan.poll_every,
        )

    def _make_loops(self, config: Config, plan: Plan, clock: Clock) -> None:
        """What goes on beside it."""
        on_error = self._report.database_error
        self._promoter = Promoter(
            self.store,
            clock,
            on_ready=self._ready_by_timer,
            on_promoted=self._report.promoted,
            on_reaped=self._report.reaped,
            on_error=on_error,
        )
        self._scheduler = Scheduler(
            Schedules(self._connections),
            clock,
            on_fired=self._fired,
            on_times=self._report.schedule_times,
            on_error=on_error,
        )
        self._scheduler.replace(plan.schedules)
        self._upkeep = Upkeep(
            self.store,
            clock,
            beats_every=config.worker.renew,
            on_snapshot=self._snapshot,
            on_error=on_error,
            done_kept=config.retention.done,
            dead_kept=config.retention.dead,
        )
        self._vacuum = Vacuum(self.store, clock)
        self._vacuums = not config.database.poll_only  # through such a pooler each statement is in a transaction
        self._cancellations = Cancellations(
            self.store,
            self.worker,
            delivers_runs=lambda: self.dispatcher.has_runs,
            cancel=self.dispatcher.cancel,
            on_error=on_error,
        )
        self._circuits = Circuits(
            self.store,
            self.breaker,
            clock,
            queues=lambda: [name for pool in self.pools if self.leasing and not pool.paused for name in pool.names],
            on_ready=self._ready_by_timer,
            on_error=on_error,
        )
        self._listener = Listener(
            plan.listen_url,
            self._word,
            self._listening,
            knock=self.store.knock,
            application_name=f"{config.database.application_name} listener",
        )
        self._listens = config.database.listens

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """All but leasing, which ends earlier than these."""
        loops = [
            self.worker.run(),
            self.settler.run(),
            self.journal.run(),
            self._promoter.run(),
            self._scheduler.run(),
            self._cancellations.run(),
            self._circuits.run(),
            self._upkeep.run(),
        ]
        if self._vacuums:
            loops.append(self._vacuum.run())
        if self._listens:
            loops.append(self._listener.run())
        else:
            self._metrics.listener(None)
        return loops

    async def start_delivering(self) -> None:
        """Makes ready to deliver."""
        await self.callbacks.start()
        await self.segments.start()

    async def close(self) -> None:
        """Closes all connections to apps."""
        await self.callbacks.close()
        await self.segments.close()

    async def register(self) -> None:
        """Tells the database of the configuration's queues and slots."""
        await self.store.register_queues(self._plan.queue_facts())
        for pool in self.pools:
            self._metrics.concurrency_limit(pool.name, pool.limit)
            if pool.cluster:
                await self.store.register_slots(pool.name, pool.limit)

    def give_back_ahead(self) -> None:
        """Gives back what is leased and waits for a slot."""
        for pool in self.pools.all:
            self.dispatcher.give_back_ahead(pool)

    async def all_written(self) -> None:
        """Returns when every outcome is written down, or given up, and others know what has become ready by it."""
        await self.settler.drained()
        await self.journal.drained()
        if self._telling:
            await asyncio.wait(self._telling)

    def unwritten(self) -> int:
        """Jobs whose outcomes are not written down."""
        return len(self.settler.job_ids()) + len(self.journal.job_ids())

    def replace(self, config: Config, plan: Plan) -> None:
        """Takes over what can be taken over of a changed configuration."""
        self._plan = plan
        self.pools.replace(plan.pools())
        self.give_back_ahead()  # slots may be fewer, or none, or counted by the database from now on
        for sender in (self.callbacks, self.segments):
            sender.set_secrets(plan.secrets)
            sender.set_guard(plan.guard)
        self.settler.keep_done = self.journal.keep_done = config.retention.done is not None
        self._upkeep.done_kept, self._upkeep.dead_kept = config.retention.done, config.retention.dead
        self.leaser.forbidden_flags = config.forbidden_flags
        self.breaker.set_rule(config.callbacks.breaker.rule())
        self.worker.set_queues(self.pools.names)
        self._scheduler.replace(plan.schedules)

    # What the parts find out

    def _worker_started(self, worker_id: int) -> None:
        for pool in self.pools.all:
            pool.slots = 0
        self.leaser.look_everywhere()
        structlog.contextvars.bind_contextvars(worker=worker_id)

    def _worker_lost(self, worker_id: int) -> None:
        lost = self.dispatcher.abandon(worker_id) + self.settler.forget(worker_id) + self.journal.forget(worker_id)
        self._metrics.leases_lost(lost)
        if lost:
            _log.warning("leases_given_up", worker=worker_id, jobs=lost)

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        # The worker asks most often while the database is away: whoever pauses for longer goes on with it.
        self.leaser.database_answers()
        self._listener.database_answers()
        self._apply_pauses(heartbeat.paused)
        if heartbeat.ready:
            self._metrics.wakeup("poll")
            self.leaser.ready(heartbeat.ready)
        self._promoter.due_in(heartbeat.due_in)
        if heartbeat.unplanned or (heartbeat.tick_in is not None and heartbeat.tick_in <= 0):
            self._scheduler.look()
        if heartbeat.unmatched:
            self._promoter.match()
        if heartbeat.reapable:
            self._promoter.reap()
        if heartbeat.blocked:
            self._promoter.sweep()
        self._circuits.bring_back(heartbeat.stranded)
        self._upkeep.beat()

    def _circuit_changed(self, change: Change) -> None:
        self._report.circuit(change, len(self.breaker.open_circuits()))
        self.worker.look()  # what it finds away stands in its row
        self._circuits.look()
        if not change.opened:
            self._circuits.bring_back([change.endpoint])
            self._tell_others([ENDPOINTS_WORD])

    def _apply_pauses(self, paused: frozenset[str]) -> None:
        resumed = self.pools.set_paused(paused)
        for pool in self.pools:
            self._metrics.paused(pool.name, pool.paused)
            if pool.paused:
                self.dispatcher.give_back_ahead(pool)
        self.leaser.ready(name for pool in resumed for name in pool.names)

    def _word(self, word: str) -> None:
        self._metrics.wakeup("notify")
        if word in OTHER_WORDS:
            self._go_by(word)
        else:
            self.leaser.word(word)

    def _go_by(self, word: str) -> None:
        """Does what one of the words that are no queue's name asks for."""
        if word == TIMER_WORD:
            self._promoter.due_in(0.0)
        elif word == LANES_WORD:
            self._promoter.sweep()
        elif word == EVENTS_WORD:
            self._promoter.match()
        elif word == CANCEL_WORD:
            self._cancellations.look()
        elif word == SCHEDULES_WORD:
            self._scheduler.look()
        elif word == QUEUES_WORD:
            self.worker.look()
        elif word == ENDPOINTS_WORD:
            self.breaker.hurry()

    def _listening(self, connected: bool) -> None:
        self._metrics.listener(connected)
        self._cancellations.listening(connected)
        if connected:
            self.leaser.look_everywhere()
            self._promoter.due_in(0.0)
            self._promoter.match()
            self._scheduler.look()

    def _ready_by_timer(self, queues: Iterable[str]) -> None:
        self._metrics.wakeup("timer")
        names = list(queues)
        self.leaser.ready(names)
        # Whoever makes a job ready wakes its queue's other daemons: this one may not serve it, or is full, or drains.
        self._tell_others(
            [name for name in names if not self.leasing or (pool := self.pools.get(name)) is None or pool.free == 0]
        )

    def _settled(self, settlement: Settlement, verdict: str) -> None:
        self._report.settled(settlement, verdict)
        self._vacuum.ended()
        if settlement.outcome.kind in (OutcomeKind.RETRIED, OutcomeKind.PUT_OFF) and verdict == "settled":
            self._promoter.due_in(settlement.outcome.delay)

    def _run_settled(self, settlement: Settlement, verdict: str) -> None:
        self._report.settled(settlement, verdict)
        self._vacuum.ended()
        if settlement.outcome.kind is OutcomeKind.DEAD or verdict == "dropped":
            self._promoter.match()  # whoever invoked it is told at commit: too late for words of our own

    def _flushed(self, runs: int, ops: int, flushed: Flushed) -> None:
        self._metrics.flush(runs, ops)
        self._promoter.due_in(flushed.due_in)
        self._hear(flushed.heard)
        if flushed.ready:
            self._ready_by_timer(flushed.ready)

    def _fired(self, schedule: ScheduleRow, result: str, number: int) -> None:
        self._report.fired(schedule, result, number)
        if result in ("fired", "caught_up"):
            self.leaser.ready([schedule.queue])

    def _snapshot(self, rows: Sequence[SnapshotRow]) -> None:
        self._apply_pauses(self._report.snapshot(rows))
        self._metrics.pool(self._connections.counts)

    # Words of our own: what comes of what we do ourselves needs no NOTIFY

    def _hear_call(self, heard: Collection[str]) -> None:
        if heard and self.leasing:  # what was heard as the drain began, the other daemons' heartbeats find
            self._metrics.wakeup("rpc")
        self._hear(heard)

    def _hear(self, heard: Collection[str]) -> None:
        if not heard or not self.leasing:
            return
        queues = [word for word in heard if word not in OTHER_WORDS]
        for word in OTHER_WORDS.intersection(heard):
            self._go_by(word)
        self.leaser.ready(queues)
        self._tell_others([queue for queue in queues if not self._takes(queue)])

    def _own_words(self) -> list[str]:
        """The words by which this daemon goes at once, so that nobody need be notified.

        Not those that are for all daemons: another one may deliver the run that is cancelled.
        """
        if not self.leasing or not self.worker.trusted:
            return []
        return [TIMER_WORD, LANES_WORD, EVENTS_WORD, *filter(self._takes, self.pools.names)]

    def _takes(self, queue: str) -> bool:
        """Whether a job of this queue may start here, now or when a lease that is on its way has come back."""
        pool = self.pools.get(queue)
        return pool is not None and not pool.paused and not pool.full

    def _tell_others(self, words: Sequence[str]) -> None:
        if words:
            task = self._run_errand(self._tell(words))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, words: Sequence[str]) -> None:
        try:
            await self.store.notify(words)
        except DatabaseUnavailable as error:
            self._report.database_error(error)  # the other daemons' heartbeats find the jobs
