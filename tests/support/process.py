"""The real program as a process of its own: the daemon, and the commands of the command line."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.wait import wait_until
from tests.support.warm import Forked, Nursery

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
SERVER = (sys.executable, "-m", "slayq_server")


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What it printed on its standard output, parsed."""
        return json.loads(self.stdout)


class Program:
    """`python -m slayq_server` with some arguments, running. Killed at the end of the `with` block if it still runs.

    `command` names another program than the server. `folder` receives what it prints and is its working directory.
    `env` adds to a clean environment: none of the `SLAY_Q_` variables of whoever runs the tests reach it. A daemon is
    forked from a process that has imported all of it: see `warm`.
    """

    def __init__(
        self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None, command: Sequence[str] = SERVER
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.arguments = arguments
        self._stdout = folder / "stdout"
        self._stderr = folder / "stderr"
        daemon = tuple(command) == SERVER and arguments[:1] == ("serve",)
        nursery = Nursery.at_hand() if daemon else None
        self._process: subprocess.Popen[bytes] | Forked
        if nursery is not None:
            self._process = nursery.start(arguments, _environment(env), folder, self._stdout, self._stderr)
            return
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*tied_to_us(), *command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env=_environment(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code (-9 for a kill); None while it runs."""
        return self._process.poll()

    @property
    def stdout(self) -> str:
        """What it has printed on its standard output so far."""
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has printed on its standard error so far."""
        return self._stderr.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines among all it has printed: its log."""
        lines = [*self.stdout.splitlines(), *self.stderr.splitlines()]
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def wait_for_output(self, text: str, timeout: float = 20.0) -> None:
        """Wait until it has printed `text` on either output; fails the test if it ends without."""

        def printed() -> bool:
            ended = self.code is not None
            if text in self.stdout or text in self.stderr:
                return True
            assert not ended, f"ended with {self.code} and never printed {text!r}:\n{self.report()}"
            return False

        await self._wait(printed, timeout, f"printing {text!r}")

    async def wait_until_answers(self, url: str, status: int = 200, timeout: float = 20.0) -> None:
        """Wait until a GET of `url` (its `/readyz`, say) is answered with `status`; fails the test if it ends first."""

        async def answers() -> bool:
            assert self.code is None, f"ended with {self.code}:\n{self.report()}"
            return await asyncio.to_thread(_status, url) == status

        await self._wait(answers, timeout, f"{url} answering {status}")

    async def wait(self, timeout: float = 20.0) -> int:
        """Wait until it has ended; return its exit code."""
        await self._wait(lambda: self.code is not None, timeout, "its end")
        assert self.code is not None
        return self.code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGHUP, SIGSTOP or SIGCONT."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to stop: SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(10)

    def report(self) -> str:
        """What it printed, for people who look into a failed test."""
        return f"--- {' '.join(self.arguments)}: stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    async def _wait(self, predicate: Any, timeout: float, what: str) -> None:
        try:
            await wait_until(predicate, timeout, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None


async def run_program(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 30.0
) -> Finished:
    """Run a command to its end."""
    with Program(folder, *arguments, env=env) as program:
        code = await program.wait(timeout)
        return Finished(code, program.stdout, program.stderr)


def _environment(added: Mapping[str, str] | None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLAY_Q_", "SLAYQ_", "PG"))}
    return {
        **ours,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **(added or {}),
    }


def tied_to_us() -> list[str]:
    """What makes a program die with the test run, even if that is killed; nothing where the system cannot."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None
