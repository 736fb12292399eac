"""The sample app's durable functions: an order that fails, rests, waits for its payment, and has an invoice made."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from slayq import Event, SlayQ, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq import Driver

    Tell = Callable[[str, str, int, int | None, str], None]
    """Gets the event, the order, the attempt, 200 or 500 at the end of one (else None), and what happened."""

REST: Final = 1.0
"""Seconds."""
CALLED: Final = "called from its start"
STEPS: Final = ("step 1 runs: reserves goods", "step 2 runs: confirms the order", "step 3 runs: asks for the payment")
INVOICED: Final = "step runs: prints the invoice"


class Order(BaseModel):
    """What is sent when an order is placed."""

    order_id: str
    fails: bool = False
    """Whether the function fails once, after its second step."""


class OrderRef(BaseModel):
    """An order that exists."""

    order_id: str


placed = Event("demo/order.placed", Order)
paid = Event("demo/order.paid", OrderRef)
cancelled = Event("demo/order.cancelled", OrderRef)
invoice_wanted = Event("demo/invoice", OrderRef)

EVENTS: Final = {
    placed.name: "a durable function: steps, a sleep, a wait for the payment, an invocation",
    paid.name: "the payment that it waits for",
    cancelled.name: "ends it, wherever it is",
    invoice_wanted.name: "a durable function that it invokes",
}
"""What there is, for people."""


def sample_functions(url: str, secret: str, driver: Driver, tell: Tell) -> SlayQ:
    """An app with the functions, which tell what they do."""
    sq = SlayQ(app="slayq-sample-app", url=url, secret=secret, driver=driver)
    failed: set[str] = set()

    @sq.function(event=invoice_wanted)
    async def invoice(order: OrderRef, step: Step) -> str:
        say = partial(tell, invoice_wanted.name, order.order_id, step.attempt, None)
        await step.run("print", say, INVOICED)
        return f"invoice of {order.order_id}"

    @sq.function(
        event=placed,
        retries=3,
        cancel_on=[(cancelled, "order_id")],
        waits_on=[(paid, "order_id")],
        invokes=[invoice],
    )
    async def fulfil(order: Order, step: Step) -> str:
        say = partial(tell, placed.name, order.order_id, step.attempt)
        say(None, CALLED)
        await step.run("reserve", say, None, STEPS[0])
        await step.run("confirm", say, None, STEPS[1])
        if order.fails and order.order_id not in failed:
            failed.add(order.order_id)
            say(500, "fails on purpose after step 2")
            raise RuntimeError("failed on purpose after step 2")
        await step.sleep("rest", f"{REST:g}s")
        await step.run("ask", say, None, STEPS[2])
        await step.wait_for_event("payment", paid)
        made = await step.invoke("invoice", invoice, OrderRef(order_id=order.order_id))
        say(200, f"ends: paid, and there is the {made}")
        return made

    return sq
