"""The rig: a durable Postgres, the endpoint and the daemon, each a process of its own, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

from slayq_server.db.migrate import migrate
from slayq_server.dev.cluster import Cluster, Installation, temporary_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECRET = "bench-secret"
DURABLE = {"max_wal_size": "2GB", "max_connections": "60"}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds, user and system together."""

    daemon: float
    postgres: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.daemon - other.daemon, self.postgres - other.postgres)


class Endpoint:
    """The endpoint's process and its control."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.endpoint"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/slayq"

    def ask(self, what: str) -> dict[str, Any]:
        """The JSON answer to GET /what."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{what}", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    async def wait_for(self, count: int, timeout: float) -> dict[str, Any]:
        """Returns when so many different jobs have arrived."""
        deadline = time.monotonic() + timeout
        while True:
            found = await asyncio.to_thread(self.ask, "count")
            if found["count"] >= count:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found['count']} of {count} jobs arrived within {timeout:g} s")
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@contextlib.contextmanager
def postgres() -> Iterator[Cluster]:
    """A throw-away Postgres with default durability."""
    with temporary_cluster(Installation.find("embedded"), durable=True, settings=DURABLE) as cluster:
        yield cluster


async def fresh_database(cluster: Cluster, name: str) -> str:
    """A new migrated database; its URL."""
    connection = await asyncpg.connect(cluster.url())
    try:
        await connection.execute(f'drop database if exists "{name}" with (force)')
        await connection.execute(f'create database "{name}"')
    finally:
        await connection.close()
    url = cluster.url(name)
    await migrate(url)
    return url


class Daemon:
    """`slayq-server` in a process of its own."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slayq-bench-")
        path = Path(self._folder.name) / "slay-config.json"
        path.write_text(json.dumps({"http": {"port": 0}, **config}))
        self._log = (Path(self._folder.name) / "log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slayq_server", "serve", str(path), "--log-format", "json"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SLAY_Q_DATABASE_URL": url, "SLAY_Q_SECRET": SECRET, "SLAY_Q_LOG_LEVEL": "warning"},
        )
        self.process = psutil.Process(self._process.pid)

    def log(self) -> str:
        """What it has logged."""
        self._log.flush()
        return Path(self._log.name).read_text()

    def close(self) -> None:
        """SIGTERM, and waits."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._log.close()
            self._folder.cleanup()


@contextlib.asynccontextmanager
async def daemon(url: str, config: dict[str, Any]) -> AsyncIterator[Daemon]:
    """A daemon that has registered as a worker."""
    running = Daemon(url, config)
    try:
        connection = await asyncpg.connect(url)
        try:
            deadline = time.monotonic() + 30
            while not await connection.fetchval("select exists (select from slayq.worker where expires_at > now())"):
                if time.monotonic() > deadline or not running.process.is_running():
                    raise RuntimeError(f"the daemon did not start:\n{running.log()}")
                await asyncio.sleep(0.01)
        finally:
            await connection.close()
        yield running
    finally:
        running.close()


def cost(cluster: Cluster, running: Daemon | None) -> Cost:
    """CPU used so far by the daemon, and by Postgres with all its children, those that have ended included."""
    total = 0.0
    server = psutil.Process(cluster.pid)
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            if process.pid == server.pid:
                total += times.children_user + times.children_system
    if running is None:
        return Cost(0.0, total)
    times = running.process.cpu_times()
    return Cost(times.user + times.system, total)


async def add_jobs(url: str, target: str, first: int, count: int, queue: str = "bench") -> None:
    """Adds jobs numbered from `first`, a thousand a statement."""
    connection = await asyncpg.connect(url)
    try:
        for start in range(first, first + count, 1000):
            await connection.execute(
                """
                select count(*) from slayq.add_jobs(array(
                    select row($1, json_build_object('url', $2::text, 'event', 'bench/noop', 'data',
                        json_build_object('n', i)), null, null, null, null, null, null)::slayq.job_spec
                    from generate_series($3::integer, $4::integer) as i
                ))
                """,
                queue,
                target,
                start,
                min(start + 999, first + count - 1),
            )
    finally:
        await connection.close()
