"""sendEvent(s), cancelOn and cron."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.world import World


async def send_events_from_a_step(world: World) -> None:
    """A function sends events from within a step: each starts its function, once."""
    tag = world.tag()
    key = await world.send("send/fan", tag=tag, count=4)
    keys = await world.result(key)
    assert [0, 1, 2, 3] == await asyncio.gather(*(world.result(sent) for sent in keys))


async def send_events_from_outside(world: World) -> None:
    """Many events in one go."""
    tag = world.tag()
    keys = await world.send_all(*(("send/received", {"tag": tag, "n": n}) for n in range(6)))
    assert list(range(6)) == await asyncio.gather(*(world.result(sent) for sent in keys))


async def cancel_what_is_pending(world: World) -> None:
    """Sleeping, waiting, invoking, waiting for its retry: gone with its waits. Others of the event stay."""
    user, other = world.tag(), world.tag()
    does = {"sleep": 0, "wait": 1, "invoke": 1, "fail": 0}
    keys = {kind: await world.send("cancel/pending", user=user, does=kind) for kind in does}
    stays = await world.send("cancel/pending", user=other, does="sleep")
    await asyncio.gather(*(world.parked(keys[kind], waits) for kind, waits in does.items()), world.parked(stays))
    await world.send("cancel/stop", user=user)
    await world.until(lambda: not any(world.live(key) for key in keys.values()), "all of them are gone")
    assert 1 == len(world.live(stays))
    await world.send("cancel/stop", user=other)
    await world.until(lambda: not world.live(stays), "the other one is gone")
    await world.set_flag(f"go {user} 0")  # the invoked one ends, and finds nobody
    assert [] == [entry for key in (*keys.values(), stays) for entry in world.log("finished", key)]
    assert [] == [letter for key in (*keys.values(), stays) for letter in world.letters(key)]


async def cancel_by_values_that_are_no_text(world: World) -> None:
    """5 and true are compared as JavaScript prints them."""
    users = (world.number(), world.number() + 0.5, True)
    keys = [await world.send("cancel/pending", user=user, does="sleep") for user in users]
    await asyncio.gather(*(world.parked(key) for key in keys))
    for user, key in zip(users, keys, strict=True):
        assert world.live(key)
        await world.send("cancel/stop", user=user)
        await world.until(partial(_is_gone, world, key), f"the one of user {user!r} is gone")


def _is_gone(world: World, key: str) -> bool:
    return not world.live(key)


async def _cancel_while_delivered(world: World, does: str) -> None:
    """Nothing of a job that is cancelled while it is delivered comes back: no retry, continuation or dead letter."""
    tag = world.tag()
    key = await world.send("cancel/held", user=tag, tag=tag, does=does)
    await world.until(lambda: world.log("step", key, name="hold"), "it is being delivered")
    await world.send("cancel/stop", user=tag)
    await world.set_flag(f"go {tag}")
    await world.until(lambda: world.log("answer", key) and not world.live(key), "it has ended")
    if world.steady:
        assert [1] == world.retries(key)
    if world.steady or does == "sleep":  # where it fails, a second delivery that ran beside the first one succeeds
        assert [] == world.log("finished", key)
    assert [] == world.letters(key)


async def cancel_while_delivered_then_sleep(world: World) -> None:
    await _cancel_while_delivered(world, "sleep")


async def cancel_while_delivered_then_a_step_throws(world: World) -> None:
    await _cancel_while_delivered(world, "throw")


async def cancel_while_delivered_then_500(world: World) -> None:
    await _cancel_while_delivered(world, "fail")


async def a_function_that_its_own_event_cancels(world: World) -> None:
    """cancelOn its own event: the newest run cancels those before it, and never itself."""
    user = world.tag()
    earlier = []
    for n in (1, 2):
        earlier.append(await world.send("cancel/self", user=user, ms=60_000, n=n))
        await world.parked(earlier[-1])
    newest = await world.send("cancel/self", user=user, ms=300, n=3)
    assert 3 == await world.result(newest)
    assert [] == [entry for key in earlier for entry in (*world.live(key), *world.log("finished", key))]
    if world.steady:
        assert [1, 1] == world.retries(newest)


async def the_minute_tick(world: World) -> None:
    """Job key "cron", event "cron", data {}: the app runs its own crontabs that are due, in memory."""
    ticks = len(world.delivered(event="cron"))
    minutes = len(world.delivered(event="cron/minute"))
    await world.until_so("select exists (select from slayq.schedule where kind = 'tick')")
    await world.execute("update slayq.schedule set next_at = clock_timestamp() where kind = 'tick'")
    await world.until(lambda: len(world.delivered(event="cron")) > ticks, "the tick has been delivered")
    tick = world.delivered(event="cron")[ticks]
    assert ({}, None) == (tick["data"], tick["cache"])
    assert ["job_key", "retry", "time", "event", "data"] == tick["members"]
    if world.steady:
        assert 1 == tick["retry"]
    await world.until(
        lambda: len(world.delivered(event="cron/minute")) > minutes, "what the app's crontab says has run"
    )
    assert [] == world.delivered(event="cron/never")


SCENARIOS = [
    send_events_from_a_step,
    send_events_from_outside,
    cancel_what_is_pending,
    cancel_by_values_that_are_no_text,
    cancel_while_delivered_then_sleep,
    cancel_while_delivered_then_a_step_throws,
    cancel_while_delivered_then_500,
    a_function_that_its_own_event_cancels,
    the_minute_tick,
]
