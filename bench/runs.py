"""What runs of durable functions cost: an app with the SDK in a process of its own, steps that do nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import asyncpg
import psutil

from bench.rig import cost, daemon, fresh_database

if TYPE_CHECKING:
    from slayq_server.dev.cluster import Cluster


class App:
    """The app's process."""

    def __init__(self, steps: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.app", str(steps)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.origin = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


async def runs(cluster: Cluster, number: int, steps: int, concurrency: int = 50) -> dict[str, float]:
    """`number` runs of so many trivial steps wait before the daemon starts; until the last has ended."""
    url = await fresh_database(cluster, "bench_runs")
    with App(steps) as app:
        connection = await asyncpg.connect(url)
        try:
            function = {"event": "bench/run", "queue": "bench"}
            manifest = {"app": "bench", "url": f"{app.origin}/slayq", "functions": [function]}
            await connection.execute("select slayq.register($1)", json.dumps(manifest))
            for start in range(0, number, 500):
                batch = [{"event": "bench/run", "data": {"n": n}} for n in range(start, min(start + 500, number))]
                await connection.execute("select slayq.send_many($1)", json.dumps(batch))
            settings = {"queues": {"bench": {"concurrency": concurrency}}, "callbacks": {"allow": [app.origin]}}
            before, app_before = cost(cluster, None), app.cpu()
            async with daemon(url, settings) as running:
                used = cost(cluster, running)
                commits, begun = await _commits(connection), time.monotonic()
                await _ended(connection)
                seconds = time.monotonic() - begun
                commits = await _commits(connection) - commits
                used = cost(cluster, running) - before
        finally:
            await connection.close()
        return {
            "runs_per_second": number / seconds,
            "steps_per_second": number * steps / seconds,
            "commits_per_step": commits / (number * steps),
            "daemon_cpu_ms_per_run": used.daemon / number * 1000,
            "postgres_cpu_ms_per_run": used.postgres / number * 1000,
            "app_cpu_ms_per_run": (app.cpu() - app_before) / number * 1000,
        }


async def _ended(connection: asyncpg.Connection) -> None:
    """Returns when no run is left."""
    deadline = time.monotonic() + 300
    while await connection.fetchval("select exists (select from slayq.job)"):
        if time.monotonic() > deadline:
            raise TimeoutError("the runs have not ended")
        await asyncio.sleep(0.05)
    if await connection.fetchval("select exists (select from slayq.dead_letter)"):
        raise RuntimeError("a run has died")


async def _commits(connection: asyncpg.Connection) -> int:
    """Of the database so far, but for those of this very look."""
    commits: int = await connection.fetchval(
        "select xact_commit from pg_stat_database where datname = current_database()"
    )
    return commits
