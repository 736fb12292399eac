"""The rival: stock Graphile Worker from npm, whose handler signs and posts as protocol v1 says.

Measured in two ways: as the original server does it (`fetch`, default settings), and with the best it has (undici's
pool, local queue, batched completion).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil

from bench.rig import SECRET, cost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.rig import Endpoint
    from slayq_server.dev.cluster import Cluster

SOURCES = Path(__file__).parent / "graphile"
WAYS = {
    "fetch": {"CLIENT": "fetch"},
    "undici": {"CLIENT": "undici", "LOCAL_QUEUE": "500", "COMPLETE_DELAY": "0", "FAIL_DELAY": "0"},
}
"""Settings of graphile.mjs by the name of the way."""
_INSTALL_SECONDS = 300


class Rival:
    """Graphile Worker, installed in a folder of its own for the length of the benchmark."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._node = str(folder / "node_modules" / ".bin" / "node")

    @classmethod
    @contextlib.contextmanager
    def installed(cls) -> Iterator[Rival]:
        """Installs it by its lock file. Raises RuntimeError where npm is missing or fails."""
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("the rival needs npm: install nodejs and npm, or leave the rival out with --no-rival")
        with tempfile.TemporaryDirectory(prefix="slayq-rival-") as name:
            folder = Path(name)
            for each in ("package.json", "package-lock.json", "graphile.mjs"):
                shutil.copy(SOURCES / each, folder)
            finished = subprocess.run(
                [npm, "ci", "--no-audit", "--no-fund", "--no-update-notifier"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_INSTALL_SECONDS,
            )
            if finished.returncode != 0:
                raise RuntimeError(f"npm ci ended with {finished.returncode}:\n{finished.stderr}")
            yield cls(folder)

    async def drain(
        self, cluster: Cluster, endpoint: Endpoint, way: str, concurrency: int, jobs: int
    ) -> dict[str, float]:
        """As `bench.__main__.drain`: so many no-op jobs wait; from the first arrival to the last."""
        endpoint.ask("reset")
        url = await self._database(cluster)
        await _add(url, endpoint.url, jobs)
        before = cost(cluster, None)
        with self._running(url, way, concurrency) as process:
            found = await endpoint.wait_for(jobs, timeout=300)
            await _settled(url)
            times = process.cpu_times()
            postgres = (cost(cluster, None) - before).postgres
        if found["count"] != jobs:
            raise RuntimeError(f"expected {jobs} deliveries: {found}")
        return {
            "deliveries_per_second": (jobs - 1) / (found["last"] - found["first"]),
            "daemon_cpu_seconds_per_1000": (times.user + times.system) / jobs * 1000,
            "postgres_cpu_seconds_per_1000": postgres / jobs * 1000,
        }

    async def latency(
        self, cluster: Cluster, endpoint: Endpoint, way: str, concurrency: int, rate: float, seconds: float
    ) -> list[float]:
        """Milliseconds from the commit of an add to the job's arrival, at a steady rate, sorted."""
        endpoint.ask("reset")
        url = await self._database(cluster)
        number = int(rate * seconds)
        with self._running(url, way, concurrency):
            await _add(url, endpoint.url, 20, first=number)
            await endpoint.wait_for(20, timeout=60)
            committed = await _paced_adds(url, endpoint.url, number, rate)
            await endpoint.wait_for(number + 20, timeout=120)
        arrivals = endpoint.ask("arrivals")["arrivals"]
        return sorted(max(0.0, arrivals[str(each)] - at) * 1000 for each, at in committed.items())

    async def _database(self, cluster: Cluster) -> str:
        """A new database with its schema in it."""
        connection = await asyncpg.connect(cluster.url())
        try:
            await connection.execute('drop database if exists "bench_rival" with (force)')
            await connection.execute('create database "bench_rival"')
        finally:
            await connection.close()
        url = cluster.url("bench_rival")
        worker = self._folder / "node_modules" / "graphile-worker" / "dist" / "cli.js"
        await asyncio.to_thread(
            subprocess.run,
            [self._node, str(worker), "--connection", url, "--schema-only"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return url

    @contextlib.contextmanager
    def _running(self, url: str, way: str, concurrency: int) -> Iterator[psutil.Process]:
        config = self._folder / "slay-config.json"
        config.write_text(json.dumps({"queues": {"bench": {"concurrency": concurrency}}}))
        env = {**os.environ, "SLAY_Q_DATABASE_URL": url, "SLAY_Q_SECRET": SECRET, "GRAPHILE_LOGGER_DEBUG": "0"}
        process = subprocess.Popen(
            [self._node, "graphile.mjs", str(config)],
            cwd=self._folder,
            env={**env, **WAYS[way]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                process.kill()


async def _add(url: str, target: str, count: int, first: int = 0) -> None:
    """Adds jobs numbered from `first`, in one statement."""
    connection = await asyncpg.connect(url, command_timeout=300)
    try:
        await connection.execute(
            """
            select count(*) from (
                select graphile_worker.add_job('bench', json_build_object('url', $1::text, 'event', 'bench/noop',
                    'data', json_build_object('n', i)))
                from generate_series($2::integer, $3::integer) as i
            ) as added
            """,
            target,
            first,
            first + count - 1,
        )
    finally:
        await connection.close()


async def _paced_adds(url: str, target: str, number: int, rate: float) -> dict[int, float]:
    """Adds one job after the other; when each was committed."""
    committed: dict[int, float] = {}
    connection = await asyncpg.connect(url)
    try:
        begin = time.monotonic()
        for each in range(number):
            await asyncio.sleep(max(0.0, begin + each / rate - time.monotonic()))
            payload = json.dumps({"url": target, "event": "bench/noop", "data": {"n": each}}).replace(": ", ":")
            await connection.execute("select graphile_worker.add_job('bench', $1::json)", payload)
            committed[each] = time.monotonic()
    finally:
        await connection.close()
    return committed


async def _settled(url: str) -> None:
    """Returns when no job is left."""
    connection = await asyncpg.connect(url)
    try:
        deadline = time.monotonic() + 60
        while await connection.fetchval("select exists (select from graphile_worker._private_jobs)"):
            if time.monotonic() > deadline:
                raise TimeoutError("the rival's jobs were delivered, but not completed")
            await asyncio.sleep(0.02)
    finally:
        await connection.close()
