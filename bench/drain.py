"""Drains: so many no-op jobs wait, and a worker starts; from the first arrival to the last.

The CPU is counted from the first arrival on, for either side: no start of a process and no adding is in it. Commits and
WAL are counted from before the start, as a whole batch has been leased by the time that its first job arrives.

Node's compiler takes tens of thousands of jobs to be done with its work, so there are two more kinds. The long drains
show both sides in their stride. In a warm drain the worker has delivered something before, and the jobs, added in one
transaction, all become visible at once; what is measured begins with that commit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.context import RIVALS, Case, Context, of
from bench.driving import QUEUE, add_all, connected, settled, worker
from bench.meters import Cost, cost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg
    import psutil

    from bench.sides import Side

CONCURRENCIES = (10, 50, 200)
COMPARED = {
    "": "deliveries_per_second",
    "cpu_": "cpu_seconds_per_1000",
    "worker_cpu_": "worker_cpu_seconds_per_1000",
    "postgres_cpu_": "postgres_cpu_seconds_per_1000",
    "commits_": "commits_per_job",
    "wal_": "wal_bytes_per_job",
}
"""What tells the ratios' names apart, and the figures they are of."""


async def drain(context: Context, side: Side, concurrency: int, jobs: int) -> dict[str, float]:
    """One drain by a worker that has just started."""
    context.endpoint.ask("reset")
    url = await side.database(context.cluster)
    async with connected(url) as connection:
        # After a checkpoint the first change of each page costs the whole page: let none come between.
        await connection.execute("checkpoint")
        await add_all(connection, side, context.endpoint.url, jobs)
        written = await cost(context.cluster, connection, [])
        async with side.running(url, {QUEUE: concurrency}, context.endpoint) as process:
            await context.endpoint.wait_for(1, timeout=60, every=0.002)
            running = await cost(context.cluster, connection, [process])
            before = Cost(running.worker, running.postgres, written.commits, written.wal)
            used = await _ended(context, side, connection, jobs, [process]) - before
    return _figures(context, used, jobs)


async def warm_drain(context: Context, side: Side, concurrency: int, jobs: int, workers: int = 1) -> dict[str, float]:
    """One drain by so many workers that are warm."""
    queues = {QUEUE: concurrency}
    async with worker(context, side, queues, workers) as (url, processes), connected(url) as connection:
        async with connection.transaction():
            await add_all(connection, side, context.endpoint.url, jobs)
            before = await cost(context.cluster, connection, processes)
        used = await _ended(context, side, connection, jobs, processes) - before
    return _figures(context, used, jobs)


async def _ended(
    context: Context, side: Side, connection: asyncpg.Connection, jobs: int, processes: list[psutil.Process]
) -> Cost:
    """What was used by the time that all are delivered and settled."""
    await context.endpoint.wait_for(jobs, timeout=600)
    await settled(connection, side)
    return await cost(context.cluster, connection, processes)


def _figures(context: Context, used: Cost, jobs: int) -> dict[str, float]:
    found = context.endpoint.ask("count")
    if found["count"] != jobs or found["duplicates"]:
        raise RuntimeError(f"expected {jobs} deliveries, each once: {found}")
    return {"deliveries_per_second": (jobs - 1) / (found["last"] - found["first"]), **used.per_job(jobs)}


async def run(context: Context) -> None:
    """Each concurrency: ours and both ways of the rival in turn. The warm and the long ones without the slow way."""
    scale = context.scale
    for concurrency in CONCURRENCIES:
        name = f"drain_c{concurrency}"
        await _drains(context, name, drain, concurrency, scale.drain_jobs, scale.rounds, ("ours", *RIVALS))
    await _drains(context, "drain_warm_c50", warm_drain, 50, scale.drain_jobs, scale.rounds, ("ours", "undici"))
    for concurrency in CONCURRENCIES if scale.long_drain_jobs else ():
        rounds = min(2, scale.rounds) if concurrency == 50 else 1
        name = f"drain_100k_c{concurrency}"
        await _drains(context, name, drain, concurrency, scale.long_drain_jobs, rounds, ("ours", "undici"))


async def _drains(
    context: Context,
    name: str,
    kind: Callable[[Context, Side, int, int], Awaitable[dict[str, float]]],
    concurrency: int,
    jobs: int,
    rounds: int,
    names: tuple[str, ...],
) -> None:
    state = "warm" if kind is warm_drain else "just started"
    await context.in_turn(
        rounds,
        {
            of(name, side.name): (
                f"Drain of {jobs:,} no-op jobs, concurrency {concurrency}, {state}: {side.title}",
                partial(kind, context, side, concurrency, jobs),
            )
            for side in context.chosen(*names)
        },
    )
    for way in RIVALS:
        for label, figure in COMPARED.items():
            context.results.ratio(f"{name}_{label}vs_{way}", name, of(name, way), figure)


_NAMES: list[tuple[str, tuple[str, ...]]] = [
    *((f"drain_c{each}", RIVALS) for each in CONCURRENCIES),
    ("drain_warm_c50", ("undici",)),
    *((f"drain_100k_c{each}", ("undici",)) for each in CONCURRENCIES),
]
CASE = Case(
    "drain",
    run,
    figures=tuple(of(name, side) for name, ways in _NAMES for side in ("ours", *ways)),
    ratios=tuple(f"{name}_{label}vs_{way}" for name, ways in _NAMES for way in ways for label in COMPARED),
)
