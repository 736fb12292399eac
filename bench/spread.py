"""Ten queues with one hot: whether the jobs of the nine others are held up while one always has thousands waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING

from bench.context import Case, Context, of
from bench.driving import Feeder, connected, paced, waits, worker

if TYPE_CHECKING:
    from bench.sides import Side

SIDES = ("ours", "undici")
CONCURRENCY = 5
COLD = [f"cold{number}" for number in range(1, 10)]
RATE = 90
"""Jobs a second of the nine together."""
WAITING = 5_000
"""Jobs of the hot queue."""
_COLD_FROM = 100_000_000
_ENDLESS = 50_000_000


async def spread(context: Context, side: Side) -> dict[str, float]:
    """The cold queues' latency, first while the hot one is quiet, then while it is hot."""
    jobs = max(20, int(RATE * context.scale.spread_seconds))
    url_of = context.endpoint.url
    queues = {"hot": CONCURRENCY, **dict.fromkeys(COLD, CONCURRENCY)}
    async with worker(context, side, queues) as (url, _), contextlib.AsyncExitStack() as stack:
        adding = [await stack.enter_async_context(connected(url)) for _ in range(2)]
        numbers = range(_COLD_FROM, _COLD_FROM + jobs)
        committed = await paced(adding, side, COLD, url_of, numbers, RATE)
        await context.endpoint.wait_for(jobs, timeout=60)
        quiet = waits(committed, context.endpoint.ask("arrivals")["arrivals"])

        context.endpoint.ask("reset")
        feeder = Feeder(context, side, await stack.enter_async_context(connected(url)), "hot", 0)
        feeding = asyncio.ensure_future(feeder.feed(_ENDLESS, WAITING))
        try:
            await context.endpoint.wait_for(100, timeout=60)
            before, begun = context.endpoint.ask("count")["count"], time.monotonic()
            numbers = range(_COLD_FROM + jobs, _COLD_FROM + 2 * jobs)
            committed = await paced(adding, side, COLD, url_of, numbers, RATE)
            seconds, after = time.monotonic() - begun, context.endpoint.ask("count")["count"]
            arrivals = await _arrived(context, numbers)
        finally:
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feeding
        hot = waits(committed, arrivals)
    return {
        **{f"cold_{name}_hot": value for name, value in hot.items()},
        **{f"cold_{name}_quiet": value for name, value in quiet.items()},
        "hot_deliveries_per_second": (after - before - jobs) / seconds,
    }


async def _arrived(context: Context, numbers: range) -> dict[str, float]:
    """The arrivals, once all those are there."""
    deadline = time.monotonic() + 60
    while True:
        arrivals: dict[str, float] = (await asyncio.to_thread(context.endpoint.ask, "arrivals"))["arrivals"]
        if all(str(number) in arrivals for number in numbers):
            return arrivals
        if time.monotonic() > deadline:
            raise TimeoutError("jobs of the cold queues have not arrived within a minute")
        await asyncio.sleep(0.2)


async def run(context: Context) -> None:
    """Ours and the best of the rival in turn."""
    await context.in_turn(
        context.scale.rounds,
        {
            of("spread", side.name): (
                f"Ten queues, one hot: {side.title}",
                partial(spread, context, side),
            )
            for side in context.chosen(*SIDES)
        },
    )
    for percentile in ("p50", "p99"):
        figure = f"cold_{percentile}_ms_hot"
        context.results.ratio(f"spread_cold_{percentile}_vs_undici", "spread", "spread_undici", figure)
        context.results.ratio(
            f"spread_cold_{percentile}_hot_vs_quiet", "spread", "spread", figure, f"cold_{percentile}_ms_quiet"
        )


CASE = Case(
    "spread",
    run,
    figures=tuple(of("spread", side) for side in SIDES),
    ratios=tuple(
        f"spread_cold_{percentile}_{against}"
        for percentile in ("p50", "p99")
        for against in ("vs_undici", "hot_vs_quiet")
    ),
)
