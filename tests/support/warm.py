"""Daemons without their start-up: forked from a process that has imported all of the server, and done nothing else.

Importing takes most of a second of processor time, and the tests start hundreds of daemons. What is forked is a process
like any other, with a session, files, an environment and a death of its own. `SLAYQ_TEST_COLD=1` starts every daemon
from nothing, as `python -m slayq_server`; what is not a daemon is always started so.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
_LARGEST = 2**18
_PR_SET_PDEATHSIG = 1
_STARTS_WITHIN = 60.0


class Nursery:
    """The process that daemons are forked from, seen from the tests. It ends with them."""

    _one: Nursery | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            passed_on = ("HOME", "LANG", "PATH", "TMPDIR")
            environment = {name: os.environ[name] for name in passed_on if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**environment, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    @classmethod
    def at_hand(cls) -> Nursery | None:
        """The one of this process; None where there can be none.

        It dies with the thread that has started it, so that must be the main one.
        """
        if os.environ.get("SLAYQ_TEST_COLD") or sys.platform != "linux":
            return None
        if cls._one is None and threading.current_thread() is threading.main_thread():
            cls._one = cls()
        return cls._one

    def start(
        self, arguments: Sequence[str], env: Mapping[str, str], folder: Path, stdout: Path, stderr: Path
    ) -> Forked:
        """Starts `python -m slayq_server` with these arguments."""
        for output in (stdout, stderr):
            output.write_bytes(b"")
        order = {
            "arguments": list(arguments),
            "env": dict(env),
            "folder": str(folder),
            "outputs": [str(stdout), str(stderr)],
        }
        with self._lock:
            self._socket.send(json.dumps(order).encode())
            while True:
                pid = self._hear(_STARTS_WITHIN)
                if pid is not None:
                    return Forked(self, pid)

    def code_of(self, pid: int, timeout: float = 0.0) -> int | None:
        """The exit code of a process that has ended within so many seconds."""
        with self._lock:
            while pid not in self._ended and select.select([self._socket], [], [], timeout)[0]:
                self._hear(0.0)
                timeout = 0.0
            return self._ended.get(pid)

    def _hear(self, timeout: float) -> int | None:
        """Takes one message: of a process that has ended, or the id of one that has been started."""
        self._socket.settimeout(timeout or None)
        told = json.loads(self._socket.recv(_LARGEST) or b'{"gone": true}')
        if "gone" in told:
            raise RuntimeError(f"the process that daemons are forked from has ended: {self._process.poll()}")
        if "ended" in told:
            self._ended[told["ended"]] = told["code"]
            return None
        pid: int = told["started"]
        self._ended.pop(pid, None)
        return pid


class Forked:
    """A process that was forked, with what `subprocess.Popen` has of it."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self._code: int | None = None
        self.pid = pid

    def poll(self, timeout: float = 0.0) -> int | None:
        """Its exit code, or minus the signal that has ended it; None while it runs."""
        if self._code is None:
            self._code = self._nursery.code_of(self.pid, timeout)
        return self._code

    def wait(self, timeout: float) -> int:
        """Waits until it has ended."""
        until = time.monotonic() + timeout
        while (code := self.poll(0.05)) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a forked daemon", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _nurse(orders: socket.socket) -> list[str]:
    """Forks for each order. Returns in the forked process alone, with its arguments; ends with the tests."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            os.read(woken, 512)
            for pid, code in _ended():
                orders.send(json.dumps({"ended": pid, "code": code}).encode())
        if orders in ready:
            message = orders.recv(_LARGEST)
            if not message:
                sys.exit()
            nurse, pid = os.getpid(), os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (orders.fileno(), woken, wakes):
                    os.close(end)
                orders.detach()
                return _settle_in(json.loads(message), nurse)
            orders.send(json.dumps({"started": pid}).encode())


def _ended() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _settle_in(order: dict[str, Any], nurse: int) -> list[str]:
    """Makes this process what it would be had it been started for the order; its arguments."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nurse:  # too late: the one whose death was to be told has died already
        os._exit(1)
    os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    for number, path in enumerate(order["outputs"], 1):
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, number)
        os.close(output)
    # As PYTHONUNBUFFERED has it.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    arguments: list[str] = order["arguments"]
    return arguments


if __name__ == "__main__":
    import uvloop  # noqa: F401  # with the rest of what a daemon needs

    from slayq_server.cli import main, serve  # noqa: F401

    assert 1 == threading.active_count(), "a thread would not be there in what is forked"
    sys.argv = ["slayq_server", *_nurse(socket.socket(fileno=int(sys.argv[1])))]
    sys.exit(main())
