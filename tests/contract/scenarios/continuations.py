"""Sleeps, and apps that misbehave after they have added their job again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.world import World


async def sleep(world: World) -> None:
    """The continuation comes when the sleep is over, not before, at attempt 1 and with the steps before it."""
    key = await world.send("sleep/short", ms=600, tag=world.tag())
    assert ["before", "after"] == await world.result(key)
    if world.steady:
        assert ([1, 1], ["before", "after"]) == (world.retries(key), world.steps(key))
        assert [None, {"before": "before", "nap": True}] == world.caches(key)
        slept_from = world.log("step", key, name="before")[0]["at"]
        assert world.deliveries(key)[1]["time"] - slept_from >= 599


async def sleep_until(world: World) -> None:
    """The continuation comes at the time, not before."""
    until = datetime.now(UTC) + timedelta(milliseconds=700)
    key = await world.send("sleep/until", at=until.isoformat(), tag=world.tag())
    assert "awake" == await world.result(key)
    if world.steady:
        assert ([1, 1], [None, {"until": True}]) == (world.retries(key), world.caches(key))
        assert world.deliveries(key)[1]["time"] >= int(until.timestamp() * 1000)


async def sleep_until_a_time_that_is_past(world: World) -> None:
    """The continuation is due at once."""
    key = await world.send("sleep/until", at="2020-02-29T12:00:00+00:00", tag=world.tag())
    assert "awake" == await world.result(key)
    if world.steady:
        assert ([1, 1], [None, {"until": True}]) == (world.retries(key), world.caches(key))


async def _misbehave_after_a_sleep(world: World, then: int | str) -> None:
    """The continuation is not touched by how the delivery that added it ends: it runs once, at attempt 1."""
    key = await world.send("after/sleep", ms=300, then=then, tag=world.tag())
    assert "finished" == await world.result(key)
    assert [] == world.letters(key)
    if world.steady:
        assert ([1, 1], [None, {"nap": True}]) == (world.retries(key), world.caches(key))


async def _misbehave_after_a_failure(world: World, then: int | str) -> None:
    """A failed step that was reported is one failed attempt, however the delivery ends."""
    key = await world.send("after/failure", then=then, tag=world.tag())
    assert "kept" == await world.result(key)
    assert [] == world.letters(key)
    if world.steady:
        assert ([1, 2], [None, {"kept": "kept"}]) == (world.retries(key), world.caches(key))
        assert ["kept", "shaky", "shaky"] == world.steps(key)


async def an_app_that_answers_500_after_a_sleep(world: World) -> None:
    await _misbehave_after_a_sleep(world, 500)


async def an_app_that_answers_500_after_a_failed_step(world: World) -> None:
    await _misbehave_after_a_failure(world, 500)


async def an_app_that_says_no_retry_after_a_sleep(world: World) -> None:
    await _misbehave_after_a_sleep(world, 666)


async def an_app_that_times_out_after_a_sleep(world: World) -> None:
    await _misbehave_after_a_sleep(world, "hang")


async def an_app_that_times_out_after_a_failed_step(world: World) -> None:
    await _misbehave_after_a_failure(world, "hang")


async def an_app_that_dies_after_a_sleep(world: World) -> None:
    await _misbehave_after_a_sleep(world, "die")


async def an_app_that_dies_after_a_failed_step(world: World) -> None:
    await _misbehave_after_a_failure(world, "die")


SCENARIOS = [
    sleep,
    sleep_until,
    sleep_until_a_time_that_is_past,
    an_app_that_answers_500_after_a_sleep,
    an_app_that_answers_500_after_a_failed_step,
    an_app_that_says_no_retry_after_a_sleep,
    an_app_that_times_out_after_a_sleep,
    an_app_that_times_out_after_a_failed_step,
    an_app_that_dies_after_a_sleep,
    an_app_that_dies_after_a_failed_step,
]
