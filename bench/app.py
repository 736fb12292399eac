"""An app of durable functions, a process of its own, that the benchmark of runs delivers to.

python -m bench.app STEPS      prints the port it listens on
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import uvloop
from aiohttp import web

from bench.rig import SECRET
from slayq import SlayQ, Step
from slayq.contrib.aiohttp import setup

STEPS = int(sys.argv[1])
sq = SlayQ(app="bench", secret=SECRET)


@sq.function(event="bench/run", queue="bench")
async def run(data: dict[str, Any], step: Step) -> int:
    """So many steps that do nothing."""
    total = 0
    for number in range(STEPS):
        total += await step.run(f"step {number}", nothing, number)
    return total


async def nothing(number: int) -> int:
    """A step's body."""
    return number


async def main() -> None:
    """Serves until it is told to stop."""
    app = web.Application()
    setup(app, sq, register=False)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with the process that started it
    await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
