"""waitForEvent: fired, timed out, and everything in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.world import World

LONG = 60_000
"""Milliseconds that no scenario waits."""
STEP_NAMES = [
    "a,b",
    "{brace}",
    '"quoted"',
    "it's",
    "dots.in.it",
    "",
    "..",
    "üñí ☃ 😀",
    "back\\slash",
    "a/b",
    "0",
    "toString",
]


async def wait_for_an_event_that_comes(world: World) -> None:
    """The waiting job goes on at once with cache[step] = true. The app adds it again first, then waits."""
    order = world.tag()
    key = await world.send("wait/event", order=order, ms=LONG)
    await world.parked(key, waits=1)
    if world.steady:
        assert ["add_worker_job", "wait_for_worker_event"] == world.calls(key)
    await world.send("wait/approved", order=order)
    assert ["before", True] == await world.result(key)
    if world.steady:
        assert ([1, 1], ["before"]) == (world.retries(key), world.steps(key))
        assert [None, {"before": "before", "approved": True}] == world.caches(key)


async def wait_for_an_event_that_does_not_come(world: World) -> None:
    """At the time-out the job goes on with cache[step] = false, not before; other values do not wake it."""
    order = world.tag()
    key = await world.send("wait/event", order=order, ms=900)
    await world.until(lambda: world.log("called", key, name="wait_for_worker_event"), "it waits")
    await world.send("wait/approved", order=f"{order} of somebody else")
    assert ["before", False] == await world.result(key)
    if world.steady:
        assert ([1, 1], ["before"]) == (world.retries(key), world.steps(key))
        assert [None, {"before": "before", "approved": False}] == world.caches(key)
        parked = world.log("calling", key, name="add_worker_job")[0]
        assert world.deliveries(key)[1]["time"] - parked["at"] >= 800


async def an_event_between_the_two_calls(world: World) -> None:
    """An event that fires after the re-add and before wait_for_worker_event is found by looking back."""
    key = await world.send("wait/event", order=world.tag(), ms=LONG, between=True)
    assert ["before", True] == await world.result(key)
    if world.steady:
        assert ([1, 1], ["before"]) == (world.retries(key), world.steps(key))
        assert "wait_for_worker_event" == world.calls(key)[-2]


async def many_waiters_for_one_event(world: World) -> None:
    """One event wakes every job that waits for it."""
    order = world.tag()
    keys = [await world.send("wait/event", order=order, ms=LONG) for _ in range(5)]
    await asyncio.gather(*(world.parked(key, waits=1) for key in keys))
    await world.send("wait/approved", order=order)
    assert [["before", True]] * 5 == await asyncio.gather(*(world.result(key) for key in keys))


async def any_step_name(world: World) -> None:
    """Commas, braces, quotes, dots, nothing at all: each name is the one that comes back in the cache."""
    order = world.tag()
    keys = {name: await world.send("wait/event", order=order, ms=LONG, step=name) for name in STEP_NAMES}
    await asyncio.gather(*(world.parked(key, waits=1) for key in keys.values()))
    await world.send("wait/approved", order=order)
    for name, key in keys.items():
        assert ["before", True] == await world.result(key)
        assert {"before": "before", name: True} == world.caches(key)[-1]


async def an_event_triggered_twice(world: World) -> None:
    """The second one finds nobody, and does no harm."""
    order = world.tag()
    key = await world.send("wait/event", order=order, ms=LONG)
    await world.parked(key, waits=1)
    await world.send_all(("wait/approved", {"order": order}), ("wait/approved", {"order": order}))
    assert ["before", True] == await world.result(key)
    if world.steady:
        assert [1, 1] == world.retries(key)


async def a_wait_of_a_job_that_is_gone(world: World) -> None:
    """Waiting and triggering for keys that nobody knows is no error."""
    nobody = world.tag()
    await world.call(
        "wait_for_worker_event",
        job_key=nobody,
        event="wait/approved",
        match_key="order",
        match_value=nobody,
        step_name="approved",
        expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    )
    await world.call("wait_for_invocation", invoker_job_key=nobody, target_job_key=nobody, step_name="call")
    await world.call("trigger_waiting_workers", event="wait/approved", match_key="order", match_value=nobody)
    await world.call("trigger_waiting_invoker", job_key=nobody, result={"answer": 42})
    await world.call("cancel_pending_tasks", event="wait/event", match_key="order", match_value=nobody)
    assert [] == world.live(nobody)


SCENARIOS = [
    wait_for_an_event_that_comes,
    wait_for_an_event_that_does_not_come,
    an_event_between_the_two_calls,
    many_waiters_for_one_event,
    any_step_name,
    an_event_triggered_twice,
    a_wait_of_a_job_that_is_gone,
]
