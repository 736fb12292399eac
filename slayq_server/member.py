"""One process of a server that has several: a daemon that the supervisor starts, and tells what to do.

    python -m slayq_server.member CHANNEL LIFELINE

Both are file descriptors: the channel to the supervisor, from which everything else comes, and the reading end of a
pipe of which the supervisor alone has the other end. When that breaks, the supervisor is gone, however it ended, and
this process stops: at once, since nobody would start it again, count it, or pass a signal on to it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from slayq_server import logs, metric_pages
from slayq_server.channel import Channel, ChannelClosed
from slayq_server.daemon import Daemon
from slayq_server.errors import ConfigurationError, SlayQServerError
from slayq_server.http.health import ProcessHealth, ServerHealth
from slayq_server.loop import run_fast

if TYPE_CHECKING:
    from slayq_server.orders import Orders, Reply

_SUPERVISOR_ANSWERS: Final = 2.5
"""Seconds within which the supervisor answers, who waits for the other processes for less."""
_SUPERVISOR_STARTS: Final = 30.0
"""The same at the start, where a reload may come in between."""
_ORPHAN_ENDS: Final = 15.0
"""Seconds for an orphan to give back what it holds; then it ends even if its event loop stands still."""
_ORPHANED: Final = 70


class Member:
    """What the supervisor asks of this process, and this process of the others."""

    def __init__(self, end: socket.socket) -> None:
        self._channel = Channel(end, self._answer)
        self._daemon: asyncio.Future[Daemon] = asyncio.get_running_loop().create_future()

    async def run(self, lifeline: int) -> int:
        """Asks for its orders, and is a daemon until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGINT):
            # The supervisor passes on what is meant for the server. SIGTERM drains this one process.
            signal.signal(number, signal.SIG_IGN)
        await self._channel.open()
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._channel.run())
            orders = await self._orders()
            daemon = Daemon(
                orders.config,
                orders.settings,
                notifier=_Notifier(self._channel),
                sockets=[socket.socket(fileno=number) for number in orders.sockets],
                processes=self,
            )
            self._daemon.set_result(daemon)
            threading.Thread(target=_watch, args=(lifeline, loop, daemon), daemon=True).start()
            loop.add_signal_handler(signal.SIGTERM, daemon.stop)
            try:
                await daemon.run()
            finally:
                loop.remove_signal_handler(signal.SIGTERM)
                listening.cancel()
        return 0

    async def _orders(self) -> Orders:
        orders = cast("Orders", await self._channel.ask("orders", timeout=_SUPERVISOR_STARTS))
        logs.configure(
            cast("logs.LogFormat", orders.settings.log_format),
            cast("logs.LogLevel", orders.settings.log_level),
            colors=orders.colors,
            process=orders.number,
        )
        return orders

    # What the supervisor asks

    async def _answer(self, what: str, data: Any) -> Any:
        if what == "ping":
            return None
        daemon = await self._daemon
        if what == "health":
            return daemon.health()
        if what == "metrics":
            # As bytes, so that the supervisor passes them on and needs to know nothing of metrics.
            return await asyncio.to_thread(lambda: pickle.dumps(daemon.metrics.families()))
        if what == "reload":
            try:
                daemon.adopt(*data)
            except ConfigurationError as error:
                return str(error)
        elif what == "reload_failed":
            daemon.refuse_reload(data)
        return None

    # What this process asks of all

    async def health(self) -> ServerHealth:
        """How all processes are; without the supervisor, that there is no telling."""
        return ServerHealth(
            [ProcessHealth(reply.number, reply.answer, reply.silent_for) for reply in await self._of_all("health")]
        )

    async def metrics(self) -> bytes:
        """The page with the series of all processes."""
        replies = await self._of_all("metrics")
        return await asyncio.to_thread(_page, replies)

    async def _of_all(self, what: str) -> list[Reply]:
        try:
            return cast("list[Reply]", await self._channel.ask("of all", what, timeout=_SUPERVISOR_ANSWERS))
        except (ChannelClosed, TimeoutError):
            return []


def _page(replies: list[Reply]) -> bytes:
    return metric_pages.render(
        metric_pages.ProcessPage(
            reply.number,
            None if reply.answer is None else pickle.loads(reply.answer),  # noqa: S301 (from one of ourselves)
            reply.restarts,
        )
        for reply in replies
    )


@dataclass(frozen=True, slots=True)
class _Notifier:
    """In place of the service manager, which knows the supervisor alone."""

    channel: Channel

    def notify(self, state: str) -> None:
        if state == "READY=1":
            self.channel.tell("serving")


def _watch(lifeline: int, loop: asyncio.AbstractEventLoop, daemon: Daemon) -> None:
    """Ends this process after the supervisor's end. In a thread, since the event loop may stand still."""
    os.read(lifeline, 1)
    abandoning = daemon.abandon()
    try:
        asyncio.run_coroutine_threadsafe(abandoning, loop)
    except RuntimeError:  # the loop has ended already
        abandoning.close()
    time.sleep(_ORPHAN_ENDS)
    os._exit(_ORPHANED)


def main() -> int:
    """Runs the process; returns its exit code."""
    channel, lifeline = (int(argument) for argument in sys.argv[1:])
    logs.configure("json")

    async def run() -> int:
        return await Member(socket.socket(fileno=channel)).run(lifeline)

    try:
        return run_fast(run())
    except BaseExceptionGroup as group:
        ours, others = group.split(SlayQServerError)
        if ours is None or others is not None:
            raise
        error: BaseException = ours
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, SlayQServerError)
        structlog.get_logger().error("process_failed", error=str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
