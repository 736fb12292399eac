"""Adds: one at a time, in bulk, and from eight connections at once; with no worker, and with a busy one.

Does NOTIFY serialise the commits? A worker is busy in two ways: `serving` delivers what is added, and so competes for
the processor, too; `full` listens and has a delivery in each slot that is not answered, so that it can take no more:
what it costs is the signalling alone. The clients are pgbench's, which cost little.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.context import Case, Context, of
from bench.driving import QUEUE, connected, payload, warm

if TYPE_CHECKING:
    from bench.sides import Side

SIDES = ("ours", "undici")
STATES = ("none", "full", "serving")
CLIENTS = {"one": 1, "8": 8}
CONCURRENCY = 50
_BULK = 1_000
_BULK_FROM = 500_000_000
_HELD_FROM = 400_000_000
_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


async def adds(context: Context, side: Side, state: str) -> dict[str, float]:
    """Adds a second, from one client and from eight; with no worker in bulk, too."""
    context.endpoint.ask("reset")
    url = await side.database(context.cluster)
    if state == "none":
        return {**await _bulk(context, side, url), **await _singly(context, side, url)}
    queues = {QUEUE: CONCURRENCY}
    async with side.running(url, queues, context.endpoint):
        await warm(context, side, url, queues)
        try:
            if state == "full":
                async with connected(url) as connection:
                    last = _HELD_FROM + CONCURRENCY - 1
                    await connection.execute(side.add, QUEUE, context.endpoint.held_url, _HELD_FROM, last)
                await context.endpoint.wait_for(CONCURRENCY, 60, "held")
            return await _singly(context, side, url)
        finally:
            context.endpoint.ask("reset")


async def _bulk(context: Context, side: Side, url: str) -> dict[str, float]:
    added, begun = 0, time.monotonic()
    async with connected(url) as connection:
        while time.monotonic() - begun < context.scale.add_seconds / 2:
            first = _BULK_FROM + added
            await connection.execute(side.add, QUEUE, context.endpoint.url, first, first + _BULK - 1)
            added += _BULK
        return {"bulk_per_second": added / (time.monotonic() - begun)}


async def _singly(context: Context, side: Side, url: str) -> dict[str, float]:
    return {
        f"{name}_per_second": await _pgbench(context, side, url, clients, context.scale.add_seconds)
        for name, clients in CLIENTS.items()
    }


async def _pgbench(context: Context, side: Side, url: str, clients: int, seconds: float) -> float:
    """Each client adds one job after the other. pgbench counts whole seconds, so a short run counts transactions."""
    document = (
        payload(context.endpoint.url, 0).replace('"n":0', '"n"::number').replace("::number", ":' || :number || '")
    )
    call = side.add_one.replace("$1", f"'{QUEUE}'").replace("$2", f"('{document}')")
    script = f"\\set number random(1, 399000000)\n{call};\n"
    amount = ["--time", str(round(seconds))] if seconds >= 1 else ["--transactions", "20"]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            str(Path(context.cluster.installation.bin_dir) / "pgbench"),
            *("--no-vacuum", "--client", str(clients), "--jobs", "1", "--protocol", "prepared", *amount),
            *("--file", file.name, url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), seconds + 60)
    found = _RATE.search(output.decode())
    if process.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench ended with {process.returncode}:\n{errors.decode()}")
    return float(found[1])


async def run(context: Context) -> None:
    """Every state of both sides in turn."""
    await context.in_turn(
        context.scale.rounds,
        {
            of(f"adds_{state}", side.name): (
                f"Adds, worker {state}: {side.title}",
                partial(adds, context, side, state),
            )
            for state in STATES
            for side in context.chosen(*SIDES)
        },
    )
    for client in CLIENTS:
        for state in STATES[1:]:
            context.results.ratio(
                f"adds_{client}_{state}_vs_none", f"adds_{state}", "adds_none", f"{client}_per_second"
            )
        context.results.ratio(f"adds_{client}_vs_undici", "adds_none", "adds_none_undici", f"{client}_per_second")
    context.results.ratio("adds_bulk_vs_undici", "adds_none", "adds_none_undici", "bulk_per_second")


CASE = Case(
    "adds",
    run,
    figures=tuple(of(f"adds_{state}", side) for state in STATES for side in SIDES),
    ratios=(
        *(f"adds_{client}_{state}_vs_none" for client in CLIENTS for state in STATES[1:]),
        *(f"adds_{client}_vs_undici" for client in CLIENTS),
        "adds_bulk_vs_undici",
    ),
)
