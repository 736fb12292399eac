"""Steps: run once, retried, given up, put back; and keys that are added again from elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.contract.world import DELAYS

if TYPE_CHECKING:
    from tests.contract.world import World


async def a_function_with_steps(world: World) -> None:
    """Delivered once with the members of protocol v1 in their order; each step runs once; the result comes out."""
    key = await world.send("steps/plain", word="übergröße €\u2028", tag=world.tag())
    assert {"a": 1, "b": "übergröße €\u2028"} == await world.result(key)
    delivery = world.deliveries(key)[0]
    assert ["job_key", "retry", "time", "event", "data"] == delivery["members"]
    if world.steady:
        assert ([1], [None], ["a", "b"]) == (world.retries(key), world.caches(key), world.steps(key))


async def a_step_that_throws_twice(world: World) -> None:
    """A step threw: the next attempt comes with what is finished, and `retry` counts on: 1, 2, 3."""
    key = await world.send("steps/retried", tag=world.tag())
    assert {"first": "kept", "thrown": 2} == await world.result(key)
    if world.steady:
        assert [1, 2, 3] == world.retries(key)
        assert [None, {"first": "kept"}, {"first": "kept"}] == world.caches(key)
        assert ["first", "shaky", "shaky", "shaky"] == world.steps(key)
        assert ["job_key", "retry", "time", "event", "data", "cache"] == world.deliveries(key)[1]["members"]


async def a_step_that_always_throws(world: World) -> None:
    """3 retries: delivered 4 times with rising gaps, then a dead letter that a redrive brings back with its steps."""
    tag = world.tag()
    key = await world.send("steps/hopeless", tag=tag)
    letter = await world.letter(key)
    assert (4, 4) == (letter["attempts"], letter["max_attempts"])
    if world.steady:
        assert "attempts-exhausted" == letter["reason"]
        assert [1, 2, 3, 4] == world.retries(key)
        assert ["kept", "broken", "broken", "broken", "broken"] == world.steps(key)
        assert {"kept": "kept"} == json.loads(letter["payload"])["cache"]
        # Told by the app's clock when it says so, and by the daemon's when it comes again: never too early.
        told = [call["at"] for call in world.log("calling", key, name="add_worker_job")]
        gaps = [again["time"] - said for said, again in zip(told, world.deliveries(key)[1:], strict=False)]
        assert [] == [(gap, least) for gap, least in zip(gaps, DELAYS, strict=True) if gap < least - 1]
    await world.set_flag(f"mended {tag}")
    await world.cli("dead", "redrive", str(letter["id"]))
    assert "kept" == await world.result(key)
    if world.steady:
        assert [] == world.letters(key)
        assert (1, {"kept": "kept"}) == (world.retries(key)[4], world.caches(key)[4])
        assert ["broken"] == world.steps(key)[5:]


async def an_error_outside_of_steps(world: World) -> None:
    """The app answers 500: the job is retried as it was."""
    key = await world.send("steps/uncaught", tag=world.tag())
    assert 2 == await world.result(key)
    if world.steady:
        assert ([1, 2, 3], [None, None, None]) == (world.retries(key), world.caches(key))


async def the_same_key_from_elsewhere(world: World) -> None:
    """Sent again while it is delivered, without a cache: a fresh job; both run to their end."""
    tag = world.tag()
    key = await world.send("steps/held", tag=tag, n=1)
    await world.until(lambda: world.deliveries(key), "the first one is delivered")
    await world.send("steps/held", key=key, tag=tag, n=2)

    def second() -> list[int]:
        return [delivery["retry"] for delivery in world.deliveries(key) if delivery["data"]["n"] == 2]

    await world.until(second, "the second one is delivered while the first one runs")
    await world.set_flag(f"go {tag} 1")
    await world.until(lambda: world.log("finished", key, result=1), "the first one finishes")
    await world.set_flag(f"go {tag} 2")
    # Not the last one to finish: of a daemon that was killed, the app may still run the first one's other delivery.
    await world.until(
        lambda: world.log("finished", key, result=2) and not world.live(key), "the second one finishes, nothing is left"
    )
    if world.steady:
        assert ([1, 1], [None, None]) == (world.retries(key), world.caches(key))
    assert [] == world.letters(key)


SCENARIOS = [
    a_function_with_steps,
    a_step_that_throws_twice,
    a_step_that_always_throws,
    an_error_outside_of_steps,
    the_same_key_from_elsewhere,
]
