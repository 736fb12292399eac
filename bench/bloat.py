"""Two million jobs through one database, with a transaction held open for some of them: do speed and sizes hold?

A producer keeps a few thousand waiting. A transaction that stays open keeps vacuum from removing what ended after it
began; what is asked is whether everything is as before once it has ended. Autovacuum looks once a minute by default, so
that takes some minutes to see: that is why they are so many.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bench.context import Case
from bench.driving import QUEUE, Feeder, connected, settled, worker

if TYPE_CHECKING:
    import asyncpg

    from bench.context import Context
    from bench.sides import Side

CONCURRENCY = 50
WAITING = 5_000
HELD = (0.1, 0.2)
"""The part of the jobs during which the transaction is open."""
TENTHS = 10
_SIZES = "select pg_table_size($1::text::regclass) as data, pg_indexes_size($1::text::regclass) as indexes"
_EVERY = 0.25


class Watch:
    """Watches how far it is, and how large the table has become."""

    def __init__(self, context: Context, side: Side, jobs: int) -> None:
        self._context = context
        self._side = side
        self._jobs = jobs
        self.points = [{"seconds": 0.0, "delivered": 0.0, "table_mb": 0.0, "indexes_mb": 0.0}]

    async def look(self, connection: asyncpg.Connection, begun: float) -> float:
        """Notes one point; the part that is delivered."""
        count = (await asyncio.to_thread(self._context.endpoint.ask, "count"))["count"]
        row = await connection.fetchrow(_SIZES, self._side.table)
        assert row is not None
        self.points.append({
            "seconds": time.monotonic() - begun,
            "delivered": count,
            "table_mb": row["data"] / 2**20,
            "indexes_mb": row["indexes"] / 2**20,
        })  # fmt: skip
        return float(count) / self._jobs

    def at(self, part: float, key: str) -> float:
        """A figure when so many were delivered, between the two points around that."""
        wanted = part * self._jobs
        after = next(place for place, point in enumerate(self.points) if point["delivered"] >= wanted)
        if after == 0:
            return self.points[0][key]
        first, second = self.points[after - 1], self.points[after]
        share = (wanted - first["delivered"]) / (second["delivered"] - first["delivered"])
        return first[key] + (second[key] - first[key]) * share

    def rate(self, tenth: int) -> float:
        """Deliveries a second in one tenth of the jobs, from 0."""
        seconds = self.at((tenth + 1) / TENTHS, "seconds") - self.at(tenth / TENTHS, "seconds")
        return self._jobs / TENTHS / seconds


async def bloat(context: Context, side: Side) -> Watch:
    """Sends them all through."""
    jobs = context.scale.bloat_jobs
    async with (
        worker(context, side, {QUEUE: CONCURRENCY}) as (url, _),
        connected(url) as connection,
        connected(url) as adding,
        connected(url) as holding,
    ):
        feeder = Feeder(context, side, adding, QUEUE, 0)
        watch = Watch(context, side, jobs)
        feeding = asyncio.ensure_future(feeder.feed(jobs, min(WAITING, jobs)))
        try:
            await context.endpoint.wait_for(1, timeout=60)
            begun, held = time.monotonic(), False
            while (part := await watch.look(connection, begun)) < 1:
                if feeding.done():
                    feeding.result()
                if held != (HELD[0] <= part < HELD[1]):
                    held = not held
                    await holding.execute(
                        f"begin isolation level repeatable read; select from {side.table} limit 1"
                        if held
                        else "rollback"
                    )
                if time.monotonic() > begun + 1_800:
                    raise TimeoutError(f"{part:.0%} were delivered within half an hour")
                await asyncio.sleep(_EVERY if jobs > 10_000 else 0)
            await settled(connection, side)
        finally:
            feeding.cancel()
        found = context.endpoint.ask("count")
    if found["count"] != jobs or found["duplicates"]:
        raise RuntimeError(f"expected {jobs} deliveries, each once: {found}")
    return watch


async def run(context: Context) -> None:
    """Ours alone: the rival would take several times as long."""
    watch = await bloat(context, context.sides["ours"])
    rates = [watch.rate(tenth) for tenth in range(TENTHS)]
    most = max(point["table_mb"] + point["indexes_mb"] for point in watch.points)
    figures = {
        "first_tenth_per_second": rates[0],
        "last_tenth_per_second": rates[-1],
        "slowest_tenth_per_second": min(rates),
        **{f"table_mb_at_{part}_percent": watch.at(part / 100, "table_mb") for part in (30, 60, 80, 100)},
        **{f"indexes_mb_at_{part}_percent": watch.at(part / 100, "indexes_mb") for part in (30, 60, 80, 100)},
        "most_mb": most,
    }
    title = f"{context.scale.bloat_jobs:,} jobs through, a transaction open from 10 % to 20 %: slayq-server"
    results = context.results
    results.add("bloat", [figures], title)
    results.curve("bloat_rates", [{"tenth": tenth + 1, "per_second": rate} for tenth, rate in enumerate(rates)])
    every = max(1, len(watch.points) // 80)
    results.curve("bloat_sizes", [*watch.points[:-1:every], watch.points[-1]])
    results.ratio("bloat_last_vs_first_tenth", "bloat", "bloat", "last_tenth_per_second", "first_tenth_per_second")
    results.ratio(
        "bloat_table_100_vs_80_percent", "bloat", "bloat", "table_mb_at_100_percent", "table_mb_at_80_percent"
    )
    results.ratio(
        "bloat_indexes_100_vs_80_percent", "bloat", "bloat", "indexes_mb_at_100_percent", "indexes_mb_at_80_percent"
    )


CASE = Case(
    "bloat",
    run,
    figures=("bloat",),
    ratios=("bloat_last_vs_first_tenth", "bloat_table_100_vs_80_percent", "bloat_indexes_100_vs_80_percent"),
)
