"""The app of durable functions as a process, beside a real daemon."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.endpoint import SECRET
from tests.support.process import Program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg

    from tests.support.daemon import Daemons, Running

STEPS = 10
PATIENT = {"base": 0.4, "factor": 1, "jitter": 0}
"""So that 25 deliveries take longer than the app needs to come up again."""


class App:
    """The app's process, started and killed as the test likes; always at the same port."""

    def __init__(self, folder: Path, database_url: str, port: int, stack: ExitStack) -> None:
        self.folder = folder
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self._database_url = database_url
        self._stack = stack
        self._starts = 0
        self.url = f"{self.origin}/slayq"
        """Where the server reaches it."""
        self.program: Program | None = None

    async def start(self) -> Program:
        """Starts it, and waits until it listens."""
        self._starts += 1
        self.program = self._stack.enter_context(
            Program(
                self.folder / f"start-{self._starts}",
                command=[
                    sys.executable,
                    "-m",
                    "tests.integration.durable.app",
                    str(self.port),
                    str(self.folder),
                    self.url,
                ],
                env={"APP_SECRET": SECRET, "SLAY_Q_DATABASE_URL": self._database_url},
            )
        )
        await self.program.wait_until_answers(f"{self.origin}/slayq", 405)
        return self.program

    def log(self, what: str | None = None, **equal: Any) -> list[dict[str, Any]]:
        """What has happened so far, of one kind and with these members."""
        path = self.folder / "log"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [
            line
            for line in lines
            if what in (None, line["what"]) and all(line.get(name) == value for name, value in equal.items())
        ]

    def times(self, run: str) -> list[int]:
        """How often the body of each of the ten steps has begun."""
        begun = [line["step"] for line in self.log("step", run=run)]
        return [begun.count(number) for number in range(1, STEPS + 1)]

    def mark(self, name: str) -> None:
        """Puts a file there that it goes by."""
        (self.folder / name).touch()

    def unmark(self, name: str) -> None:
        """Takes it away."""
        (self.folder / name).unlink()


@pytest.fixture
def app(tmp_path: Path, database_url: str, unused_port: int) -> Iterator[App]:
    """The app, not yet started."""
    folder = tmp_path / "app"
    folder.mkdir()
    with ExitStack() as stack:
        yield App(folder, database_url, unused_port, stack)


async def start_daemon(daemons: Daemons, app: App, timeout: str = "5m", lease: float = 3, **more: Any) -> Running:
    """A daemon with a lease of so many seconds, for the app's one queue, which has this time-out."""
    return await daemons.start(
        queues={"general": {"concurrency": 20, "backoff": PATIENT, "timeout": timeout}},
        callbacks={"allow": [app.origin, app.url.removesuffix("/slayq")]},
        worker={"lease": lease, "renew": 1},
        **more,
    )


async def registered(connection: asyncpg.Connection) -> None:
    """Waits until the app has registered its functions."""
    await wait_until(lambda: connection.fetchval("select exists (select from slayq.app)"), 20)


async def send(connection: asyncpg.Connection, event: str, order: int = 1) -> str:
    """Starts a run; its id."""
    return str(await connection.fetchval("select slayq.send($1, $2)", event, json.dumps({"order": order})))


TOTAL = sum(number * number for number in range(1, STEPS + 1))


async def ended_right(connection: asyncpg.Connection, app: App, run: str) -> None:
    """The run has ended, with the right sum each time its end was reached, and nothing of it is left."""
    await wait_until(lambda: app.log("finished", run=run), 30, "the run's end")
    left = "select not exists (select from slayq.job) and not exists (select from slayq.step)"
    await wait_until(lambda: connection.fetchval(left), 30, "nothing being left of the run")
    assert {TOTAL} == {line["total"] for line in app.log("finished", run=run)}
    assert not await connection.fetchval("select exists (select from slayq.dead_letter)")


async def held_in(connection: asyncpg.Connection, app: App, number: int) -> str:
    """A run whose step of that number is held up, all before it recorded."""
    app.mark(f"hold-{number}")
    run = await send(connection, "durable/ten")
    await wait_until(lambda: app.log("step", run=run, step=number), 20)

    async def is_recorded() -> bool:
        return await recorded(connection) == number - 1

    await wait_until(is_recorded, 20)
    return run


async def recorded(connection: asyncpg.Connection) -> int:
    """How many steps have an outcome on disk."""
    number: int = await connection.fetchval("select count(*) from slayq.step where state <> 'pending'")
    return number
