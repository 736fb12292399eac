"""A tour of Slay Q: every feature once, with what is promised of it, checked while you watch.

It is an app like yours: functions, a framework that receives for them, and the way to the server from the environment.
`make tour` starts Postgres and the server for it, and walks through it under each driver and each framework. By hand,
beside `slayq-server dev --allow http://127.0.0.1:8100`:

    . .slayq/env && python -m examples.slayq_tour --adapter fastapi

The exit code is 0 if all promises were kept. Promises are checked all at once, on one event loop.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import asyncpg
from pydantic import BaseModel

from examples.touring import ADAPTERS, WSGI, Broken, Diary, Tour, demand, expect, promise, served, walk
from slayq import (
    Event,
    InvalidEvent,
    NoRetry,
    RetryAfter,
    SlayQ,
    Step,
    StepFailed,
    StepTimedOut,
    SyncStep,
    UnknownEvent,
)
from slayq_server.db.admin import Admin

URL = "http://127.0.0.1:8100/slayq"

# A minute takes 0.6 s here: `time_multiplier` shortens sleeps, time-outs and the delays of retries in development.
sq = SlayQ(app="tour", url=os.environ.get("TOUR_URL", URL), time_multiplier=0.01)
diary = Diary()


class Order(BaseModel):
    """The data of most events here."""

    order_id: str
    units: int = 1


# Functions: event, schema, queue, retries, priority


class Reservation(BaseModel):
    """What a step returns."""

    units: int
    until: datetime


reservation = Event("tour/reserve", Order)


async def reserve(units: int) -> Reservation:
    """A step's body."""
    return Reservation(units=units, until=datetime.now(UTC) + timedelta(hours=48))


@sq.function(event=reservation, queue="general", retries=3, priority=5)
async def hold_goods(order: Order, step: Step) -> int:
    """A function."""
    held = await step.run("reserve", reserve, order.units)
    return held.units


@promise("a function", "an event that is sent makes one run; the function gets its data as the schema says")
async def _(tour: Tour) -> str:
    run = await sq.send_event(reservation(Order(order_id="f-1", units=3)))
    expect(await tour.result(run), 3, "what it returned")
    (known,) = [each for each in await tour.admin.runs.functions() if each.event == reservation.name]
    expect((known.queue, known.max_attempts, known.priority), ("general", 4, 5), "queue, attempts and priority")
    return f"run {run} returned 3; the server knows {known.name}: queue general, 4 attempts, priority 5"


@promise("schema", "data that does not fit is refused where it is sent; sent by name, it ends the run and runs nothing")
async def _(tour: Tour) -> str:
    try:
        reservation(Reservation(units=1, until=datetime.now(UTC)))  # type: ignore[arg-type]
    except InvalidEvent as error:
        refusal = str(error)
    else:
        raise Broken("what does not fit was taken")
    run = await sq.send_event("tour/reserve", {"units": "many"})
    letter = await tour.letter(run, "no-retry")
    expect(letter.attempts, 1, "attempts")
    return f"at the sender: {refusal}; sent by name: a dead letter after one attempt"


@sq.function(event="tour/urgent", queue="one-at-a-time", priority=0)
async def urgent(step: Step) -> None:
    """Goes first."""
    diary.note("priority", "urgent")


@sq.function(event="tour/whenever", queue="one-at-a-time", priority=10)
async def whenever(step: Step) -> None:
    """Goes last."""
    diary.note("priority", "whenever")


@promise("queue and priority", "of the runs of a queue that are due, the one with the lowest number goes first")
async def _(tour: Tour) -> str:
    due = datetime.now(UTC) + timedelta(seconds=1)
    runs = await sq.send_events(
        [
            {"event": "tour/whenever", "run_at": due},
            {"event": "tour/urgent", "run_at": due},
            {"event": "tour/whenever", "run_at": due},
            {"event": "tour/urgent", "run_at": due},
        ]
    )
    for run in runs:
        await tour.result(run)
    expect(diary.read("priority"), ["urgent", "urgent", "whenever", "whenever"], "the order")
    return "four due at once, in a queue of one slot: urgent, urgent, whenever, whenever"


# Steps


@sq.function(event="tour/steps", schema=Order)
async def fulfil(order: Order, step: Step) -> list[str]:
    """Fails once, after its second step."""
    held = await step.run("reserve", reserve_noted, order.units)
    receipt = await step.run("charge", charge_noted, order.order_id, cents=held.units * 100)
    if step.attempt == 1:
        diary.note("steps", "fails")
        raise ConnectionError("fails after step 2")
    parcel = await step.run("pack", pack_noted)
    return [type(held).__name__, receipt, parcel]


async def reserve_noted(units: int) -> Reservation:
    """Step 1."""
    diary.note("steps", "reserve")
    return await reserve(units)


async def charge_noted(order_id: str, *, cents: int) -> str:
    """Step 2."""
    diary.note("steps", "charge")
    return f"receipt of {cents} for {order_id}"


def pack_noted() -> str:
    """Step 3: a plain function, which runs in a thread."""
    diary.note("steps", "pack")
    return "parcel"


@promise(
    "step.run", "a step that is done is not run again when the function fails after it; what it returned comes back"
)
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/steps", {"order_id": "s-1", "units": 2})
    expect(await tour.result(run), ["Reservation", "receipt of 200 for s-1", "parcel"], "what it returned")
    expect(diary.read("steps"), ["reserve", "charge", "fails", "pack"], "what ran")
    return "reserve, charge, fails, pack: steps 1 and 2 ran once, and came back as what their annotations say"


@sq.function(event="tour/same-name")
async def same_name(data: dict[str, str], step: Step) -> None:
    """Uses a step's name twice."""
    await step.run("one", print, end="")
    await step.run("one", print, end="")


@promise("step names", "a name that is used twice in a run is an error that says where both are")
async def _(tour: Tour) -> str:
    # Not worth waiting for 25 retries: the first attempt's error is there to be read.
    run = await sq.send_event("tour/same-name")

    async def error() -> str | None:
        found = await tour.show(run)
        return found[0].last_error if found else None

    words = str(await tour.until(error, "its error"))
    demand("RepeatedStep" in words, f"the error is {words}")
    demand(run is not None and await sq.cancel(run), "it could not be cancelled")
    return words.splitlines()[0].replace(f"{os.getcwd()}{os.sep}", "")


# sleep and sleep_until


@sq.function(event="tour/sleep")
async def rest(step: Step) -> float:
    """Sleeps."""
    diary.note("sleep", "called")
    before = await step.run("before", time.monotonic)
    await step.sleep("a rest", "1 minute")
    return await step.run("after", time.monotonic) - before


@promise("step.sleep", "the run goes on after that time; meanwhile it is a row in Postgres, and nothing of it runs")
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/sleep")
    slept = await tour.result(run)
    demand(slept >= 0.6, f"it slept {slept} s")
    expect(diary.read("sleep"), ["called"] * 2, "calls of the function")
    return f"'1 minute' took {slept:.2f} s; the function was called twice: up to the sleep, and after it"


@sq.function(event="tour/sleep-until")
async def until_time(step: Step) -> float:
    """Sleeps until a time."""
    when = await step.run("choose", in_a_minute)
    await step.sleep_until("that time", when)
    return (datetime.now(UTC) - (when - timedelta(minutes=0.99))).total_seconds()


async def in_a_minute() -> datetime:
    """What lies between two replays belongs into a step, and so does the clock."""
    return datetime.now(UTC) + timedelta(minutes=1)


@promise("step.sleep_until", "the run goes on at that time, which must have a time zone")
async def _(tour: Tour) -> str:
    late = await tour.result(await sq.send_event("tour/sleep-until"))
    demand(late >= -0.01, f"it went on {-late} s early")
    return f"went on {max(late, 0.0):.2f} s after it"


# wait_for_event


class Payment(BaseModel):
    """What is waited for."""

    order_id: str
    cents: int


paid = Event("tour/order.paid", Payment)
awaited = Event("tour/await-payment", Order)


@sq.function(event=awaited, waits_on=[(paid, "order_id")])
async def await_payment(order: Order, step: Step) -> int | None:
    """Waits for an event."""
    payment = await step.wait_for_event("payment", paid, timeout="48h")
    return None if payment is None else payment.cents


@promise("step.wait_for_event", "an event whose order_id is the run's ends the wait, and gives its data; others do not")
async def _(tour: Tour) -> str:
    run = await sq.send_event(awaited(Order(order_id="w-1")))
    await tour.until_step(run, "payment")
    await sq.send_event(paid(Payment(order_id="w-other", cents=1)))
    await sq.send_event(paid(Payment(order_id="w-1", cents=4200)))
    expect(await tour.result(run), 4200, "the payment")
    return "the payment of another order was let pass; its own gave 4200"


@promise("an early event", "a wait looks back to the start of its run: an event that came first still counts")
async def _(tour: Tour) -> str:
    run, _nobodys = await sq.send_events([awaited(Order(order_id="w-2")), paid(Payment(order_id="w-2", cents=7))])
    expect(await tour.result(run), 7, "the payment")
    return "sent together with the order, before the run had begun: 7"


@sq.function(event="tour/await-in-vain", schema=Order, waits_on=[(paid, "order_id")])
async def await_in_vain(order: Order, step: Step) -> bool:
    """Waits for what never comes."""
    return await step.wait_for_event("payment", paid, timeout="30s") is None


@promise("a wait's time-out", "if no such event comes in time, the result is None, and the function goes on")
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/await-in-vain", Order(order_id="w-3"))
    expect(await tour.result(run), True, "whether the result was None")
    return "None after '30s'"


# invoke


class Invoice(BaseModel):
    """What an invoked function returns."""

    number: int


@sq.function(event="tour/invoice", schema=Order)
async def render_invoice(order: Order, step: Step) -> Invoice:
    """Is invoked."""
    return Invoice(number=await step.run("number", len, order.order_id))


@sq.function(event="tour/invoice-slowly", schema=Order)
async def render_slowly(order: Order, step: Step) -> Invoice:
    """Is invoked, and takes too long."""
    await step.sleep("a long rest", "1 week")
    return Invoice(number=0)


@sq.function(event="tour/invoice-never", schema=Order)
async def render_never(order: Order, step: Step) -> Invoice:
    """Is invoked, and fails."""
    raise NoRetry("there is no paper")


@sq.function(event="tour/bill", schema=Order, invokes=[render_invoice])
async def bill(order: Order, step: Step) -> int:
    """Invokes, and waits for the result."""
    invoice = await step.invoke("invoice", render_invoice, order, timeout="1 hour")
    return invoice.number


@promise("step.invoke", "starts another function, waits for its end, and gives what it returned, typed")
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/bill", Order(order_id="12345"))
    expect(await tour.result(run), 5, "the invoice's number")
    return "Invoice(number=5)"


@sq.function(event="tour/bill-in-vain", schema=Order, invokes=[render_slowly, render_never])
async def bill_in_vain(order: Order, step: Step) -> list[str]:
    """Invokes what comes too late, and what fails."""
    outcomes = []
    try:
        await step.invoke("slow", render_slowly, order, timeout="30s")
    except StepTimedOut as late:
        outcomes.append(f"{late.step}: {late.error_type}")
    try:
        await step.invoke("never", render_never, order)
    except StepFailed as failed:
        outcomes.append(f"{failed.step}: {failed.error_type}")
    return outcomes


@promise("invoke's time-out", "raises StepTimedOut when it is up, and the callee goes on; one that fails: StepFailed")
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/bill-in-vain", Order(order_id="i-2"))
    outcomes = await tour.result(run)
    expect(outcomes, ["slow: TimeoutError", "never: InvocationFailed"], "the outcomes")
    (slow,) = await tour.admin.runs.list((), (), "tour/invoice-slowly", below=None, limit=2)
    expect(slow.suspended, True, "whether the slow one sleeps on")
    demand(await sq.cancel(slow.run), "it could not be cancelled")
    return f"{', '.join(outcomes)}; the slow callee slept on"


# send_event and send_events


counted = Event("tour/counted")


@sq.function(event=counted)
async def count(data: dict[str, str], step: Step) -> None:
    """Is sent to."""
    diary.note(data["page"], data["by"])


@sq.function(event="tour/close")
async def close(step: Step) -> None:
    """Sends."""
    await step.send_event("one", counted({"page": "sends", "by": "send_event"}))
    others = [{"page": "sends", "by": "an Event"}, {"page": "sends", "by": "a dict"}]
    await step.send_events("two", [counted(others[0]), {"event": "tour/counted", "data": others[1]}])
    await step.sleep("be called again", "10s")


@promise("step.send_event(s)", "sent with the record of the step: once, however often the function is called")
async def _(tour: Tour) -> str:
    await tour.result(await sq.send_event("tour/close"))
    await tour.until(lambda: len(diary.read("sends")) >= 3, "the sent events' runs")
    expect(sorted(diary.read("sends")), ["a dict", "an Event", "send_event"], "the runs")
    return "three events, three runs; the function was called twice"


# cancel_on, and cancelling a run


revoked = Event("tour/order.revoked", Order)


@sq.function(event="tour/ship", schema=Order, cancel_on=[(revoked, "order_id")])
async def ship(order: Order, step: Step) -> None:
    """Is cancelled by an event."""
    await step.sleep("hold back", "1 hour")
    diary.note("cancel_on", "shipped")


@promise("cancel_on", "an event whose order_id is the run's cancels it: nothing of it comes back")
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/ship", Order(order_id="c-1"))
    other = await sq.send_event("tour/ship", Order(order_id="c-2"))
    await tour.until_step(run, "hold back")
    await sq.send_event(revoked(Order(order_id="c-1")))
    await tour.until_gone(run)
    demand(await tour.show(other) is not None, "the run of another order is gone, too")
    demand(other is not None and await sq.cancel(other), "the other could not be cancelled by its id")
    await tour.until_gone(other)
    expect(diary.read("cancel_on"), [], "what was shipped")
    return "cancelled while it slept; the run of another order slept on, until sq.cancel(its id)"


@sq.function(event="tour/long-step")
async def long_step(data: dict[str, float], step: Step) -> None:
    """Is cancelled in the middle of a step."""
    await step.run("long", work_long, data["seconds"])
    diary.note("long step", "went on")


async def work_long(seconds: float) -> None:
    """Takes long."""
    diary.note("long step", "began")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        diary.note("long step", "was cancelled")
        raise


@promise("cancelling a step", "in the middle of a step the connection is cut, and the app's task is cancelled")
async def _(tour: Tour) -> str:
    # Under WSGI, an app learns of it only when it writes: the step runs to its end there, and what it did is dropped.
    run = await sq.send_event("tour/long-step", {"seconds": 60.0 if tour.notices_closing else 6.0})
    await tour.until(lambda: diary.read("long step"), "the step's begin")
    demand(run is not None and await sq.cancel(run), "it could not be cancelled")
    await tour.until_gone(run)
    if not tour.notices_closing:
        demand("was cancelled" not in diary.read("long step"), "WSGI told of it: say so here")
        return "the run was gone at once; under WSGI its step is left to itself"
    await tour.until(lambda: len(diary.read("long step")) > 1, "the cancellation of the task")
    expect(diary.read("long step"), ["began", "was cancelled"], "what the step did")
    return "a step of 60 s got asyncio.CancelledError, and the run was gone"


# cron


@sq.function(event="tour/yearly", cron="TZ=Asia/Singapore 0 3 1 1 *", queue="general")
def yearly(step: SyncStep) -> None:
    """Runs by the clock."""
    step.run("tidy up", diary.note, "cron", "tidied up")


@promise("cron", "the server starts it at each tick, once, in the time zone that TZ= names")
async def _(tour: Tour) -> str:
    schedule = f"function:{yearly.event.name}"

    async def planned() -> datetime | None:
        (row,) = await tour.admin.schedules(schedule)
        return row.next_at

    tick: datetime = await tour.until(planned, "the plan of the next tick")
    utc = tick.astimezone(UTC)
    expect((utc.month, utc.day, utc.hour, utc.minute), (12, 31, 19, 0), "the next tick, in UTC")
    await tour.admin.make_tick_due(schedule)  # so that nobody has to wait for the new year
    await tour.until(lambda: diary.read("cron"), "the tick")
    demand(await tour.until(planned, "the tick after it") >= tick, "the next tick lies before this one")
    await tour.command("cron", "trigger", schedule)  # and one more, as an operator makes one
    await tour.until(lambda: len(diary.read("cron")) > 1, "the tick that was made by hand")
    expect(diary.read("cron"), ["tidied up"] * 2, "the runs")
    return f"planned for {utc:%d %b %H:%M} UTC; moved to now it fired once; `cron trigger` made one more"


# Errors


@sq.function(event="tour/no-retry", retries=5)
async def no_retry(step: Step) -> None:
    """Says that trying again is of no use."""
    diary.note("no-retry", f"attempt {step.attempt}")
    raise NoRetry("no such customer")


@promise("NoRetry (SlayQNoRetryError)", "ends the run at once: a dead letter, whatever retries are left")
async def _(tour: Tour) -> str:
    letter = await tour.letter(await sq.send_event("tour/no-retry"), "no-retry")
    expect(diary.read("no-retry"), ["attempt 1"], "the attempts")
    return f"a dead letter after one attempt of six: {(letter.last_error or '').splitlines()[0]}"


@sq.function(event="tour/retry-after", retries=5)
async def retry_after(step: Step) -> float:
    """Says when to try again."""
    first = await step.run("first", time.monotonic)
    if step.attempt == 1:
        raise RetryAfter("1 minute", "the bank asks to come back later")
    return time.monotonic() - first


@promise("RetryAfter", "the next attempt is made after that time, in place of the queue's back-off")
async def _(tour: Tour) -> str:
    waited = await tour.result(await sq.send_event("tour/retry-after"))
    demand(waited >= 0.6, f"it came {waited} s later")
    return f"'1 minute' took {waited:.2f} s"


@sq.function(event="tour/options", schema=Order)
async def with_options(order: Order, step: Step) -> list[str]:
    """Has steps with options of their own."""
    outcomes = [await step.options(retries=3).run("retries", flaky)]
    for name, careful, body in (
        ("timeout", step.options(retries=0, timeout="100ms"), hangs),
        ("give_up_on", step.options(retries=9, give_up_on=ValueError), refused),
    ):
        try:
            await careful.run(name, body)
        except StepFailed as failed:
            outcomes.append(f"{failed.step}: {failed.error_type}")
    return [*outcomes, f"attempt {step.attempt}"]


async def flaky() -> str:
    """Fails twice."""
    diary.note("options", "flaky")
    if len(diary.read("options")) < 3:
        raise ConnectionError("the bank is away")
    return "charged"


async def hangs() -> None:
    """Never ends by itself."""
    await asyncio.Event().wait()


async def refused() -> None:
    """Fails in a way for which a retry is no use."""
    diary.note("give up", "refused")
    raise ValueError("no such card")


@promise(
    "step.options", "a step with retries of its own uses no attempt; its failure can be caught; timeout, give_up_on"
)
async def _(tour: Tour) -> str:
    outcomes = await tour.result(await sq.send_event("tour/options", Order(order_id="o-1")))
    expect(outcomes, ["charged", "timeout: TimeoutError", "give_up_on: ValueError", "attempt 1"], "the outcomes")
    expect((len(diary.read("options")), len(diary.read("give up"))), (3, 1), "how often flaky and refused ran")
    return f"flaky ran 3 times; {', '.join(outcomes)}"


# Several steps at once


@sq.function(event="tour/parallel", schema=Order, invokes=[render_invoice])
async def parallel(order: Order, step: Step) -> list[str]:
    """Takes steps side by side."""
    invoice, left, right, _ = await asyncio.gather(
        step.invoke("invoice", render_invoice, order),
        step.run("left", meet, "left"),
        step.run("right", meet, "right"),
        step.sleep("a rest", "10s"),
    )
    async with asyncio.TaskGroup() as group:
        for address in ("ann", "bob"):
            group.create_task(step.run(f"mail {address}", mail, address))
    return [left, right, f"invoice {invoice.number}"]


_both = asyncio.Barrier(2)


async def meet(name: str) -> str:
    """Ends when both of them run."""
    async with asyncio.timeout(20):
        await _both.wait()
    return name


async def mail(address: str) -> None:
    """A step's body."""
    diary.note("mails", address)


@promise("asyncio.gather, TaskGroup", "steps run side by side, sleeps and invocations pass at the same time, each once")
async def _(tour: Tour) -> str:
    run = await sq.send_event("tour/parallel", Order(order_id="p-17"))
    expect(await tour.result(run), ["left", "right", "invoice 4"], "what they returned")
    expect(sorted(diary.read("mails")), ["ann", "bob"], "the mails")
    return "left and right met while they ran; beside them an invocation and a sleep; then two mails, each once"


# Plain functions


@sq.function(event="tour/plain", schema=Order, waits_on=[(paid, "order_id")], invokes=[render_invoice])
def plain(order: Order, step: SyncStep) -> list[int]:
    """As an async one, but it runs in a thread, and nothing is awaited."""
    thread = step.run("thread", threading.get_ident)
    step.sleep("a rest", "10s")
    payment = step.wait_for_event("payment", paid)
    invoice = step.invoke("invoice", render_invoice, order)
    sq.send_event_sync("tour/counted", {"page": "plain", "by": "a thread"}, id=f"{step.run_id} sync")
    return [int(thread != threading.main_thread().ident), payment.cents, invoice.number]


@promise("a plain def", "runs in a thread, with the same steps, without await")
async def _(tour: Tour) -> str:
    run, _nobodys = await sq.send_events([
        {"event": "tour/plain", "data": Order(order_id="d-1")},
        paid(Payment(order_id="d-1", cents=9)),
    ])  # fmt: skip
    expect(await tour.result(run), [1, 9, 3], "in another thread, the payment, the invoice")
    await tour.until(lambda: diary.read("plain"), "the run of what it sent")
    return "in a thread of its own it slept, waited, invoked and sent"


# Failing, back-off, dead letters


_bank_is_back = False


@sq.function(event="tour/fails", schema=Order, retries=2)
async def fails(order: Order, step: Step) -> str:
    """Fails until somebody does something about it."""
    await step.run("reserve", diary.note, "dead", "reserve")
    return await step.run("charge", charge_in_vain, step.attempt)


async def charge_in_vain(attempt: int) -> str:
    """A step that the bank lets down."""
    diary.note("dead", f"charge, attempt {attempt}")
    if not _bank_is_back:
        raise ConnectionError("the bank is away")
    return "charged"


@promise("retries, dead letters", "tried again with back-off; then a dead letter, kept until it is put back (redrive)")
async def _(tour: Tour) -> str:
    global _bank_is_back
    run = await sq.send_event("tour/fails", Order(order_id="x-1"))
    letter = await tour.letter(run, "attempts-exhausted")
    wanted = ["reserve", "charge, attempt 1", "charge, attempt 2", "charge, attempt 3"]
    expect(diary.read("dead"), wanted, "what ran")
    _bank_is_back = True
    put_back = await tour.command("dead", "redrive", str(letter.id))
    expect(put_back["matched"], 1, "dead letters put back")

    async def done() -> bool:
        found = await tour.show(run)
        return found is not None and found[0].state == "done"

    await tour.until(done, "the end of the run that was put back")
    expect(diary.read("dead"), [*wanted, "charge, attempt 1"], "what ran in all")
    return "reserve, charge, charge, charge, a dead letter; put back with `dead redrive`: charge, and done"


# Sending


@promise("sending", "with an id it is one run however often it is sent; run_at is kept; nobody's event is an error")
async def _(tour: Tour) -> str:
    event = reservation(Order(order_id="n-1"), id="order n-1")
    first, again = await sq.send_event(event), await sq.send_event(event)
    expect(again, first, "the run of the second sending")
    later = await sq.send_event(reservation(Order(order_id="n-2"), run_at=datetime.now(UTC) + timedelta(days=1)))
    found = await tour.show(later)
    demand(found is not None and found[0].state == "scheduled", "the run for tomorrow is not scheduled")
    demand(later is not None and await sq.cancel(later), "it could not be cancelled")
    try:
        await sq.send_event("tour/nobodys", {})
    except UnknownEvent as error:
        expect(error.code, "SQ010", "the error's code")
    else:
        raise Broken("an event that is nobody's was sent")
    await tour.result(first)
    return "the same id gave the same run; one for tomorrow is scheduled; UnknownEvent for nobody's"


@promise("your transaction", "an event sent in it is sent if it commits, and was never sent if it does not")
async def _(tour: Tour) -> str:
    connection = await asyncpg.connect(tour.database_url)
    try:
        await connection.execute("create table if not exists tour_order (order_id text primary key)")
        runs = []
        for order_id in ("t-kept", "t-dropped"):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("insert into tour_order values ($1) on conflict do nothing", order_id)
            runs.append(await sq.send_event(reservation(Order(order_id=order_id)), conn=connection))
            await (transaction.commit() if order_id == "t-kept" else transaction.rollback())
    finally:
        await connection.close()
    kept, dropped = runs
    expect(await tour.result(kept), 1, "the run that was committed")
    demand(await tour.show(dropped) is None, "what was rolled back left a run")
    return "an order row and its event: both there after the commit, neither after the rollback"


# The program


async def main(adapter: str, database_url: str) -> bool:
    """Serves the app under a framework, and checks each promise. Whether all were kept."""
    async with served(adapter, sq), Admin.connect(database_url) as admin:
        tour = Tour(sq, admin, database_url, notices_closing=adapter not in WSGI)
        try:
            return await walk(tour, lambda line: print(line, flush=True))
        finally:
            await sq.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", choices=ADAPTERS, default="fastapi", help="which framework receives")
    given = parser.parse_args()
    database = os.environ.get("TOUR_DATABASE_URL") or os.environ.get("SLAY_Q_DATABASE_URL")
    if not database:
        sys.exit("set TOUR_DATABASE_URL, or SLAY_Q_DATABASE_URL: the tour looks into the database to check promises")
    sys.exit(0 if asyncio.run(main(given.adapter, database)) else 1)
