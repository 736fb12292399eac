"""Deliberate misuses: mypy and pyright must each find a fault in each line marked `# refused`, and in no other."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from slayq import Event, SlayQ, Step, SyncStep


class Order(BaseModel):
    order_id: int


class Payment(BaseModel):
    amount: int


class Invoice(BaseModel):
    number: str


placed = Event("shop/order.placed", Order)
paid = Event("shop/paid", Payment)
wrong_schema = Event("shop/number", int)  # refused: the schema is no model
placed(Payment(amount=1))  # refused: another event's data
sq = SlayQ(url="https://app.example.com/slayq")


def reserve(order_id: int, *, hold: timedelta) -> int:
    return order_id


async def notify(email: str) -> None: ...


@sq.function(event="shop/render", schema=Order)
async def render(order: Order, step: Step) -> Invoice:
    return Invoice(number="1")


@sq.function(event=placed)  # refused: the function takes another event's data
async def wrong_data(payment: Payment, step: Step) -> None: ...


@sq.function(event="shop/number", schema=int)  # refused: the schema is no model
async def no_model(number: int, step: Step) -> None: ...


@sq.function(event="shop/plain")  # refused: a plain function takes a SyncStep
def plain(step: Step) -> None: ...


@sq.function(schema=Order)  # refused: no event
async def no_event(order: Order, step: Step) -> None: ...


@sq.function(event="shop/one")
async def one(step: Step) -> None:
    await step.run("a", reserve, "1", hold=timedelta(1))  # refused: the argument is no int
    await step.run("b", reserve, 1)  # refused: an argument is missing
    await step.run("c", reserve, 1, hold=timedelta(1), more=2)  # refused: there is no such argument
    text: str = await step.run("d", reserve, 1, hold=timedelta(1))  # refused: the result is an int
    await step.options(retries=1).run("e", notify, 7)  # refused: the argument is no text
    await step.options(retries="3").run("f", notify, text)  # refused: the option is no number
    payment = await step.wait_for_event("g", paid, timeout="1h")
    payment.amount  # refused: it may be None  # noqa: B018
    number: int = (await step.invoke("h", render, Order(order_id=1))).number  # refused: the result is a text
    await step.invoke("i", render, Payment(amount=number))  # refused: another function's data
    await step.send_event("j", paid(Order(order_id=1)))  # refused: another event's data
    await step.send_events("k", [{"evnet": "shop/paid"}])  # refused: a misspelt member
    await step.sleep("l", 5)  # refused: a number without a unit
    await step.run(notify, "m")  # refused: no name


@sq.function(event="shop/two")
def two(step: SyncStep) -> None:
    text: str = step.run("a", reserve, 1, hold=timedelta(1))  # refused: the result is an int
    step.run("b", reserve, text, hold=timedelta(1))  # refused: the argument is no int
    step.wait_for_event("c", paid, timeout="1h").amount  # refused: it may be None  # noqa: B018
