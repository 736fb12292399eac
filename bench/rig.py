"""The rig: a durable Postgres, the endpoint and the daemon, each a process of its own."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

from slayq_server.db.migrate import migrate
from slayq_server.dev.cluster import Cluster, Installation, temporary_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECRET = "bench-secret"
DURABLE = {"max_wal_size": "4GB", "max_connections": "200"}


class Endpoint:
    """The endpoint's process and its control."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.endpoint"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/slayq"
        self.held_url = f"{self.origin}/held"
        """Its answers come with the next reset."""

    def ask(self, what: str) -> dict[str, Any]:
        """The JSON answer to GET /what."""
        with urllib.request.urlopen(f"{self.origin}/{what}", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    async def wait_for(self, count: int, timeout: float, what: str = "count", every: float = 0.05) -> dict[str, Any]:
        """Returns when so many different jobs have arrived, or so many answers are `held`; looks every so often."""
        deadline = time.monotonic() + timeout
        while True:
            found = await asyncio.to_thread(self.ask, "count")
            if found[what] >= count:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found[what]} of {count} jobs arrived within {timeout:g} s")
            await asyncio.sleep(every)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextlib.contextmanager
def postgres() -> Iterator[Cluster]:
    """A throw-away Postgres with default durability."""
    with temporary_cluster(Installation.find("embedded"), durable=True, settings=DURABLE) as cluster:
        yield cluster


async def empty_database(cluster: Cluster, name: str) -> str:
    """A new database; its URL. One of that name from before goes."""
    connection = await asyncpg.connect(cluster.url())
    try:
        await connection.execute(f'drop database if exists "{name}" with (force)')
        await connection.execute(f'create database "{name}"')
    finally:
        await connection.close()
    return cluster.url(name)


async def fresh_database(cluster: Cluster, name: str) -> str:
    """A new migrated database; its URL."""
    url = await empty_database(cluster, name)
    await migrate(url)
    return url


class Daemon:
    """`slayq-server` in a process of its own."""

    def __init__(self, url: str, config: dict[str, Any], processes: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slayq-bench-")
        path = Path(self._folder.name) / "slay-config.json"
        path.write_text(json.dumps({"http": {"port": 0}, **config}))
        self._log = (Path(self._folder.name) / "log").open("w+")
        options = ["--log-format", "json", *(["--processes", str(processes)] if processes > 1 else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slayq_server", "serve", str(path), *options],
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
async def daemon(url: str, config: dict[str, Any], processes: int = 1) -> AsyncIterator[Daemon]:
    """A daemon that has registered as a worker, or several behind one port, which all have."""
    running = Daemon(url, config, processes)
    try:
        connection = await asyncpg.connect(url)
        try:
            workers = "select count(*) from slayq.worker where expires_at > now()"
            before, deadline = await connection.fetchval(workers), time.monotonic() + 60
            while await connection.fetchval(workers) < before + processes:
                if time.monotonic() > deadline or not running.process.is_running():
                    raise RuntimeError(f"the daemon did not start:\n{running.log()}")
                await asyncio.sleep(0.01)
        finally:
            await connection.close()
        yield running
    finally:
        running.close()
