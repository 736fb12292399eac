"""An app of durable functions that a test can kill and hold up, in a process of its own.

    python -m tests.integration.durable.app PORT FOLDER [URL]

It writes a line for each thing that happens into FOLDER/log, and goes by what stands in FOLDER: a file `kill-7` has it
kill itself after step 7, once; while `hold-7` is there, the body of step 7 does not end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from slayq import Event, SlayQ, Step
from slayq.contrib.aiohttp import setup

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
URL = sys.argv[3] if len(sys.argv) > 3 else f"http://127.0.0.1:{PORT}/slayq"
"""Where the server reaches it: past a proxy, perhaps."""
STEPS = 10


class Order(BaseModel):
    """What the functions are about."""

    order: int


ten = Event("durable/ten", Order)
slow = Event("durable/slow", Order)
long = Event("durable/long", Order)
waiter = Event("durable/waiter", Order)
paid = Event("durable/paid", Order)
parent = Event("durable/parent", Order)
sq = SlayQ(app="durable", url=URL, secret=os.environ["APP_SECRET"])
_log = (FOLDER / "log").open("a", buffering=1)


def note(what: str, **more: Any) -> None:
    """Writes a line that outlives this process."""
    _log.write(json.dumps({"what": what, "at": time.monotonic(), "pid": os.getpid(), **more}) + "\n")


async def body(run: str, number: int) -> int:
    """One step's work."""
    note("step", run=run, step=number)
    while (FOLDER / f"hold-{number}").exists():
        await asyncio.sleep(0.005)
    return number * number


def die_after(number: int) -> None:
    """Kills this very process, if it is to die here."""
    mark = FOLDER / f"kill-{number}"
    if mark.exists():
        mark.unlink()
        note("killed", step=number)
        os.kill(os.getpid(), signal.SIGKILL)


@sq.function(event=ten, queue="general", retries=3)
async def run_ten(order: Order, step: Step) -> int:
    """Ten steps, one after the other."""
    total = 0
    for number in range(1, STEPS + 1):
        total += await step.run(f"step {number}", body, str(step.run_id), number)
        die_after(number)
    note("finished", run=str(step.run_id), total=total)
    return total


@sq.function(event=slow, queue="general")
async def run_slow(order: Order, step: Step) -> None:
    """One step of a minute."""
    await step.run("minute", minute, str(step.run_id))
    note("finished", run=str(step.run_id))


async def minute(run: str) -> None:
    """Says when it begins, and when it is cancelled."""
    note("step", run=run, step="minute")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note("cancelled", run=run)
        raise


@sq.function(event=long, queue="general")
async def run_long(order: Order, step: Step) -> None:
    """One step of so many seconds."""
    await step.run("seconds", seconds, str(step.run_id), order.order)
    note("finished", run=str(step.run_id))


async def seconds(run: str, number: int) -> None:
    """Takes as long as it is told to."""
    note("step", run=run, step="seconds")
    await asyncio.sleep(number)


@sq.function(event=waiter, queue="general", waits_on=[(paid, "order")])
async def run_waiter(order: Order, step: Step) -> None:
    """Waits for the order to be paid."""
    payment = await step.wait_for_event("payment", paid, timeout="2m")
    note("woken", run=str(step.run_id), order=order.order, paid=payment is not None)


@sq.function(event=parent, queue="general", invokes=[run_ten])
async def run_parent(order: Order, step: Step) -> None:
    """Invokes the ten steps."""
    total = await step.invoke("ten", run_ten, order, timeout="2m")
    note("finished", run=str(step.run_id), total=total)


def main() -> None:
    """Serves until it is killed."""
    app = web.Application()
    setup(app, sq)
    web.run_app(app, host="127.0.0.1", port=PORT, print=None)


if __name__ == "__main__":
    main()
