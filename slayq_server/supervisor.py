"""`--processes N`: starts N daemons that share the HTTP port, and looks after them.

    supervisor ─┬─ process 1: a daemon with its own worker row, connections and event loop
                ├─ process 2 …
                └─ process N

The supervisor delivers nothing and has no connection to the database. It reads the configuration, divides the limits
(`shares`), binds the port, and hands all of it to its processes. It starts a process again that ends, passes signals
on, and gathers what they log into one stream. Whichever process a probe or a scrape reaches, it asks the supervisor,
who asks all of them. When the supervisor ends, however it does, so do they.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import sdnotify  # type: ignore[import-untyped]
import structlog

from slayq_server import __version__, logs
from slayq_server.channel import ChannelClosed
from slayq_server.child import Child, Reaper
from slayq_server.config import effective, load
from slayq_server.errors import ConfigurationError, ProcessesFailed
from slayq_server.http.listening import bound
from slayq_server.orders import Orders, Reply
from slayq_server.shares import Dealer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slayq_server.config import Config
    from slayq_server.settings import Settings

_LIVED: Final = 10.0
"""Seconds of serving after which a process that ends has not failed at its start."""
_PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a process is started again, after the first failure in a row, the second and so on."""
_MOST_FAILURES: Final = 3
"""Failures in a row after which a process is taken for one that will not start."""
_WRONG: Final = ConfigurationError.exit_code
"""The configuration or the schema is wrong: to start again does not mend that."""
_PEERS_ANSWER: Final = 1.0
"""Seconds within which a process answers for itself."""
_RELOADS_WITHIN: Final = 10.0
_ENDS_AFTER_GRACE: Final = 25.0
"""Seconds after the grace in which a process writes down its last outcomes; then it is killed."""
_WATCHDOG_EVERY: Final = 5.0
_log = structlog.get_logger()


async def supervise(
    config: Config, settings: Settings, *, config_path: Path, reload_settings: Callable[[], Settings]
) -> int:
    """Runs `settings.processes` daemons until SIGTERM or SIGINT; returns the exit code.

    A second signal hurries the drain; SIGHUP loads `config_path` and the settings again.

    Raises:
        ConfigurationError: the port is in use, or the configuration is wrong as a whole.
        ProcessesFailed: no process stays up.
    """
    supervisor = Supervisor(config, settings, config_path=config_path, reload_settings=reload_settings)
    with supervisor.signals():
        return await supervisor.run()


@dataclass(slots=True)
class _Slot:
    """One of the N, and the process that fills it now."""

    number: int
    answered_at: float
    child: Child | None = None
    serving_since: float | None = None
    starts: int = 0
    failures: int = 0
    """In a row: ends of processes that have not lived."""
    hopeless: bool = False


class Supervisor:
    """One server of several processes."""

    def __init__(
        self, config: Config, settings: Settings, *, config_path: Path, reload_settings: Callable[[], Settings]
    ) -> None:
        self._config_path = config_path
        self._load_settings = reload_settings
        self._dealer = Dealer(settings.processes)
        self._colors = logs.shows_colors()
        self._pretty = logs.shown_pretty(settings.log_format)  # type: ignore[arg-type]
        self._take(config, settings)
        self._notifier = sdnotify.SystemdNotifier()
        self._reaper = Reaper()
        self._sockets: list[socket.socket] = []
        self._lifeline = -1
        self._stopping = asyncio.Event()
        self._serving = False
        self._failed: ProcessesFailed | None = None
        self._orders_change = asyncio.Lock()
        """A process that starts during a reload gets what comes of it."""
        now = asyncio.get_running_loop().time()
        self._slots = [_Slot(number, now) for number in range(1, settings.processes + 1)]
        self._group: asyncio.TaskGroup | None = None

    # Life

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT drain all, a second one hurries them; SIGHUP reloads; SIGCHLD says that one has ended."""
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self.reload,
            signal.SIGCHLD: self._reaper.reap,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Drains and ends all; called again, at once."""
        if not self._stopping.is_set():
            self._notifier.notify("STOPPING=1")
            _log.info("draining_processes", grace_seconds=self._config.grace)
        self._stopping.set()
        for slot in self._slots:
            if slot.child is not None:
                slot.child.signal(signal.SIGTERM)

    async def run(self) -> int:
        """Starts all, keeps them up until told to stop, drains."""
        http = self._config.http
        self._sockets = await bound(http.bind, http.port)
        self._lifeline, ours = os.pipe()
        port = self._sockets[0].getsockname()[1]
        _log.info("supervising", version=__version__, processes=len(self._slots), bind=http.bind, port=port)
        try:
            async with asyncio.TaskGroup() as self._group:
                watchdog = self._group.create_task(self._tell_watchdog())
                codes = [self._group.create_task(self._keep_up(slot)) for slot in self._slots]
                await self._stopping.wait()
                await self._until_ended(codes)
                watchdog.cancel()
        finally:
            for each in self._sockets:
                each.close()
            os.close(ours)  # what is still there by now ends
            os.close(self._lifeline)
        if self._failed is not None:
            raise self._failed
        _log.info("stopped")
        return max(0, *(task.result() for task in codes))

    async def _until_ended(self, tasks: list[asyncio.Task[int]]) -> None:
        _, late = await asyncio.wait(tasks, timeout=self._config.grace + _ENDS_AFTER_GRACE)
        for slot in self._slots if late else ():
            if slot.child is not None:
                _log.error("process_killed", process=slot.number, reason="it did not end after its grace")
                slot.child.signal(signal.SIGKILL)

    async def _tell_watchdog(self) -> None:
        while True:
            self._notifier.notify("WATCHDOG=1")
            await asyncio.sleep(_WATCHDOG_EVERY)

    async def _keep_up(self, slot: _Slot) -> int:
        """Keeps a process in this slot; the exit code of the one that has drained."""
        while not self._stopping.is_set():
            code = await self._run_once(slot)
            if self._stopping.is_set():
                return code
            self._learn(slot, code)
            pause = _PAUSES[min(slot.failures, len(_PAUSES) - 1)]
            _log.error("process_ended", process=slot.number, **_why(code), restart_seconds=pause)
            if not any(self._may_live(each) for each in self._slots):
                self._give_up(code)
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
        return 0

    async def _run_once(self, slot: _Slot) -> int:
        try:
            child = self._start(slot)
        except OSError as error:  # no memory, no process ids, no file descriptors: for now
            _log.error("process_not_started", process=slot.number, error=str(error))
            return os.EX_OSERR
        slot.child = child
        slot.starts += 1
        _log.info("process_started", process=slot.number, pid=child.pid)
        try:
            return await child.run()
        finally:
            slot.child = None

    def _start(self, slot: _Slot) -> Child:
        return Child(
            reaper=self._reaper,
            lifeline=self._lifeline,
            sockets=[each.fileno() for each in self._sockets],
            answer=lambda what, data: self._answer(slot, what, data),
            on_frozen=lambda: _log.error("process_killed", process=slot.number, reason="its event loop stands still"),
            out=sys.stderr.buffer,
        )

    def _learn(self, slot: _Slot, code: int) -> None:
        since, slot.serving_since = slot.serving_since, None
        lived = since is not None and asyncio.get_running_loop().time() - since >= _LIVED
        if code == 0 or lived:
            # Somebody has drained this one process, or it did its work until now.
            slot.failures, slot.hopeless = 0, False
            return
        slot.failures += 1
        slot.hopeless = slot.hopeless or code == _WRONG or slot.failures >= _MOST_FAILURES

    def _may_live(self, slot: _Slot) -> bool:
        since = slot.serving_since
        return not slot.hopeless or (since is not None and asyncio.get_running_loop().time() - since >= _LIVED)

    def _give_up(self, code: int) -> None:
        """No process stays up: there is nothing to wait for. While one does, the others are tried again and again."""
        if self._failed is None:
            self._failed = ProcessesFailed(
                f"the server's processes end as soon as they have started, the last one with {_told(code)}: "
                "mend what the lines above say, and start the server again",
                exit_code=code if code > 0 else 1,
            )
        self.stop()

    # Configuration

    def reload(self) -> None:
        """Gives all processes a changed configuration; a bad one changes nothing."""
        if self._group is not None and not self._stopping.is_set():
            self._group.create_task(self._reload())

    async def _reload(self) -> None:
        async with self._orders_change:
            try:
                settings = self._load_settings()
                config = effective(load(self._config_path), settings)
            except ConfigurationError as error:
                for slot in self._slots:
                    if slot.child is not None:
                        slot.child.channel.tell("reload_failed", str(error))
                return
            before = self._config, self._settings
            self._take(config, settings)
            told = [self._ask(slot, "reload", _RELOADS_WITHIN, self._parts[slot.number - 1]) for slot in self._slots]
            refused = [error for error in await asyncio.gather(*told) if error is not None]
            if refused:
                # All of them refuse what one does, because all are asked for the same.
                self._take(*before)
                for slot in self._slots:
                    if slot.child is not None:
                        slot.child.channel.tell("reload_failed", refused[0])

    def _take(self, config: Config, settings: Settings) -> None:
        self._config = effective(config, settings)
        self._settings = replace(settings, log_format="pretty" if self._pretty else "json")
        parts = self._dealer.divide(self._config, ticks=settings.cron_url is not None)
        self._parts = [(part, self._settings) for part in parts]

    # What processes ask

    async def _answer(self, slot: _Slot, what: str, data: Any) -> Any:
        if what == "orders":
            async with self._orders_change:
                config, settings = self._parts[slot.number - 1]
            sockets = tuple(each.fileno() for each in self._sockets)
            return Orders(slot.number, config, settings, sockets, self._colors)
        if what == "of all":
            return await asyncio.gather(*(self._reply(each, data) for each in self._slots))
        if what == "serving":
            slot.serving_since = asyncio.get_running_loop().time()
            if not self._serving:
                self._serving = True
                self._notifier.notify("READY=1")
        return None

    async def _reply(self, slot: _Slot, what: str) -> Reply:
        now = asyncio.get_running_loop().time
        answer = await self._ask(slot, what, _PEERS_ANSWER)
        if answer is not None:
            slot.answered_at = now()
        return Reply(slot.number, answer, now() - slot.answered_at, max(0, slot.starts - 1))

    async def _ask(self, slot: _Slot, what: str, timeout: float, data: Any = None) -> Any:
        """What the process of this slot answers; None if there is none, or it does not."""
        if slot.child is None:
            return None
        try:
            return await slot.child.channel.ask(what, data, timeout=timeout)
        except (ChannelClosed, TimeoutError):
            return None


def _why(code: int) -> dict[str, Any]:
    return {"signal": signal.Signals(-code).name} if code < 0 else {"exit_code": code}


def _told(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
