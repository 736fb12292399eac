"""An app of durable functions, to be killed at any moment: a process of its own, always at the same port.

    python -m tests.chaos.app PORT LOG URL

Its log has each request with the steps that it says are done, and each body that begins, under the lease it runs under.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import BaseModel

from slayq import Event, SlayQ, Step
from slayq.contrib.aiohttp import setup
from tests.chaos.records import Log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slayq.receiver import Reply

PORT, URL = int(sys.argv[1]), sys.argv[3]
log = Log(Path(sys.argv[2]))
token: ContextVar[str] = ContextVar("token", default="")
PAID_WITHIN = "45s"


class Order(BaseModel):
    """What the functions are about. `id` is the producer's."""

    id: str


class Paid(BaseModel):
    """An order was paid."""

    id: str
    amount: int


class Watched(SlayQ):
    """Logs what the server asks for."""

    async def receive(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """As the real one."""
        reply = await super().receive(headers, body)
        asked = json.loads(body)
        token.set(asked["lease"]["token"])
        log(
            "request",
            run=asked["run"]["id"],
            token=asked["lease"]["token"],
            event=asked["run"]["event"],
            status=reply.status,
            steps={step["name"]: step["state"] for step in asked["steps"] if step["state"] != "pending"},
        )
        return reply


ordered = Event("chaos/order", Order)
short = Event("chaos/short", Order)
child = Event("chaos/child", Order)
received = Event("chaos/received", Order)
paid = Event("chaos/paid", Paid)
sq = Watched(app="chaos", url=URL, secret=os.environ["CHAOS_SECRET"])


def body(name: str, step: Step, **more: Any) -> None:
    """A body begins, or a function has got somewhere."""
    log("body", run=str(step.run_id), token=token.get(), name=name, **more)


async def work(name: str, step: Step) -> int:
    """Some work; now and then it fails."""
    body(name, step)
    await asyncio.sleep(random.choice((0, 0, 0.01, 0.2)))
    if random.random() < 0.03:
        raise RuntimeError("planned")
    return len(name)


@sq.function(event=child, queue="runs", retries=25)
async def run_child(order: Order, step: Step) -> str:
    """What an order invokes."""
    first = await step.run("first", work, "first", step)
    second = await step.run("second", work, "second", step)
    log("finished", run=str(step.run_id), event="chaos/child", id=order.id, result=first + second)
    return f"{order.id}:{first + second}"


@sq.function(event=received, queue="runs", retries=25)
async def run_received(order: Order, step: Step) -> None:
    """What an order's event starts."""
    await step.run("note", work, "note", step)
    log("finished", run=str(step.run_id), event="chaos/received", id=order.id, result=None)


@sq.function(event=short, queue="runs", retries=25)
async def run_short(order: Order, step: Step) -> int:
    """Three steps, two of them at once."""
    total = await step.run("one", work, "one", step)
    total += sum(await asyncio.gather(step.run("left", work, "left", step), step.run("right", work, "right", step)))
    log("finished", run=str(step.run_id), event="chaos/short", id=order.id, result=total)
    return total


@sq.function(event=ordered, queue="runs", retries=25, waits_on=[(paid, "id")], invokes=[run_child])
async def run_order(order: Order, step: Step) -> None:
    """All kinds of steps."""
    reserved = await step.run("reserve", work, "reserve", step)
    await step.send_event("tell", received(Order(id=order.id)))
    made, packed = await asyncio.gather(
        step.invoke("make", run_child, order, timeout="5m"), step.run("pack", work, "pack", step)
    )
    log("outcome", run=str(step.run_id), name="make", value=made)
    await step.sleep("rest", "300ms")
    payment = await step.wait_for_event("payment", paid, timeout=PAID_WITHIN)
    log("outcome", run=str(step.run_id), name="payment", value=payment and payment.amount)
    sent = await step.run("send", work, "send", step)
    total = reserved + packed + sent + (payment.amount if payment else 0)
    log("finished", run=str(step.run_id), event="chaos/order", id=order.id, result=total)


@sq.function(event="chaos/tick", queue="runs", cron="* * * * *", retries=25)
async def run_tick(step: Step) -> None:
    """One minute."""
    log("finished", run=str(step.run_id), event="chaos/tick", id=None, result=None)


def main() -> None:
    """Serves until it is killed."""
    app = web.Application()
    setup(app, sq)
    web.run_app(app, host="127.0.0.1", port=PORT, print=None, access_log=None)


if __name__ == "__main__":
    main()
