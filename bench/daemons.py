"""One, two and four workers on one database, and one server with two processes."""

from __future__ import annotations

from functools import partial

from bench.context import Case, Context, of
from bench.drain import warm_drain
from bench.sides import Ours

COUNTS = (1, 2, 4)
SIDES = ("ours", "undici")
CONCURRENCY = 25
"""Of each."""


async def run(context: Context) -> None:
    """All counts of both sides in turn."""
    jobs = context.scale.daemon_jobs
    pair = Ours(processes=2)
    await context.in_turn(
        context.scale.rounds,
        {
            of(f"daemons_{count}", side.name): (
                f"Drain of {jobs:,} jobs by {count} with concurrency {CONCURRENCY}: {side.title}",
                partial(warm_drain, context, side, CONCURRENCY, jobs, count),
            )
            for count in COUNTS
            for side in context.chosen(*SIDES)
        }
        | {
            "processes_2": (
                f"Drain of {jobs:,} jobs by one server with concurrency {2 * CONCURRENCY}: {pair.title}",
                partial(warm_drain, context, pair, 2 * CONCURRENCY, jobs),
            )
        },
    )
    context.results.ratio("processes_2_vs_1", "processes_2", "daemons_1", "deliveries_per_second")
    for count in COUNTS:
        name = f"daemons_{count}"
        context.results.ratio(f"{name}_vs_undici", name, of(name, "undici"), "deliveries_per_second")
        if count > 1:
            context.results.ratio(f"{name}_vs_1", name, "daemons_1", "deliveries_per_second")


CASE = Case(
    "daemons",
    run,
    figures=("processes_2", *(of(f"daemons_{count}", side) for count in COUNTS for side in SIDES)),
    ratios=(
        "processes_2_vs_1",
        *(f"daemons_{count}_vs_undici" for count in COUNTS),
        *(f"daemons_{count}_vs_1" for count in COUNTS if count > 1),
    ),
)
