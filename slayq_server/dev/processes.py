"""Child processes of `dev` and `demo`: the daemon and the sample app, which end with us, however we end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from slayq_server.errors import SlayQServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

_T = TypeVar("_T")
_LONGEST_LINE = 1024 * 1024
_KEPT_LINES = 20
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]

# Argument: the child's process id. Waits until the pipe to us breaks; then the child is asked to stop.
_WATCHDOG = 'read -r _; kill -TERM "$1" 2>/dev/null'


def run_interruptibly(main: Coroutine[Any, Any, _T]) -> _T:
    """Runs `main` in a loop of its own. SIGTERM ends it as Ctrl-C does: a KeyboardInterrupt, once it has cleaned up."""

    async def guarded() -> _T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class ChildEnded(SlayQServerError):
    """A process that was to run on has ended; the message ends with what it printed last."""


class Child:
    """A Python module as a process of its own, read line by line (both of its outputs, as one)."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, watchdog: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process
        self._watchdog = watchdog
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._stopping = False

    @classmethod
    async def start(cls, name: str, module: str, *arguments: str, folder: Path, env: Mapping[str, str]) -> Self:
        """Starts `python -m module` in `folder`. `env` goes over an environment that has nothing of ours."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            cwd=folder,
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is for us; we stop the others in their order
        )
        watchdog = subprocess.Popen(  # noqa: S603, ASYNC220 (a fixed script; returns at once)
            ["/bin/sh", "-c", _WATCHDOG, "slayq-watchdog", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(name, process, watchdog)

    async def lines(self) -> AsyncIterator[str]:
        """What it prints, until it ends.

        Raises:
            ChildEnded: it ended without having been stopped.
        """
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self._last.append(line)
            yield line
        code = await self._process.wait()
        if not self._stopping:
            printed = "\n".join(self._last)
            raise ChildEnded(f"the {self.name} ended by itself, with exit code {code}:\n{printed}")

    async def stop(self, grace: float) -> None:
        """Asks it to stop, and kills it if it has not after `grace` seconds."""
        self._stopping = True
        self._call_off_watchdog()
        if self._process.returncode is not None:
            return
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            try:
                async with asyncio.timeout(patience):
                    await self._process.wait()
                return
            except TimeoutError:
                continue

    def _call_off_watchdog(self) -> None:
        self._watchdog.kill()
        self._watchdog.wait()
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """Ours, without the settings of another server and another database, and with this very package on the path."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLAY_Q_", "PG"))}
    path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [ours.get("PYTHONPATH")])])
    return {**ours, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **added}
