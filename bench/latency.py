"""Steady load: milliseconds from the commit of an add to the job's arrival at the endpoint.

What a job costs is told, too: here it comes alone, and its add is part of it.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from bench.context import Case, Context, of
from bench.driving import QUEUE, connected, paced, settled, waits, worker
from bench.meters import cost

if TYPE_CHECKING:
    from bench.sides import Side

CONCURRENCY = 50
RATES = {20: 1, 200: 2, 1_000: 8}
"""Jobs a second, and the connections that add them: one client must not be the bottleneck."""
STEADY = 100
"""Below this rate a round has few jobs, so it is longer, and there are more of them."""
SIDES = ("ours", "undici")
PERCENTILES = ("p50", "p95", "p99", "max")


async def latency(context: Context, side: Side, rate: int, connections: int) -> dict[str, float]:
    """One round."""
    seconds = context.scale.steady_seconds if rate < STEADY else context.scale.latency_seconds
    jobs = max(20, int(rate * seconds))
    async with worker(context, side, {QUEUE: CONCURRENCY}) as (url, processes), contextlib.AsyncExitStack() as stack:
        adding = [await stack.enter_async_context(connected(url)) for _ in range(connections)]
        before = await cost(context.cluster, adding[0], processes)
        committed = await paced(adding, side, [QUEUE], context.endpoint.url, range(jobs), rate)
        took = max(committed.values()) - min(committed.values())
        await context.endpoint.wait_for(jobs, timeout=60)
        await settled(adding[0], side)
        used = await cost(context.cluster, adding[0], processes) - before
    arrivals = context.endpoint.ask("arrivals")["arrivals"]
    return {**waits(committed, arrivals), "added_per_second": (jobs - 1) / took, **used.per_job(jobs)}


async def run(context: Context) -> None:
    """Each rate: ours and the best of the rival in turn."""
    for rate, connections in RATES.items():
        name = f"latency_{rate}"
        await context.in_turn(
            context.scale.steady_rounds if rate < STEADY else context.scale.rounds,
            {
                of(name, side.name): (
                    f"Latency at {rate} jobs a second: {side.title}",
                    partial(latency, context, side, rate, connections),
                )
                for side in context.chosen(*SIDES)
            },
        )
        for percentile in PERCENTILES:
            context.results.ratio(
                f"latency_{percentile}_{rate}_vs_undici", name, of(name, "undici"), f"{percentile}_ms"
            )


CASE = Case(
    "latency",
    run,
    figures=tuple(of(f"latency_{rate}", side) for rate in RATES for side in SIDES),
    ratios=tuple(f"latency_{percentile}_{rate}_vs_undici" for rate in RATES for percentile in PERCENTILES),
)
