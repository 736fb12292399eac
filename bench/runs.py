"""Durable functions: runs and steps a second. An app with the SDK in a process of its own, steps that do nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Self

import psutil

from bench.context import Case
from bench.driving import QUEUE, connected
from bench.meters import cost
from bench.rig import daemon, fresh_database

if TYPE_CHECKING:
    import asyncpg

    from bench.context import Context

STEPS = (1, 10, 100)
"""In each run; there are as many steps in all."""
CONCURRENCY = 50
_WARM = 20
_BATCH = 500


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
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


async def runs(context: Context, number: int, steps: int) -> dict[str, float]:
    """`number` runs become visible at once to a warm daemon; until the last has ended."""
    url = await fresh_database(context.cluster, "bench_runs")
    with App(steps) as app:
        settings = {"queues": {QUEUE: {"concurrency": CONCURRENCY}}, "callbacks": {"allow": [app.origin]}}
        async with connected(url) as connection, daemon(url, settings) as running:
            function = {"event": "bench/run", "queue": QUEUE}
            manifest = {"app": "bench", "url": f"{app.origin}/slayq", "functions": [function]}
            await connection.execute("select slayq.register($1)", json.dumps(manifest))
            await _send(connection, _WARM)
            await _ended(connection)
            async with connection.transaction():
                await _send(connection, number)
                before, app_before = await cost(context.cluster, connection, [running.process]), app.cpu()
            begun = time.monotonic()
            await _ended(connection)
            seconds = time.monotonic() - begun
            used = await cost(context.cluster, connection, [running.process]) - before
            app_cpu = app.cpu() - app_before
    total = number * steps
    return {
        "runs_per_second": number / seconds,
        "steps_per_second": total / seconds,
        "commits_per_step": used.commits / total,
        "wal_bytes_per_step": used.wal / total,
        "worker_cpu_ms_per_step": used.worker / total * 1000,
        "postgres_cpu_ms_per_step": used.postgres / total * 1000,
        "app_cpu_ms_per_step": app_cpu / total * 1000,
    }


async def _send(connection: asyncpg.Connection, number: int) -> None:
    for first in range(0, number, _BATCH):
        batch = [{"event": "bench/run", "data": {"n": n}} for n in range(first, min(first + _BATCH, number))]
        await connection.execute("select slayq.send_many($1)", json.dumps(batch))


async def _ended(connection: asyncpg.Connection) -> None:
    """Returns when no run is left."""
    deadline = time.monotonic() + 300
    while await connection.fetchval("select exists (select from slayq.job)"):
        if time.monotonic() > deadline:
            raise TimeoutError("the runs have not ended")
        await asyncio.sleep(0.02)
    if await connection.fetchval("select exists (select from slayq.dead_letter)"):
        raise RuntimeError("a run has died")


async def run(context: Context) -> None:
    """Few steps a run against many, in turn."""

    def title(steps: int) -> str:
        number = max(1, context.scale.steps // steps)
        return f"{number:,} runs of {steps} step{'s' if steps > 1 else ''} that do nothing"

    await context.in_turn(
        context.scale.rounds,
        {
            f"runs_{steps}_steps": (
                title(steps),
                partial(runs, context, max(1, context.scale.steps // steps), steps),
            )
            for steps in STEPS
        },
    )
    for steps in STEPS[1:]:
        context.results.ratio(
            f"runs_steps_{steps}_vs_1", f"runs_{steps}_steps", f"runs_{STEPS[0]}_steps", "steps_per_second"
        )


CASE = Case(
    "runs",
    run,
    figures=tuple(f"runs_{steps}_steps" for steps in STEPS),
    ratios=tuple(f"runs_steps_{steps}_vs_1" for steps in STEPS[1:]),
)
