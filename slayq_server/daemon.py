"""The daemon: the one place that wires the parts together. Read `run` from top to bottom: start, serve, drain, stop.

One TaskGroup owns every task. The parts do not know each other; what one finds out, another is told here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import sdnotify  # type: ignore[import-untyped]
import structlog

from slayq_server import __version__
from slayq_server.clock import SystemClock
from slayq_server.config import effective, load
from slayq_server.db import migrate
from slayq_server.db.listener import Listener
from slayq_server.db.pool import Pool as Connections
from slayq_server.db.pooler import shares_sessions
from slayq_server.db.rpc import AppCalls
from slayq_server.db.schedules import Schedules
from slayq_server.db.store import Store
from slayq_server.engine.delivery import Callbacks
from slayq_server.engine.dispatch import Dispatcher
from slayq_server.engine.leasing import LANES_WORD, QUEUES_WORD, TIMER_WORD, Leaser
from slayq_server.engine.pools import Pools
from slayq_server.engine.promoter import Promoter
from slayq_server.engine.scheduler import Scheduler
from slayq_server.engine.settling import Settler
from slayq_server.engine.upkeep import Upkeep
from slayq_server.engine.worker import Worker
from slayq_server.errors import ConfigurationError, DatabaseUnavailable, StatementFailed
from slayq_server.http.health import HealthState
from slayq_server.http.rpc import Rpc
from slayq_server.http.server import HttpServer
from slayq_server.metrics import Metrics
from slayq_server.model import OutcomeKind
from slayq_server.plan import Plan
from slayq_server.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from pathlib import Path

    from slayq_server.config import Config
    from slayq_server.model import Heartbeat, ScheduleRow, Settlement
    from slayq_server.protocol.rpc_v1 import Call
    from slayq_server.report import SnapshotRow
    from slayq_server.settings import Settings

_T = TypeVar("_T")
_SETTLE_AT_STOP = 5.0
"""Seconds that outcomes may take to be written down at shutdown, after the deliveries have ended."""
_RETIRE_AT_STOP = 2.0
"""Seconds that ending the worker row may take at shutdown."""
_LOOP_CHECK_EVERY = 1.0
_log = structlog.get_logger()


async def serve(
    config: Config,
    settings: Settings,
    *,
    config_path: Path | None = None,
    reload_settings: Callable[[], Settings] | None = None,
) -> int:
    """Runs a daemon until SIGTERM or SIGINT; returns the exit code.

    A second signal hurries the drain; SIGHUP loads `config_path` again, and the settings by `reload_settings`.

    Raises:
        ConfigurationError: the port is in use.
        SchemaError: the database's schema does not fit this server.
    """
    daemon = Daemon(config, settings, config_path=config_path, reload_settings=reload_settings)
    with daemon.signals():
        await daemon.run()
    return 0


class Daemon:
    """One process: a worker row, its pools, its loops."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        *,
        config_path: Path | None = None,
        reload_settings: Callable[[], Settings] | None = None,
    ) -> None:
        self._config = effective(config, settings)
        self._config_path = config_path
        self._load_settings = reload_settings or (lambda: settings)
        self._clock = SystemClock()
        self._notifier = sdnotify.SystemdNotifier()
        plan = Plan.of(self._config, settings)
        self._plan = plan

        self._connections = Connections(
            settings.database_url.get_secret_value(),
            size=self._config.database.pool_size,
            pooled=self._config.database.poll_only,
            application_name=self._config.database.application_name,
        )
        self._store = Store(self._connections)
        self._pools = Pools(plan.pools())
        self._metrics = Metrics(
            [pool.name for pool in self._pools],
            [schedule.id for schedule in plan.schedules],
            __version__,
            migrate.load()[-1].number,
            aliases=plan.aliases,
        )
        limits = self._config.callbacks.limits
        self._callbacks = Callbacks(
            plan.secrets,
            plan.guard,
            self._clock,
            retry_after_max=limits.retry_after_max,
            response_limit=limits.response_bytes,
            on_blocked=self._metrics.blocked,
            may_send=lambda: self._worker.trusted,
        )
        self._report = Report(self._metrics, self._clock)
        self._app_calls = AppCalls(self._connections, at_once=max(1, self._config.database.pool_size // 2))
        self._rpc = Rpc(self._carry_out, plan.secrets, self._metrics, on_error=self._report.app_call_error)
        self._http = HttpServer(
            self._config.http.bind,
            self._config.http.port,
            health=self._health,
            metrics=self._metrics,
            metrics_tokens=plan.metrics_tokens,
            routes=self._rpc.routes,
        )
        self._wire()

        self._group: asyncio.TaskGroup | None = None
        self._errands: set[asyncio.Task[None]] = set()
        """What was started by the way, and is not waited for at shutdown."""
        self._stopping = asyncio.Event()
        self._hurried = False
        self._patience: asyncio.Timeout | None = None
        """What a signal cuts short: waiting for the database at start, and for deliveries while draining."""
        self._draining = False
        self._leasing = False
        self._schema_fits = False

    def _wire(self) -> None:
        """Makes the engine's parts and tells each whom to tell."""
        config = self._config
        self._worker = Worker(
            self._store,
            self._clock,
            name=config.worker.name or f"{socket.gethostname()}:{os.getpid()}",
            version=__version__,
            queues=self._pools.names,
            lease=config.worker.lease,
            renew_every=config.worker.renew,
            on_start=self._worker_started,
            on_heartbeat=self._heartbeat,
            on_lost=self._worker_lost,
            on_renewal=self._report.renewal,
        )
        self._settler = Settler(
            self._store,
            keep_done=config.retention.done is not None,
            on_settled=self._settled,
            on_ready=self._ready_by_timer,
            on_error=self._report.database_error,
        )
        self._dispatcher = Dispatcher(
            self._callbacks,
            self._worker,
            self._metrics,
            spawn=self._spawn,
            settle=self._settler.put,
            on_freed=lambda pool: self._leaser.slot_freed(pool),
        )
        self._leaser = Leaser(
            self._store,
            self._worker,
            self._pools,
            self._clock,
            start=self._dispatcher.start,
            held=lambda: self._dispatcher.job_ids() + self._settler.job_ids(),
            on_batch=self._metrics.lease_batch,
            on_error=self._report.database_error,
            forbidden_flags=config.forbidden_flags,
            listens=config.database.listens,
            poll_every=self._plan.poll_every,
        )
        self._promoter = Promoter(
            self._store,
            self._clock,
            on_ready=self._ready_by_timer,
            on_promoted=self._report.promoted,
            on_reaped=self._report.reaped,
            on_error=self._report.database_error,
        )
        self._scheduler = Scheduler(
            Schedules(self._connections),
            self._clock,
            on_fired=self._fired,
            on_times=self._report.schedule_times,
            on_error=self._report.database_error,
        )
        self._scheduler.replace(self._plan.schedules)
        self._upkeep = Upkeep(
            self._store,
            on_snapshot=self._snapshot,
            on_error=self._report.database_error,
            done_kept=config.retention.done,
            dead_kept=config.retention.dead,
        )
        self._listener = Listener(
            self._plan.listen_url,
            self._word,
            self._listening,
            knock=self._store.knock,
            application_name=f"{config.database.application_name} listener",
        )

    # Life

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT drain, a second one hurries; SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Drains and ends; called again, at once."""
        self._hurried = self._stopping.is_set()
        self._stopping.set()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def _patiently(self, waiting: Coroutine[Any, Any, None], seconds: float | None) -> bool:
        """Awaits for so long, or until a (further) signal; whether it came to its end."""
        try:
            async with asyncio.timeout(seconds) as self._patience:
                await waiting
        except TimeoutError:
            return False
        finally:
            self._patience = None
        return True

    async def run(self) -> None:
        """Starts, serves until told to stop, drains."""
        _log.info("starting", version=__version__, queues=self._pools.names)
        await self._http.start()
        self._notifier.notify("READY=1")  # /livez is there; a database that is away is waited for, not a failed start
        try:
            if await self._start():
                await self._serve()
        finally:
            await self._callbacks.close()
            await self._connections.close()
            await self._http.close()
        _log.info("stopped")

    async def _start(self) -> bool:
        """Waits for the database and prepares it; False if told to stop first."""
        if self._stopping.is_set() or not await self._patiently(self._prepare(), None):
            return False
        await self._callbacks.start()
        return True

    async def _prepare(self) -> None:
        pause = 0.5
        while True:
            try:
                await self._require_sessions()
                version = await migrate.ensure(self._connections.url, app_roles=self._config.grants.roles)
                self._schema_fits = True
                _log.info("schema_ready", schema=version)
                await self._connections.open()
                await self._register()
                return
            except StatementFailed:
                raise  # a migration that cannot be applied, say: nothing that passes
            except DatabaseUnavailable as error:
                self._report.database_error(error)
                _log.warning("database_unavailable", error=str(error), retry_seconds=pause)
            await self._connections.close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _require_sessions(self) -> None:
        """Raises ConfigurationError for a pooler in transaction mode that the configuration says nothing of."""
        if not self._config.database.poll_only and await shares_sessions(self._connections.url):
            raise ConfigurationError(
                "SLAY_Q_DATABASE_URL leads to a pooler in transaction mode: set database.poll_only (SLAY_Q_POLL_ONLY) "
                "to true, and SLAY_Q_LISTEN_URL to a direct or session-pooled address, if there is one, "
                "so that jobs start at once. Or use such an address for everything."
            )

    async def _register(self) -> None:
        """Tells the database of this configuration's queues and slots."""
        await self._store.register_queues(self._plan.queue_facts())
        for pool in self._pools:
            self._metrics.concurrency_limit(pool.name, pool.limit)
            if pool.cluster:
                await self._store.register_slots(pool.name, pool.limit)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            loops = [group.create_task(loop) for loop in self._loops()]
            lease_loop = group.create_task(self._leaser.run())
            self._leasing = True
            _log.info("ready", bind=self._config.http.bind, port=self._http.port)
            await self._stopping.wait()
            await self._drain(lease_loop)
            for task in [*loops, *self._errands]:
                task.cancel()

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        loops = [
            self._worker.run(),
            self._settler.run(),
            self._promoter.run(),
            self._scheduler.run(),
            self._upkeep.run_snapshots(),
            self._upkeep.run_pruning(),
            self._watch_event_loop(),
        ]
        if self._config.database.listens:
            loops.append(self._listener.run())
        else:
            self._metrics.listener(None)
        return loops

    async def _drain(self, lease_loop: asyncio.Task[None]) -> None:
        """Leases nothing more, lets deliveries end within the grace, gives back the rest, writes every outcome down."""
        self._draining = True
        self._leasing = False
        self._metrics.draining(True)
        self._notifier.notify("STOPPING=1")
        _log.info("draining", in_flight=self._pools.in_flight, grace_seconds=self._config.grace)
        if not await self._patiently(self._deliveries_end(), 0.0 if self._hurried else self._config.grace):
            lease_loop.cancel()  # a lease that is still on its way hands out nothing more
            await asyncio.wait([lease_loop])
            _log.warning("giving_back", jobs=self._dispatcher.give_back())
            await self._dispatcher.drained()
        try:
            async with asyncio.timeout(_SETTLE_AT_STOP):
                await self._settler.drained()
        except TimeoutError:
            _log.warning("stopped_without_settling", jobs=len(self._settler.job_ids()))
        try:
            async with asyncio.timeout(_RETIRE_AT_STOP):
                await self._worker.retire()
        except (TimeoutError, DatabaseUnavailable) as error:
            # The database is away: the row expires by itself, and the jobs go back then.
            _log.warning("worker_not_retired", error_type=type(error).__name__)

    async def _deliveries_end(self) -> None:
        await self._leaser.stop()
        await self._dispatcher.drained()

    def reload(self) -> None:
        """Takes over what can be taken over of a changed configuration; a bad file changes nothing."""
        if self._config_path is None or self._group is None or self._draining:
            return
        try:
            settings = self._load_settings()
            config = effective(load(self._config_path), settings)
            plan = Plan.of(config, settings)
        except ConfigurationError as error:
            self._metrics.reload(False)
            _log.error("reload_failed", error=str(error))
            return
        self._config, self._plan = config, plan
        self._pools.replace(plan.pools())
        self._metrics.set_queues([pool.name for pool in self._pools], plan.aliases)
        self._metrics.set_schedules([schedule.id for schedule in plan.schedules])
        self._callbacks.set_secrets(plan.secrets)
        self._rpc.set_secrets(plan.secrets)
        self._callbacks.set_guard(plan.guard)
        self._settler.keep_done = config.retention.done is not None
        self._upkeep.done_kept, self._upkeep.dead_kept = config.retention.done, config.retention.dead
        self._leaser.forbidden_flags = config.forbidden_flags
        self._worker.set_queues(self._pools.names)
        self._scheduler.replace(plan.schedules)
        self._http.set_metrics_tokens(plan.metrics_tokens)
        self._run_errand(self._finish_reload())

    async def _finish_reload(self) -> None:
        try:
            await self._register()
        except DatabaseUnavailable as error:
            self._metrics.reload(False)
            self._report.database_error(error)
            _log.error("reload_failed", error=str(error))
            return
        finally:
            self._leaser.look_everywhere()  # slots of a queue that is gone or has another limit, too
        self._metrics.reload(True)
        _log.info("reloaded", queues=self._pools.names)

    # What the parts find out

    def _worker_started(self, worker_id: int) -> None:
        for pool in self._pools.all:
            pool.slots = 0
        self._leaser.look_everywhere()
        structlog.contextvars.bind_contextvars(worker=worker_id)

    def _worker_lost(self, worker_id: int) -> None:
        lost = self._dispatcher.abandon(worker_id) + self._settler.forget(worker_id)
        self._metrics.leases_lost(lost)

    def _heartbeat(self, heartbeat: Heartbeat) -> None:
        self._apply_pauses(heartbeat.paused)
        if heartbeat.ready:
            self._metrics.wakeup("poll")
            self._leaser.ready(heartbeat.ready)
        self._promoter.due_in(heartbeat.due_in)
        if heartbeat.tick_in is not None and heartbeat.tick_in <= 0:
            self._scheduler.look()
        if heartbeat.reapable:
            self._promoter.reap()
        if heartbeat.blocked:
            self._promoter.sweep()

    def _apply_pauses(self, paused: frozenset[str]) -> None:
        resumed = self._pools.set_paused(paused)
        for pool in self._pools:
            self._metrics.paused(pool.name, pool.paused)
        self._leaser.ready(name for pool in resumed for name in pool.names)

    def _word(self, word: str) -> None:
        self._metrics.wakeup("notify")
        if word == TIMER_WORD:
            self._promoter.due_in(0.0)
        elif word == LANES_WORD:
            self._promoter.sweep()
        elif word == QUEUES_WORD:
            self._worker.look()
        else:
            self._leaser.word(word)

    def _listening(self, connected: bool) -> None:
        self._metrics.listener(connected)
        if connected:
            self._leaser.look_everywhere()
            self._promoter.due_in(0.0)

    async def _carry_out(self, call: Call) -> None:
        """Does what an app asks for over HTTP, and goes by what comes of it, without a NOTIFY to itself."""
        heard = await self._app_calls.carry_out(call, self._own_words())
        if not heard or not self._leasing:
            return  # what was heard as the drain began, the other daemons' heartbeats find
        self._metrics.wakeup("rpc")
        if TIMER_WORD in heard:
            self._promoter.due_in(0.0)
        if LANES_WORD in heard:
            self._promoter.sweep()
        queues = [word for word in heard if word not in (TIMER_WORD, LANES_WORD)]
        self._leaser.ready(queues)
        self._tell_others([queue for queue in queues if not self._takes(queue)])

    def _own_words(self) -> list[str]:
        """The words by which this daemon goes at once, so that nobody need be notified."""
        if not self._leasing or not self._worker.trusted:
            return []
        return [TIMER_WORD, LANES_WORD, *filter(self._takes, self._pools.names)]

    def _takes(self, queue: str) -> bool:
        """Whether a job of this queue may start here, now or when a lease that is on its way has come back."""
        pool = self._pools.get(queue)
        return pool is not None and not pool.paused and not pool.full

    def _ready_by_timer(self, queues: Iterable[str]) -> None:
        self._metrics.wakeup("timer")
        names = list(queues)
        self._leaser.ready(names)
        # Whoever makes a job ready wakes its queue's other daemons: this one may not serve it, or have no free slot.
        elsewhere = [name for name in names if (pool := self._pools.get(name)) is None or pool.free == 0]
        self._tell_others(elsewhere)

    def _tell_others(self, words: Sequence[str]) -> None:
        if words:
            self._run_errand(self._tell(words))

    async def _tell(self, words: Sequence[str]) -> None:
        try:
            await self._store.notify(words)
        except DatabaseUnavailable as error:
            self._report.database_error(error)  # the other daemons' heartbeats find the jobs

    def _settled(self, settlement: Settlement, verdict: str) -> None:
        self._report.settled(settlement, verdict)
        if settlement.outcome.kind is OutcomeKind.RETRIED and verdict == "settled":
            self._promoter.due_in(settlement.outcome.delay)

    def _fired(self, schedule: ScheduleRow, result: str, number: int) -> None:
        self._report.fired(schedule, result, number)
        if result in ("fired", "caught_up"):
            self._leaser.ready([schedule.queue])

    def _snapshot(self, rows: Sequence[SnapshotRow]) -> None:
        self._apply_pauses(self._report.snapshot(rows))
        self._metrics.pool(self._connections.counts)

    def _health(self) -> HealthState:
        return HealthState(
            database=self._report.database_down_for == 0.0,
            database_down_for=self._report.database_down_for,
            schema=self._schema_fits,
            worker=self._worker.trusted,
            leasing=self._leasing,
            draining=self._draining,
            detail={"worker": self._worker.id, "in_flight": self._pools.in_flight, "unserved": self._report.unserved},
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        assert self._group is not None, "nothing is started before the group is there"
        return self._group.create_task(coroutine)

    def _run_errand(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._spawn(coroutine)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _watch_event_loop(self) -> None:
        """Measures how late the loop turns, and tells systemd's watchdog that it does."""
        while True:
            due = self._clock.monotonic() + _LOOP_CHECK_EVERY
            await asyncio.sleep(_LOOP_CHECK_EVERY)
            self._metrics.loop_lag(max(0.0, self._clock.monotonic() - due))
            self._notifier.notify("WATCHDOG=1")
