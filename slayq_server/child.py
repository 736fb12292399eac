"""One process that the supervisor has started, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from slayq_server.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_PING_EVERY: Final = 5.0
_ANSWERS_WITHIN: Final = 5.0
_MOST_SILENT: Final = 4
"""Pings in a row without an answer after which the event loop stands still for good. systemd waits for 30 s, too."""
_LONGEST_LINE: Final = 1 << 20
_PACKAGE_ROOT: Final = str(Path(__file__).resolve().parents[1])
_NOT_FOR_A_CHILD: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""The service manager watches the supervisor, who watches its processes."""


class Reaper:
    """Collects the ends of all child processes, and of orphans, which process 1 of a container is given."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}

    def ended(self, pid: int) -> asyncio.Future[int]:
        """Becomes the exit code of that process, negative for the signal that killed it."""
        return self._waiting.setdefault(pid, asyncio.get_running_loop().create_future())

    def reap(self) -> None:
        """To be called at each SIGCHLD."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            future = self._waiting.pop(pid, None)
            if future is not None and not future.done():
                future.set_result(os.waitstatus_to_exitcode(status))


class Child:
    """Runs once. Its output goes to `out` as whole lines."""

    def __init__(
        self,
        *,
        reaper: Reaper,
        lifeline: int,
        sockets: Sequence[int],
        answer: Callable[[str, Any], Awaitable[Any]],
        on_frozen: Callable[[], None],
        out: BinaryIO,
    ) -> None:
        """Starts the process.

        Args:
            reaper: tells of its end.
            lifeline: a file descriptor that the process reads from: it ends when that breaks.
            sockets: file descriptors that it has, too.
            answer: is given its questions.
            on_frozen: called when it has not answered for so long that it is killed.
            out: where its output goes.
        """
        self._on_frozen = on_frozen
        self._out = out
        ours, theirs = socket.socketpair()
        self._output, output = os.pipe()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 (this very program)
                    [sys.executable, "-P", "-m", "slayq_server.member", str(theirs.fileno()), str(lifeline)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(), lifeline, *sockets),
                    start_new_session=True,  # Ctrl-C is for the supervisor
                    env=_environment(),
                )
        except BaseException:
            ours.close()
            os.close(self._output)
            raise
        finally:
            os.close(output)
        self._ended = reaper.ended(self._process.pid)
        self._heard = asyncio.Event()

        async def heard(what: str, data: Any) -> Any:
            self._heard.set()
            return await answer(what, data)

        self.channel = Channel(ours, heard)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it is there."""
        if not self._ended.done():  # until it is reaped, nobody else can have its id
            os.kill(self.pid, number)

    async def run(self) -> int:
        """Returns its exit code when it has ended, and all that it has printed is passed on."""
        try:
            await self.channel.open()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.channel.run())
                group.create_task(self._pass_on())
                pinging = group.create_task(self._ping())
                code = await asyncio.shield(self._ended)
                pinging.cancel()
        except BaseException:
            self.signal(signal.SIGTERM)  # it drains; without its supervisor it would end, too
            raise
        self._process.returncode = code  # the reaper has collected it
        return code

    async def _ping(self) -> None:
        silent = 0
        await self._heard.wait()  # until then it is being loaded
        while True:
            await asyncio.sleep(_PING_EVERY)
            try:
                await self.channel.ask("ping", timeout=_ANSWERS_WITHIN)
                silent = 0
            except ChannelClosed:
                return
            except TimeoutError:
                # Counted, and not measured: a machine that has slept is no reason to kill anybody.
                silent += 1
            if silent >= _MOST_SILENT:
                self._on_frozen()
                self.signal(signal.SIGKILL)
                return

    async def _pass_on(self) -> None:
        """Writes whole lines, one process at a time, so that lines of several are never mixed."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._output, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        rest = b""
        try:
            while chunk := await reader.read(1 << 16):
                lines, newline, rest = (rest + chunk).rpartition(b"\n")
                self._write(lines + newline)
                if len(rest) > _LONGEST_LINE:
                    self._write(rest + b"\n")
                    rest = b""
            if rest:
                self._write(rest + b"\n")
        finally:
            transport.close()

    def _write(self, lines: bytes) -> None:
        # As for the log of a single daemon: what cannot be written is dropped, and fails nothing.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(lines)
            self._out.flush()


def _environment() -> dict[str, str]:
    """Ours, with this very package on the path."""
    ours = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_A_CHILD}
    path = os.pathsep.join([_PACKAGE_ROOT, *filter(None, [ours.get("PYTHONPATH")])])
    return {**ours, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
