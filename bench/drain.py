"""Drains: so many no-op jobs become visible at once to a warm worker; from the first arrival to the last.

The jobs are added in one transaction, and what is measured begins with its commit. So neither the start of a process
nor the adding is in any figure, for either side: the CPU and the WAL are those of delivering and settling alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.context import RIVALS, Case, Context, of
from bench.driving import QUEUE, add_all, connected, settled, worker
from bench.meters import cost

if TYPE_CHECKING:
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


async def drain(context: Context, side: Side, concurrency: int, jobs: int, workers: int = 1) -> dict[str, float]:
    """One drain by so many workers."""
    queues = {QUEUE: concurrency}
    async with worker(context, side, queues, workers) as (url, processes), connected(url) as connection:
        async with connection.transaction():
            await add_all(connection, side, context.endpoint.url, jobs)
            before = await cost(context.cluster, connection, processes)
        await context.endpoint.wait_for(jobs, timeout=600)
        await settled(connection, side)
        used = await cost(context.cluster, connection, processes) - before
    found = context.endpoint.ask("count")
    if found["count"] != jobs or found["duplicates"]:
        raise RuntimeError(f"expected {jobs} deliveries, each once: {found}")
    return {"deliveries_per_second": (jobs - 1) / (found["last"] - found["first"]), **used.per_job(jobs)}


async def run(context: Context) -> None:
    """Each concurrency: ours and both ways of the rival in turn. The long ones without the slow way."""
    scale = context.scale
    for concurrency in CONCURRENCIES:
        name = f"drain_c{concurrency}"
        await _drains(context, name, concurrency, scale.drain_jobs, scale.rounds, ("ours", *RIVALS))
    for concurrency in CONCURRENCIES if scale.long_drain_jobs else ():
        rounds = min(2, scale.rounds) if concurrency == 50 else 1
        name = f"drain_100k_c{concurrency}"
        await _drains(context, name, concurrency, scale.long_drain_jobs, rounds, ("ours", "undici"))


async def _drains(
    context: Context, name: str, concurrency: int, jobs: int, rounds: int, names: tuple[str, ...]
) -> None:
    await context.in_turn(
        rounds,
        {
            of(name, side.name): (
                f"Drain of {jobs:,} no-op jobs, concurrency {concurrency}: {side.title}",
                partial(drain, context, side, concurrency, jobs),
            )
            for side in context.chosen(*names)
        },
    )
    for way in RIVALS:
        for label, figure in COMPARED.items():
            context.results.ratio(f"{name}_{label}vs_{way}", name, of(name, way), figure)


_NAMES: list[tuple[str, tuple[str, ...]]] = [(f"drain_c{each}", RIVALS) for each in CONCURRENCIES]
_NAMES += [(f"drain_100k_c{each}", ("undici",)) for each in CONCURRENCIES]
CASE = Case(
    "drain",
    run,
    figures=tuple(of(name, side) for name, ways in _NAMES for side in ("ours", *ways)),
    ratios=tuple(f"{name}_{label}vs_{way}" for name, ways in _NAMES for way in ways for label in COMPARED),
)
