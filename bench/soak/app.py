"""The app of the soak's durable functions, a process of its own, which keeps the account of their steps.

    python -m bench.soak.app SIZE      prints the port it listens on; the database is in SLAY_Q_DATABASE_URL

GET /account?N: which steps of the first N orders did not run as often as they must, and which runs did not end once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

import uvloop
from aiohttp import web
from pydantic import BaseModel

from bench.rig import SECRET
from bench.soak import work
from bench.soak.tally import Tally, summary
from slayq import Event, SlayQ, Step
from slayq.contrib.aiohttp import setup

SIZE = int(sys.argv[1])
bodies = {step: Tally(SIZE) for step in work.STEPS}
ends = {run: Tally(SIZE) for run in work.RUNS}
odd: list[str] = []
listening = socket.create_server(("127.0.0.1", 0))
PORT = listening.getsockname()[1]


class Order(BaseModel):
    """What it is all about."""

    n: int


ordered = Event("soak/order", Order)
child = Event("soak/child", Order)
received = Event("soak/received", Order)
paid = Event("soak/paid", Order)
sq = SlayQ(app="soak", url=f"http://127.0.0.1:{PORT}/slayq", secret=SECRET)


async def work_on(step: str, number: int) -> int:
    """A step's body."""
    count = bodies[step].note(number)
    if step == "pack" and count == 1 and work.stumbles(number):
        raise RuntimeError("planned")
    return number


@sq.function(event=child, queue="runs", retries=5)
async def run_child(order: Order, step: Step) -> int:
    """What an order invokes."""
    result = await step.run("first", work_on, "first", order.n)
    ends["child"].note(order.n)
    return result


@sq.function(event=received, queue="runs", retries=5)
async def run_received(order: Order, step: Step) -> None:
    """What an order's event starts."""
    await step.run("note", work_on, "note", order.n)
    ends["received"].note(order.n)


@sq.function(event=ordered, queue="runs", retries=5, waits_on=[(paid, "n")], invokes=[run_child])
async def run_order(order: Order, step: Step) -> None:
    """All kinds of steps."""
    await step.run("reserve", work_on, "reserve", order.n)
    await step.send_event("tell", received(Order(n=order.n)))
    made, packed = await asyncio.gather(
        step.invoke("make", run_child, order, timeout="10m"), step.run("pack", work_on, "pack", order.n)
    )
    await step.sleep("rest", "1s")
    payment = await step.wait_for_event("payment", paid, timeout="5s" if work.unpaid(order.n) else "10m")
    if (payment is None) is not work.unpaid(order.n) or made != packed:
        odd.append(f"order {order.n}: payment {payment}, made {made}, packed {packed}")
    await step.run("send", work_on, "send", order.n)
    ends["order"].note(order.n)


async def account(request: web.Request) -> web.Response:
    """Of all that was sent."""
    sent = int(request.query_string)
    found: dict[str, Any] = {"odd": len(odd), "odd_first": odd[:20]}
    for step, tally in bodies.items():
        found[f"step {step}"] = summary(tally.wrong(sent, lambda number, step=step: work.bodies(number, step)))
    for run, tally in ends.items():
        found[f"run {run}"] = summary(tally.wrong(sent, lambda number: int(not work.recalled(number))))
    return web.json_response(found)


async def main() -> None:
    """Serves until its standard input is closed."""
    app = web.Application()
    setup(app, sq)
    app.router.add_get("/account", account)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    print(PORT, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with the process that started it
    await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
