"""What a run takes place in: a Postgres of its own, daemons, two apps, and between them wires that can break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from slayq_server.db.migrate import migrate
from tests.chaos.bent import Control
from tests.chaos.disk import cluster_in_memory, cluster_on_a_small_disk
from tests.chaos.plans import UNTRUSTED
from tests.chaos.records import Log
from tests.chaos.wire import Wire
from tests.support.pgbouncer import PgBouncer
from tests.support.process import Program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from datetime import datetime

    from slayq_server.dev.cluster import Cluster

SECRET = "a secret that only the chaos knows"
DAEMON = (sys.executable, "-m", "tests.chaos.bent")
CONNECTIONS = 50
"""That Postgres has."""
MAIL, TIGHT, LANES, RUNS = 10, 3, 5, 15
"""How many deliveries each queue may have in flight: `tight` in the whole cluster, the others in each daemon."""


@dataclass(frozen=True)
class Setting:
    """What a world is made of."""

    daemons: int = 2
    lease: float = 3.0
    pgbouncer: bool = False
    plant: str | None = None
    """A bug to plant in each daemon: see `planted`."""
    timeout: float = 4.0
    """Seconds that a delivery may take."""
    missed_minutes: int = 5
    """Ticks that were missed before the run began."""
    log_level: str = "info"
    small_disk: bool = False
    """Whether Postgres is on a disk that can be full: see `disk`."""


@dataclass
class Daemon:
    """One place for a daemon, in which it is started again and again."""

    number: int
    port: int
    wire: Wire
    control: Control
    program: Program | None = None
    starts: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    """How many lines of its log there were, by level."""


class World:
    """All of it. Everything started here ends with it."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder = folder
        self.setting = setting
        self.faults = Log(folder / "faults.jsonl")
        self.daemons: list[Daemon] = []
        self.stack = AsyncExitStack()
        self.app: Program | None = None
        self._app_starts = 0
        self.since: datetime | None = None
        """From when on ticks are to fire."""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stack.aclose()

    async def _start(self) -> None:
        place = cluster_on_a_small_disk if self.setting.small_disk else cluster_in_memory
        self.cluster: Cluster = self.stack.enter_context(place({"max_connections": str(CONNECTIONS)}))
        self.database_url = self.cluster.url("postgres")
        await migrate(self.database_url)
        async with self.connection() as connection:
            await connection.execute((Path(__file__).parent / "audit.sql").read_text())
        target = self.cluster.port
        if self.setting.pgbouncer:
            pooler = self.stack.enter_context(
                # It waits for 15 s by default before it looks after a server again that was away.
                PgBouncer(self.cluster, "transaction", default_pool_size=8, server_round_robin=1, server_login_retry=1)
            )
            target = urlsplit(pooler.url(self.database_url)).port or 0
        self.producer_wire = await self.stack.enter_async_context(Wire(target))
        self._endpoint_port, self._app_port = unused_port(), unused_port()
        self.endpoint_wire = await self.stack.enter_async_context(Wire(self._endpoint_port))
        self.app_wire = await self.stack.enter_async_context(Wire(self._app_port))
        tls_port = unused_port()
        self.tls_urls = [f"https://{address}:{tls_port}/slayq" for address in UNTRUSTED]
        self.endpoint_url = f"http://127.0.0.1:{self.endpoint_wire.port}/slayq"
        self.app_url = f"http://127.0.0.1:{self.app_wire.port}/slayq"
        command = (
            sys.executable, "-m", "tests.chaos.endpoint",
            str(self._endpoint_port), str(tls_port), str(self.folder / "endpoint.jsonl"),
        )  # fmt: skip
        endpoint = self.stack.enter_context(
            Program(self.folder / "endpoint", command=command, env={"CHAOS_SECRET": SECRET})
        )
        for number in range(self.setting.daemons):
            wire = await self.stack.enter_async_context(Wire(target))
            control = Control(self.folder / f"daemon-{number}" / "control.json")
            control.path.parent.mkdir()
            control.write(offset=skew(number))
            self.daemons.append(Daemon(number, unused_port(), wire, control))
            self.start_daemon(number)
        for daemon in self.daemons:
            assert daemon.program is not None
            await daemon.program.wait_until_answers(f"{self.rpc_url(daemon)}/readyz", timeout=60)
        self.start_app()
        assert endpoint.code is None, endpoint.report()
        async with self.connection() as connection:
            await wait_until(lambda: connection.fetchval(_REGISTERED), 60, "the schedules being there")
            self.since = await connection.fetchval(MISS_TICKS, self.setting.missed_minutes)
        self.faults("ticks_since", since=self.since and self.since.timestamp())

    @contextlib.asynccontextmanager
    async def connection(self) -> Any:
        """A direct connection, past all that breaks."""
        connection = await asyncpg.connect(self.database_url, timeout=30, command_timeout=60)
        try:
            yield connection
        finally:
            connection.terminate()

    def rpc_url(self, daemon: Daemon) -> str:
        """Where a daemon's HTTP server is."""
        return f"http://127.0.0.1:{daemon.port}"

    # Processes

    def start_daemon(self, number: int) -> Program:
        """Starts a daemon in its place; does not wait for it."""
        daemon = self.daemons[number]
        daemon.starts += 1
        folder = self.folder / f"daemon-{number}" / f"start-{daemon.starts}"
        folder.mkdir(parents=True)
        path = folder / "slay-config.json"
        path.write_text(json.dumps(self._config(daemon)))
        plant = self.setting.plant
        daemon.program = self.stack.enter_context(
            Program(
                folder,
                "serve",
                str(path),
                command=DAEMON,
                env={
                    "CHAOS_CONTROL": str(daemon.control.path),
                    "SLAY_Q_DATABASE_URL": through(self.database_url, daemon.wire.port),
                    "SLAY_Q_SECRET": SECRET,
                    "SLAY_Q_LOG_FORMAT": "json",
                    "SLAY_Q_LOG_LEVEL": self.setting.log_level,
                    **({} if plant is None else {"CHAOS_PLANT": plant}),
                },
            )
        )
        self.faults("daemon_started", daemon=number, name=name_of(daemon), pid=daemon.program.pid)
        return daemon.program

    def _config(self, daemon: Daemon) -> dict[str, Any]:
        fast = {"base": 0.2, "factor": 1.5, "cap": 5, "jitter": 0.1}
        lease = self.setting.lease
        common = {"backoff": fast, "timeout": self.setting.timeout, "connect_timeout": 2}
        return {
            "queues": {
                "mail": {"concurrency": MAIL, **common},
                "tight": {"concurrency": TIGHT, "scope": "cluster", **common},
                "lanes": {"concurrency": LANES, "strict": True, **common},
                "runs": {"concurrency": RUNS, **common, "timeout": 12},
            },
            "cron": [
                {
                    "id": f"minute-{number}",
                    "cron": "* * * * *",
                    "event": f"chaos/minute-{number}",
                    "url": self.endpoint_url,
                    "queue": "mail",
                    "data": {"id": None},
                    "catch_up": "all",
                }
                for number in range(2)
            ],
            "callbacks": {"allow": [origin(url) for url in (self.endpoint_url, self.app_url, *self.tls_urls)]},
            "http": {"port": daemon.port},
            "database": {"poll_only": True, "poll_interval": 0.2} if self.setting.pgbouncer else {},
            "worker": {"lease": lease, "renew": lease / 4, "name": name_of(daemon)},
            "grace": 3,
        }

    def start_app(self) -> None:
        """Starts the app of durable functions."""
        self._app_starts += 1
        log = str(self.folder / "app.jsonl")
        self.app = self.stack.enter_context(
            Program(
                self.folder / "app" / f"start-{self._app_starts}",
                command=(sys.executable, "-m", "tests.chaos.app", str(self._app_port), log, self.app_url),
                env={"CHAOS_SECRET": SECRET, "SLAY_Q_SECRET": SECRET, "SLAY_Q_DATABASE_URL": self.database_url},
            )
        )

    async def left(self) -> int:
        """How many jobs are left in the database, outside of what is to come."""
        async with self.connection() as connection:
            number: int = await connection.fetchval("select count(*) from slayq.job")
            return number

    async def drained(self, seconds: float) -> float | None:
        """Waits until no job is left; the seconds that took, or None where some still are."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            try:
                if not await self.left():
                    return time.monotonic() - began
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass
            await asyncio.sleep(0.25)
        return None


_REGISTERED = """
select count(*) = 3 and bool_and(planned) from slayq.schedule
"""
# Ticks before the run, as after some minutes in which nothing ran; the first that is to fire. Where a schedule has
# fired already, or is just due, all stays as it is.
MISS_TICKS = """
with moved as (
    update slayq.schedule set next_at = next_at - make_interval(mins => $1)
    where not exists (select from slayq.schedule where last_at is not null or next_at < now())
    returning next_at
)
select coalesce(
    (select min(next_at) from moved),
    (select min(coalesce(last_at, next_at)) from slayq.schedule where id like 'minute-%')
)
"""


def name_of(daemon: Daemon) -> str:
    """What the daemon that now runs in this place is called."""
    return f"d{daemon.number}-{daemon.starts}"


def skew(number: int) -> float:
    """Seconds by which the wall clock of the daemon in this place is always off: within what signatures allow."""
    return (200.0, -200.0, 0.0)[number % 3]


def through(url: str, port: int) -> str:
    """The same database by way of another port."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))


def origin(url: str) -> str:
    """Scheme, host and port."""
    return url.removesuffix("/slayq")


def unused_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
