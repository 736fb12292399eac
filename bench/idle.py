"""What a worker with six queues does when there is nothing to do."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import TYPE_CHECKING

from bench.context import Case, Context, of
from bench.driving import connected
from bench.meters import worker_cpu

if TYPE_CHECKING:
    from pathlib import Path

    from bench.sides import Side

SIDES = ("ours", "fetch")
COMPARED = ("statements_per_minute", "transactions_per_minute", "connections", "rss_mb")
QUEUES = dict.fromkeys(("bench", *(f"idle{number}" for number in range(1, 6))), 10)
_STATEMENT = re.compile(rb"LOG:  (?:statement|execute )")


async def idle(context: Context, side: Side) -> dict[str, float]:
    """Statements are counted in Postgres' own log, which has each one while this runs."""
    url = await side.database(context.cluster)
    database = url.rpartition("/")[2]
    log = context.cluster.log_file
    async with connected(context.cluster.url()) as watcher:
        await watcher.execute(f"alter database \"{database}\" set log_statement = 'all'")
        async with side.running(url, QUEUES, context.endpoint) as process:
            await asyncio.sleep(context.scale.idle_settle_seconds)
            transactions = "select xact_commit + xact_rollback from pg_stat_database where datname = $1"
            sessions = "select count(*) from pg_stat_activity where datname = $1 and backend_type = 'client backend'"
            begun, before = time.monotonic(), await watcher.fetchval(transactions, database)
            cpu, size = worker_cpu(process), log.stat().st_size
            await asyncio.sleep(context.scale.idle_seconds)
            minutes = (time.monotonic() - begun) / 60
            after, connections = [await watcher.fetchval(each, database) for each in (transactions, sessions)]
            memory = sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
            return {
                "statements_per_minute": _statements(log, size) / minutes,
                "transactions_per_minute": (after - before) / minutes,
                "connections": connections,
                "rss_mb": memory / 2**20,
                "worker_cpu_percent": (worker_cpu(process) - cpu) / (minutes * 60) * 100,
            }


def _statements(log: Path, start: int) -> int:
    """In the log from there on. Our own watcher works on another database, whose statements are not logged."""
    with log.open("rb") as file:
        file.seek(start)
        return len(_STATEMENT.findall(file.read()))


async def run(context: Context) -> None:
    """Ours, and the original's way."""
    await context.in_turn(
        1,
        {
            of("idle", side.name): (
                f"Idle, six queues: {side.title}",
                partial(idle, context, side),
            )
            for side in context.chosen(*SIDES)
        },
    )
    for figure in COMPARED:
        context.results.ratio(f"idle_{figure}_vs_fetch", "idle", "idle_fetch", figure)


CASE = Case(
    "idle",
    run,
    figures=tuple(of("idle", side) for side in SIDES),
    ratios=tuple(f"idle_{figure}_vs_fetch" for figure in COMPARED),
)
