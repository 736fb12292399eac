"""What a user of the SDK may write: mypy and pyright must accept all of it. It is checked, and never run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from slayq import Event, NoRetry, RetryAfter, SlayQ, Step, StepFailed, StepTimedOut, SyncStep
from slayq.testing import Engine


class Order(BaseModel):
    order_id: int
    email: str


class OrderRef(BaseModel):
    order_id: int


class Invoice(BaseModel):
    number: str


placed = Event("shop/order.placed", Order)
paid = Event("shop/order.paid", OrderRef)
cancelled = Event("shop/order.cancelled", OrderRef)
ping = Event("shop/ping")
sq = SlayQ(url="https://app.example.com/slayq")


def reserve(order_id: int, *, hold: timedelta) -> int:
    return order_id


async def notify(email: str) -> None: ...


async def named(name: str, body: str) -> list[str]:
    return [name, body]


@sq.function(event="shop/render", schema=OrderRef)
async def render(ref: OrderRef, step: Step) -> Invoice:
    return Invoice(number=str(ref.order_id))


@sq.function(event=ping)
async def pong(data: dict[str, Any], step: Step) -> str:
    return str(data["n"])


@sq.function(
    event=placed,
    queue="orders",
    retries=5,
    priority=10,
    cancel_on=[(cancelled, "order_id"), ("shop/closed", "order_id")],
    waits_on=[(paid, "order_id")],
    invokes=[render, "elsewhere/audit"],
)
async def fulfil(order: Order, step: Step) -> Invoice | None:
    units: int = await step.run("reserve", reserve, order.order_id, hold=timedelta(hours=48))
    plain: str = await step.run("lambda", lambda: "x")
    both: list[str] = await step.run("named", named, name="a", body="b")
    await step.sleep("hush", "2 days")
    await step.sleep("hush again", timedelta(minutes=units))
    await step.sleep_until("monday", datetime(2030, 1, 7, tzinfo=UTC))
    payment = await step.wait_for_event("payment", paid, timeout="48h")
    if payment is None:
        return None
    sure: int = (await step.wait_for_event("for ever", paid)).order_id + payment.order_id
    loose = await step.wait_for_event("loose", "shop/other", timeout="1h")
    if loose is not None:
        loose.get("anything")
    invoice, _ = await asyncio.gather(
        step.invoke("invoice", render, OrderRef(order_id=sure), timeout="15m"),
        step.run("receipt", notify, order.email),
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(step.run("in a group", reserve, 1, hold=timedelta(1)))
    number: int = task.result()
    answer: str = await step.invoke("pong", pong, {"n": number})
    answer = await step.invoke("bare pong", pong)
    anything = await step.invoke("elsewhere", "elsewhere/audit", {"text": answer})
    try:
        await step.options(retries=3, timeout="30s", give_up_on=(ValueError,)).run("careful", notify, email=plain)
    except StepTimedOut:
        raise RetryAfter("1h") from None
    except StepFailed as error:
        raise NoRetry(error.error_message) from error
    await step.send_event("done", cancelled(OrderRef(order_id=order.order_id), id="once"))
    await step.send_event("by name", "shop/done", {"both": both, "anything": anything})
    await step.send_events("many", [ping({"n": 1}), {"event": "shop/done", "data": {}}])
    run: UUID = step.run_id
    return invoice if run else None


@sq.function(event="shop/nightly", cron="TZ=Asia/Singapore 0 3 * * *", queue="housekeeping")
def nightly(step: SyncStep) -> None:
    units: int = step.run("reserve", reserve, 1, hold=timedelta(hours=units_of("1")))
    step.sleep("rest", "1s")
    reference: OrderRef | None = step.wait_for_event("payment", paid, timeout="1h")
    invoice: Invoice = step.invoke("invoice", render, OrderRef(order_id=units))
    step.options(retries=1).run("print", print, invoice.number, reference)
    step.send_event("done", ping({}))


def units_of(text: str) -> int:
    return int(text)


async def send() -> None:
    run: UUID | None = await sq.send_event(placed(Order(order_id=1, email="a@example.com")))
    runs: list[UUID | None] = await sq.send_events([ping({}), {"event": "shop/ping"}])
    if run is not None:
        await sq.cancel(run)
    await sq.send_event("shop/ping", {"n": len(runs)}, run_at=datetime.now(UTC), priority=3)


async def check() -> None:
    engine = Engine(sq)
    run = await engine.start(fulfil, Order(order_id=1, email=""))
    await engine.send(paid(OrderRef(order_id=1)))
    await engine.finish(run)
