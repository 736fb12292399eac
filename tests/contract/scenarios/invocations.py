"""invoke: answered with all sorts of values, timed out, and callees that fail on their way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.contract.scenarios.waits import LONG

if TYPE_CHECKING:
    from tests.contract.world import World

ANSWERS: list[Any] = [{"deep": [1, {"a": "ü"}]}, [], {}, "", "text", 0, False, 1.5, 'it\'s {"odd"}']


async def invoke_that_is_answered(world: World) -> None:
    """The invoker goes on at once with cache[step] = the result. It adds itself, waits, then adds the callee."""
    given = {"answer": {"total": 7}, "tag": world.tag()}
    key = await world.send("invoke/caller", callee="invoke/callee", ms=LONG, given=given)
    assert {"answer": {"total": 7}} == await world.result(key)
    if world.steady:
        assert ["add_worker_job", "wait_for_invocation", "add_worker_job"] == world.calls(key)[:3]
        assert ([1, 1], [None, {"call": {"total": 7}}]) == (world.retries(key), world.caches(key))
        (callee,) = [delivery["key"] for delivery in world.delivered(data=given)]
        assert ["trigger_waiting_invoker"] == world.calls(callee)


async def invoke_that_is_answered_with_any_value(world: World) -> None:
    """Whatever JSON the callee gives, the invoker gets."""
    keys = [
        await world.send("invoke/caller", callee="invoke/callee", ms=LONG, given={"answer": answer})
        for answer in ANSWERS
    ]
    expected = [{"answer": answer} for answer in ANSWERS]
    assert expected == await asyncio.gather(*(world.result(key) for key in keys))


async def invoke_of_a_callee_that_returns_nothing(world: World) -> None:
    """The invoker gets null and goes on."""
    key = await world.send("invoke/caller", callee="invoke/callee", ms=LONG, given={"tag": world.tag()})
    assert {"answer": None} == await world.result(key)
    if world.steady:
        assert ([1, 1], [None, {"call": None}]) == (world.retries(key), world.caches(key))


async def invoke_that_times_out(world: World) -> None:
    """At the time-out the invoker goes on with false; the callee that ends later wakes nobody, and does no harm."""
    given = {"answer": "too late", "ms": 1500, "tag": world.tag()}
    key = await world.send("invoke/caller", callee="invoke/callee", ms=500, given=given)
    assert {"answer": False} == await world.result(key)
    delivered = await world.until(lambda: world.delivered(data=given), "the callee is delivered")
    callee = delivered[0]["key"]
    assert "too late" == await world.result(callee)
    if world.steady:
        assert ([1, 1], [None, {"call": False}]) == (world.retries(key), world.caches(key))
        assert [1, 1] == world.retries(callee)


async def invoke_of_a_callee_that_sleeps_and_fails(world: World) -> None:
    """The callee's key is the same through its continuations and retries, so its end still finds the invoker."""
    slow = {"answer": "slow", "ms": 400, "tag": world.tag()}
    shaky = {"tag": world.tag()}
    sleeping = await world.send("invoke/caller", callee="invoke/callee", ms=LONG, given=slow)
    failing = await world.send("invoke/caller", callee="steps/retried", ms=LONG, given=shaky)
    assert {"answer": "slow"} == await world.result(sleeping)
    assert {"answer": {"first": "kept", "thrown": 2}} == await world.result(failing)


SCENARIOS = [
    invoke_that_is_answered,
    invoke_that_is_answered_with_any_value,
    invoke_of_a_callee_that_returns_nothing,
    invoke_that_times_out,
    invoke_of_a_callee_that_sleeps_and_fails,
]
