"""`slayq.testing`: functions in process, on a virtual clock, with stubs and events, through the real protocol."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from slayq import Event, NoRetry, SlayQ, Step, StepFailed, SyncStep
from slayq.testing import Engine, NotDeterministic, SyncEngine

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Order(BaseModel):
    order_id: int


class Invoice(BaseModel):
    number: str


placed = Event("shop/placed", Order)
paid = Event("shop/paid", Order)
cancelled = Event("shop/cancelled", Order)
calls: list[str] = []


def charge(order_id: int) -> str:
    calls.append(f"charge {order_id}")
    return f"receipt-{order_id}"


def make() -> SlayQ:
    sq = SlayQ(url="https://app.test/slayq", secret="secret")
    calls.clear()

    @sq.function(event="shop/render", schema=Order, retries=1)
    def render(order: Order, step: SyncStep) -> Invoice:
        step.sleep("think", "1m")
        return Invoice(number=step.run("number", lambda: f"INV-{order.order_id}"))

    @sq.function(event=placed, waits_on=[(paid, "order_id")], cancel_on=[(cancelled, "order_id")], invokes=[render])
    async def fulfil(order: Order, step: Step) -> Invoice | None:
        receipt = await step.options(retries=2).run("charge", charge, order.order_id)
        await step.sleep("hush", "2 days")
        payment, invoice = await asyncio.gather(
            step.wait_for_event("payment", paid, timeout="48h"), step.invoke("invoice", render, order)
        )
        await step.send_event("done", "shop/fulfilled", {"receipt": receipt, "paid": payment is not None})
        return invoice if payment else None

    return sq


@pytest.fixture(params=[False, True], ids=["plain", "replayed"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(make(), now=NOW, replay_every_step=request.param)


async def test_a_run_from_start_to_end(engine: Engine) -> None:
    """Time passes with `advance`, events come with `send`, and each step runs once, replayed or not."""
    run = await engine.start(placed(Order(order_id=1)))
    assert "it waits for hush (sleep)" == run.describe()
    await engine.advance("2 days")
    assert {"payment", "invoice"} == {step.name for step in run.steps if step.state == "pending"}
    await engine.send(paid(Order(order_id=2)))
    assert "pending" == run.step("payment").state
    await engine.send(paid(Order(order_id=1)))
    await engine.finish(run)
    assert Invoice(number="INV-1") == run.result
    assert ["charge 1"] == calls
    assert NOW + timedelta(days=2, minutes=1) == engine.now
    assert [("shop/fulfilled", {"receipt": "receipt-1", "paid": True})] == [(e.event, e.data) for e in engine.sent]


async def test_a_wait_that_times_out(engine: Engine) -> None:
    """Without the event, the wait gives None when its time is up."""
    run = await engine.finish(await engine.start(placed(Order(order_id=1))))
    assert run.result is None
    assert "timed_out" == run.step("payment").state
    assert NOW + timedelta(days=4) == engine.now


async def test_an_event_that_came_before_the_wait(engine: Engine) -> None:
    """A wait looks back to the start of its run."""
    run = await engine.start(placed(Order(order_id=1)))
    await engine.send(paid(Order(order_id=1)))
    await engine.finish(run)
    assert "done" == run.step("payment").state


async def test_stubs_in_turn(engine: Engine) -> None:
    """The first call fails, the second gives a value; a step's own retry takes its time."""
    engine.stub("charge", ConnectionError("down"), "stubbed")
    engine.stub("invoice", Invoice(number="stub"))
    run = await engine.start(placed(Order(order_id=1)))
    assert ("pending", 1, "ConnectionError") == (
        run.step("charge").state,
        run.step("charge").attempts,
        run.step("charge").error and run.step("charge").error.type,  # type: ignore[union-attr]
    )
    await engine.advance("1s")
    assert ("stubbed", 1) == (run.step("charge").output, run.step("charge").attempts)
    await engine.send(paid(Order(order_id=1)))
    assert Invoice(number="stub") == (await engine.finish(run)).result
    assert [] == calls


async def test_stubbed_failures(engine: Engine) -> None:
    """A stub that always fails ends the run; so does an invocation that does."""
    engine.stub("charge", NoRetry("declined"))
    run = await engine.start(placed(Order(order_id=1)))
    assert "failed" == run.status
    assert run.error is not None
    assert "step 'charge' failed: NoRetry: declined" == run.error.message
    with pytest.raises(AssertionError, match="declined"):
        _ = run.result


async def test_an_event_cancels(engine: Engine) -> None:
    """An event of `cancel_on` ends the runs that it matches, and `cancel` any."""
    first, second = [await engine.start(placed(Order(order_id=number))) for number in (1, 2)]
    await engine.send(cancelled(Order(order_id=1)))
    assert ["cancelled", "running"] == [first.status, second.status]
    assert await engine.cancel(second)
    assert not await engine.cancel(second)


async def test_two_waits_take_two_events() -> None:
    """One that a wait has taken counts for no later wait, as on the server; whenever they come."""
    sq = make()

    @sq.function(event="test/twice", waits_on=[("test/vote", "id")])
    async def twice(data: dict[str, Any], step: Step) -> list[Any]:
        votes = [await step.wait_for_event(name, "test/vote", timeout="1h") for name in ("first", "second", "third")]
        return [vote and vote["by"] for vote in votes]

    engine = Engine(sq)
    run = await engine.start("test/twice", {"id": 1})
    await engine.send("test/vote", {"id": 1, "by": "Ann"})
    assert ("done", "pending") == (run.step("first").state, run.step("second").state)
    await engine.send("test/vote", {"id": 1, "by": "Bob"})
    assert ["Ann", "Bob", None] == (await engine.finish(run)).result


async def test_a_stub_that_is_a_class_of_error(engine: Engine) -> None:
    """It is raised, as an instance is."""
    engine.stub("charge", TimeoutError, "stubbed")
    run = await engine.start(placed(Order(order_id=1)))
    await engine.advance("1s")
    assert ("stubbed", 1) == (run.step("charge").output, run.step("charge").attempts)


def test_a_clock_without_a_time_zone() -> None:
    """It is refused where it is given."""
    with pytest.raises(ValueError, match="has no time zone"):
        Engine([], now=datetime(2030, 1, 1))  # noqa: DTZ001


async def test_a_run_that_only_a_test_can_end(engine: Engine) -> None:
    """`finish` says what a run waits for, rather than to wait for ever."""
    sq = make()

    @sq.function(event="test/waits", waits_on=[("test/never", "id")])
    async def waits(data: dict[str, Any], step: Step) -> None:
        await step.wait_for_event("never", "test/never")

    waiting = Engine(sq)
    run = await waiting.start(waits, {"id": 1})
    with pytest.raises(AssertionError, match=r"never \(wait\)"):
        await waiting.finish(run)


async def test_a_function_that_is_not_deterministic_is_caught() -> None:
    """Replaying after each step finds a function that goes by chance."""
    sq = make()
    source = random.Random(1)

    @sq.function(event="test/chance")
    async def chance(step: Step) -> None:
        await step.run(f"step {source.random()}", int)
        await step.run("last", int)

    with pytest.raises(NotDeterministic, match="chance"):
        await Engine(sq, replay_every_step=True).start(chance)


async def test_attempts_of_a_function(engine: Engine) -> None:
    """A failing function is tried again with a growing delay, then dead; recorded steps stay."""
    sq = make()

    @sq.function(event="test/fails", retries=2)
    async def fails(step: Step) -> None:
        await step.run("once", charge, 9)
        raise RuntimeError(f"attempt {step.attempt}")

    failing = Engine(sq, now=NOW)
    run = await failing.finish(await failing.start(fails))
    assert ("failed", "attempt 3", NOW + timedelta(seconds=3)) == (
        run.status,
        run.error and run.error.message,
        failing.now,
    )
    assert ["charge 9"] == calls


async def test_a_failed_callee_fails_the_step_that_invoked_it() -> None:
    """The invoker may catch it."""
    sq = make()

    @sq.function(event="test/callee", retries=0)
    async def callee(step: Step) -> None:
        raise RuntimeError("no")

    @sq.function(event="test/caller")
    async def caller(step: Step) -> str:
        try:
            await step.invoke("call", callee)
        except StepFailed as failed:
            return f"{failed.error_type}: {failed.error_message}"
        return "passed"

    engine = Engine(sq)
    assert "InvocationFailed: RuntimeError: no" == (await engine.start(caller)).result


async def test_one_run_for_one_id(engine: Engine) -> None:
    """Sending twice under one id makes one run."""
    event = placed(Order(order_id=1), id="once")
    assert await engine.start(event) is await engine.send(event)
    assert 1 == len(engine.runs)


def test_tests_that_are_not_async(slayq_sync_engine: type[SyncEngine]) -> None:
    """The same engine, for tests that are plain functions; the fixture comes with the package."""
    engine = slayq_sync_engine(make(), now=NOW)
    run = engine.start("shop/render", {"order_id": 3})
    engine.advance("1m")
    assert Invoice(number="INV-3") == run.result
    assert [run] == engine.runs


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    """Every run of pytest loads it, wherever the package is installed."""
    look = "import sys, slayq.pytest_plugin; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert "False" == done.stdout.strip()


async def test_the_fixture(slayq_engine: Callable[[SlayQ], Engine]) -> None:
    """The fixture makes engines."""
    assert isinstance(slayq_engine(make()), Engine)
