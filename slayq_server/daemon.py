"""The daemon's life. Read `run` from top to bottom: start, serve, drain, stop.

One TaskGroup owns every task. What goes on while it serves, the `Switchboard` passes on from part to part.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from logging import WARNING
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sdnotify  # type: ignore[import-untyped]
import structlog

from slayq_server import __version__
from slayq_server.clock import SystemClock
from slayq_server.config import effective, load
from slayq_server.db import migrate
from slayq_server.db.pool import Pool as Connections
from slayq_server.db.pooler import shares_sessions
from slayq_server.errors import ConfigurationError, DatabaseUnavailable, StatementFailed
from slayq_server.http.api import Api
from slayq_server.http.health import HealthState
from slayq_server.http.rpc import Rpc
from slayq_server.http.server import HttpServer
from slayq_server.http.signed import Bodies
from slayq_server.metrics import Metrics
from slayq_server.plan import Plan
from slayq_server.repeats import Repeats
from slayq_server.report import Report
from slayq_server.switchboard import Switchboard

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from slayq_server.config import Config
    from slayq_server.http.server import Processes
    from slayq_server.settings import Settings

_T = TypeVar("_T")
_SETTLE_AT_STOP = 5.0
"""Seconds that outcomes may take to be written down at shutdown, after the deliveries have ended."""
_RETIRE_AT_STOP = 2.0
"""Seconds that ending the worker row may take at shutdown."""
_LOOP_CHECK_EVERY = 1.0
_STALL = 1.0
"""Seconds by which the event loop may be late before that is a line in the log."""
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


class Notifier(Protocol):
    """Whom the daemon tells how it is, in systemd's words."""

    def notify(self, state: str) -> object: ...


class Daemon:
    """One process: a worker row, its pools, its loops."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        *,
        config_path: Path | None = None,
        reload_settings: Callable[[], Settings] | None = None,
        notifier: Notifier | None = None,
        sockets: Sequence[socket.socket] = (),
        processes: Processes | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            config: of the file.
            settings: go over it.
            config_path: what a reload reads; None where the supervisor does that.
            reload_settings: reads the settings again.
            notifier: the service manager, or who stands in for it.
            sockets: bound to the address already, where several processes share it.
            processes: speaks for all of those.
        """
        self._config = effective(config, settings)
        self._config_path = config_path
        self._load_settings = reload_settings or (lambda: settings)
        self._clock = SystemClock()
        self._notifier = sdnotify.SystemdNotifier() if notifier is None else notifier
        plan = Plan.of(self._config, settings)
        self._plan = plan

        self._connections = Connections(
            settings.database_url.get_secret_value(),
            size=self._config.database.pool_size,
            pooled=self._config.database.poll_only,
            application_name=self._config.database.application_name,
        )
        self.metrics = Metrics(
            [pool.name for pool in plan.pools()],
            [schedule.id for schedule in plan.schedules],
            __version__,
            migrate.load()[-1].number,
            aliases=plan.aliases,
        )
        self._report = Report(self.metrics, self._clock)
        self._engine = Switchboard(
            self._config,
            plan,
            self._connections,
            self._clock,
            self.metrics,
            self._report,
            spawn=self._spawn,
            run_errand=self._run_errand,
        )
        bodies, on_error = Bodies(), self._report.app_call_error
        apps = self._engine.app_requests
        self._rpc = Rpc(apps.carry_out, plan.secrets, self.metrics, bodies=bodies, on_error=on_error)
        self._api = Api(apps, plan.secrets, self.metrics, self._clock, bodies=bodies, on_error=on_error)
        self._http = HttpServer(
            self._config.http.bind,
            self._config.http.port,
            health=self.health,
            metrics=self.metrics,
            metrics_tokens=plan.metrics_tokens,
            routes=[*self._rpc.routes, *self._api.routes],
            sockets=sockets,
            processes=processes,
        )

        self._group: asyncio.TaskGroup | None = None
        self._errands: set[asyncio.Task[None]] = set()
        """What was started by the way, and is not waited for at shutdown."""
        self._stopping = asyncio.Event()
        self._hurried = False
        self._patience: asyncio.Timeout | None = None
        """What a signal cuts short: waiting for the database at start, and for deliveries while draining."""
        self._draining = False
        self._schema_fits = False
        self._adopted_early = False
        """A configuration came before the database was there: it may have been told of the one before."""

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

    async def abandon(self) -> None:
        """Ends at once, and leaves the address to a server that may be starting already."""
        await self._http.stop_listening()
        self.stop()
        self.stop()

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
        _log.info("starting", version=__version__, queues=self._engine.pools.names)
        await self._http.start()
        self._notifier.notify("READY=1")  # /livez is there; a database that is away is waited for, not a failed start
        try:
            if await self._start():
                await self._serve()
        finally:
            await self._engine.close()
            await self._connections.close()
            await self._http.close()
        _log.info("stopped")

    async def _start(self) -> bool:
        """Waits for the database and prepares it; False if told to stop first."""
        if self._stopping.is_set() or not await self._patiently(self._prepare(), None):
            return False
        await self._engine.start_delivering()
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
                await self._engine.register()
                return
            except StatementFailed:
                raise  # a migration that cannot be applied, say: nothing that passes
            except DatabaseUnavailable as error:
                self._report.database_awaited(error, pause)
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

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            loops = [group.create_task(loop) for loop in self._loops()]
            lease_loop = group.create_task(self._engine.leaser.run())
            self._engine.leasing = True
            if self._adopted_early:
                self._run_errand(self._finish_reload())
            _log.info("ready", bind=self._config.http.bind, port=self._http.port)
            await self._stopping.wait()
            await self._drain(lease_loop)
            for task in [*loops, *self._errands]:
                task.cancel()

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        return [*self._engine.loops(), self._connections.grow(), self._watch_event_loop()]

    async def _drain(self, lease_loop: asyncio.Task[None]) -> None:
        """Leases nothing more, lets deliveries end within the grace, gives back the rest, writes every outcome down."""
        engine = self._engine
        self._draining = True
        engine.leasing = False
        self.metrics.draining(True)
        self._notifier.notify("STOPPING=1")
        _log.info("draining", in_flight=engine.pools.in_flight, grace_seconds=self._config.grace)
        if not await self._patiently(self._deliveries_end(), 0.0 if self._hurried else self._config.grace):
            lease_loop.cancel()  # a lease that is still on its way hands out nothing more
            await asyncio.wait([lease_loop])
            _log.warning("giving_back", jobs=engine.dispatcher.give_back())
            await engine.dispatcher.drained()
        try:
            async with asyncio.timeout(_SETTLE_AT_STOP):
                await engine.all_written()
        except TimeoutError:
            if jobs := engine.unwritten():
                _log.warning("stopped_without_settling", jobs=jobs)
        try:
            async with asyncio.timeout(_RETIRE_AT_STOP):
                await engine.worker.retire()
        except (TimeoutError, DatabaseUnavailable) as error:
            # The database is away: the row expires by itself, and the jobs go back then.
            _log.warning("worker_not_retired", error_type=type(error).__name__)

    async def _deliveries_end(self) -> None:
        self._engine.give_back_ahead()
        await self._engine.leaser.stop()
        self._engine.give_back_ahead()  # a lease was on its way
        await self._engine.dispatcher.drained()

    def reload(self) -> None:
        """Takes over what can be taken over of a changed configuration; a bad file changes nothing."""
        if self._config_path is None or self._group is None or self._draining:
            return
        try:
            settings = self._load_settings()
            self.adopt(load(self._config_path), settings)
        except ConfigurationError as error:
            self.refuse_reload(str(error))

    def adopt(self, config: Config, settings: Settings) -> None:
        """Takes over what can be taken over of another configuration.

        Raises:
            ConfigurationError: it is wrong as a whole; nothing has changed.
        """
        config = effective(config, settings)
        plan = Plan.of(config, settings)
        if self._draining:
            return
        self._config = config
        self._engine.replace(config, plan)
        self.metrics.set_queues([pool.name for pool in self._engine.pools], plan.aliases)
        self.metrics.set_schedules([schedule.id for schedule in plan.schedules])
        self._rpc.set_secrets(plan.secrets)
        self._api.set_secrets(plan.secrets)
        self._http.set_metrics_tokens(plan.metrics_tokens)
        if self._group is not None:
            self._run_errand(self._finish_reload())
        else:
            self._adopted_early = True

    def refuse_reload(self, error: str) -> None:
        """The configuration is wrong: the metrics and the log say so."""
        self.metrics.reload(False)
        _log.error("reload_failed", error=error)

    async def _finish_reload(self) -> None:
        try:
            await self._engine.register()
        except DatabaseUnavailable as error:
            self.metrics.reload(False)
            self._report.database_error(error)
            _log.error("reload_failed", error=str(error))
            return
        finally:
            self._engine.leaser.look_everywhere()  # slots of a queue that is gone or has another limit, too
        self.metrics.reload(True)
        _log.info("reloaded", queues=self._engine.pools.names)

    def health(self) -> HealthState:
        """How this process is, from memory."""
        engine = self._engine
        return HealthState(
            database=self._report.database_down_for == 0.0,
            database_down_for=self._report.database_down_for,
            schema=self._schema_fits,
            worker=engine.worker.trusted,
            leasing=engine.leasing,
            draining=self._draining,
            detail={
                "worker": engine.worker.id,
                "in_flight": engine.pools.in_flight,
                "unserved": self._report.unserved,
                "database": self._report.database_problem or "ok",
            },
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        assert self._group is not None, "nothing is started before the group is there"
        return self._group.create_task(coroutine)

    def _run_errand(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._spawn(coroutine)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def _watch_event_loop(self) -> None:
        """Measures how late the loop turns, says so where that is very late, and tells systemd's watchdog."""
        repeats = Repeats(self._clock.monotonic)
        while True:
            due = self._clock.monotonic() + _LOOP_CHECK_EVERY
            await asyncio.sleep(_LOOP_CHECK_EVERY)
            lag = max(0.0, self._clock.monotonic() - due)
            self.metrics.loop_lag(lag)
            self.metrics.loop_tasks(len(asyncio.all_tasks()))
            if lag >= _STALL:
                # Blocked, frozen, or without a processor. Nothing that was held is sent or settled if it took too long.
                lost = not self._engine.worker.trusted
                repeats.log(WARNING, "event_loop_stalled", duration_seconds=round(lag, 2), lease_lost=lost)
            self._notifier.notify("WATCHDOG=1")
