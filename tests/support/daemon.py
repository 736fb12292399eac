"""A real daemon for a test: a configuration file, the process, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.endpoint import SECRET
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import asyncpg

    from tests.conftest import StartProgram
    from tests.support.process import Program

FAST_BACKOFF = {"base": 0.05, "factor": 1, "jitter": 0}
"""Every retry 50 ms later."""


@dataclass(frozen=True)
class Running:
    """A daemon that is ready."""

    program: Program
    port: int

    @property
    def url(self) -> str:
        """Where its HTTP server is."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Daemons:
    """Starts daemons on the test's database whose callbacks may go to the test's endpoint."""

    start_program: StartProgram
    database_url: str
    origin: str
    folder: Path

    def config(self, **sections: Any) -> dict[str, Any]:
        """A configuration: queue `mail` with ten slots and a fast back-off, unless told otherwise."""
        return {
            "queues": {"mail": {"concurrency": 10, "backoff": FAST_BACKOFF}},
            "callbacks": {"allow": [self.origin]},
            "http": {"port": 0},
            **sections,
        }

    def write(self, name: str = "slay-config.json", **sections: Any) -> Path:
        """The configuration as a file."""
        path = self.folder / name
        path.write_text(json.dumps(self.config(**sections)))
        return path

    def launch(self, *arguments: str, env: Mapping[str, str] | None = None, **sections: Any) -> Program:
        """Starts a daemon and does not wait for it."""
        path = self.write(f"slay-config-{len(list(self.folder.glob('slay-config-*')))}.json", **sections)
        return self.start_program(
            "serve",
            str(path),
            *arguments,
            env={
                "SLAY_Q_DATABASE_URL": self.database_url,
                "SLAY_Q_SECRET": SECRET,
                "SLAY_Q_LOG_FORMAT": "json",
                "SLAY_Q_LOG_LEVEL": "debug",
                **(env or {}),
            },
        )

    async def start(self, *arguments: str, env: Mapping[str, str] | None = None, **sections: Any) -> Running:
        """Starts a daemon and waits until it says that it is ready."""
        program = self.launch(*arguments, env=env, **sections)
        await program.wait_for_output('"event":"ready"')
        ready = next(line for line in program.events if line["event"] == "ready")
        running = Running(program, ready["port"])
        await program.wait_until_answers(f"{running.url}/readyz")
        return running


async def add(connection: asyncpg.Connection, url: str, *, queue: str = "mail", **options: Any) -> int:
    """Adds a job through the SQL API; its id. `event` and `data` go into the payload, the rest are arguments."""
    payload = {"url": url, "event": options.pop("event", "test/event"), "data": options.pop("data", {})}
    if "cache" in options:
        payload["cache"] = options.pop("cache")
    names = list(options)
    places = "".join(f", {name} => ${number}" for number, name in enumerate(names, start=3))
    job_id: int = await connection.fetchval(
        f"select (slayq.add_job($1, $2{places})).id", queue, json.dumps(payload), *options.values()
    )
    return job_id


async def metrics(running: Running) -> dict[str, float]:
    """All that the daemon's metrics say, by series as they are printed: `slayq_wakeups_total{source="timer"}`."""

    def page() -> str:
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    samples = [
        line.rpartition(" ") for line in (await asyncio.to_thread(page)).splitlines() if not line.startswith("#")
    ]
    return {series: float(value) for series, _, value in samples}


async def metric(running: Running, series: str) -> float:
    """One of them, which must be there."""
    return (await metrics(running))[series]


async def until_no_jobs(connection: asyncpg.Connection, timeout: float = 10.0) -> None:
    """Waits until no live job is left."""

    async def none_left() -> bool:
        return not await connection.fetchval("select exists (select from slayq.job)")

    await wait_until(none_left, timeout, "no job being left")
