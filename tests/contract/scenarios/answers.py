"""What the app answers, and what becomes of the job: the table of protocol v1, section 2."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.contract.world import World

ECHOED: dict[str, Any] = {
    "z": [1, 2.5, -0.5, 1e21, 123456789012345680000],
    "10": "array indices",
    "9": "come first",
    "text": 'quotes " and \\, \b\f\n\r\t, \x1f, é, \u2028\u2029, 😀',
    "more": [{}, [], "", None, True, False, "\0"],
}
"""Comes out as it went in, in JavaScript and in Python."""

AS_OTHERS_WRITE = """ {"data" : {"b": [1.0, -0, 100e-2, 9007199254740993, "\\u00e9\\/"],
    "10" : 1e21, "a": 1, "2": 2, "a": {"n": 0.5} }, "event":"data/echo", "url": "%s", "more": "not sent" } """
AS_JAVASCRIPT_READS = {"2": 2, "10": 1e21, "b": [1, 0, 1, 9007199254740992, "é/"], "a": {"n": 0.5}}


async def _until_settled(world: World, key: str, answers: int) -> None:
    await world.until(lambda: len(world.log("answer", key)) >= answers and not world.live(key), f"{key} has ended")


async def a_2xx_ends_the_job(world: World) -> None:
    for status in (200, 204):
        key = await world.send("answer/status", statuses=[status], tag=world.tag())
        await _until_settled(world, key, 1)
        assert [] == world.letters(key)
        if world.steady:
            assert [1] == world.retries(key)


async def no_retry(world: World) -> None:
    """666: a dead letter at once."""
    key = await world.send("answer/no-retry", tag=world.tag())
    assert "no-retry" == (await world.letter(key))["reason"]
    if world.steady:
        assert ([1], ["hopeless"]) == (world.retries(key), world.steps(key))


async def an_unknown_event(world: World) -> None:
    """404: no retry, but kept."""
    key = world.tag()
    payload = {"event": "nobody/knows-me", "retry": 0, "data": {"n": 1}}
    await world.call("add_worker_job", identifier="general", job_key=key, payload=payload)
    letter = await world.letter(key)
    assert ("not-found", 1) == (letter["reason"], letter["attempts"] if world.steady else 1)
    if world.steady:
        assert [1] == world.retries(key)


async def gone(world: World) -> None:
    """410: as 404."""
    key = await world.send("answer/status", statuses=[410], tag=world.tag())
    assert "not-found" == (await world.letter(key))["reason"]


async def retry_after(world: World) -> None:
    """429 and 503 with Retry-After: not before that time."""
    key = await world.send("answer/status", statuses=[429, 503, 200], headers={"Retry-After": "1"}, tag=world.tag())
    await _until_settled(world, key, 3)
    if world.steady:
        assert [1, 2, 3] == world.retries(key)
        answered = [answer["at"] for answer in world.log("answer", key)]
        gaps = [again["time"] - at for at, again in zip(answered, world.deliveries(key)[1:], strict=False)]
        assert [] == [gap for gap in gaps if gap < 999]


async def any_other_answer(world: World) -> None:
    """A server's or client's error, or a redirect, which is never followed: tried again with back-off."""
    key = await world.send(
        "answer/status", statuses=[500, 401, 302, 200], headers={"Location": "/slayq"}, tag=world.tag()
    )
    await _until_settled(world, key, 4)
    assert [] == world.letters(key)
    if world.steady:
        assert [1, 2, 3, 4] == world.retries(key)


async def data_comes_out_as_it_went_in(world: World) -> None:
    """The app parses the body and signs what it parsed, printed again: so the bytes must be JavaScript's own."""
    data = {**ECHOED, "tag": world.tag()}
    if world.setting.variant == "node":  # JSON.stringify prints these otherwise than Python does
        data |= {"small": [1e-7, 5e-324], "big": [2**53, 1e300], "lone": ["\ud83d and \ude00"]}
    key = await world.send("data/echo", **data)
    assert data == await world.result(key)


async def a_payload_as_others_write_it(world: World) -> None:
    """JSON that JavaScript would never print, put in by SQL: delivered as JavaScript prints it, or it is refused."""
    key = world.tag()
    payload = AS_OTHERS_WRITE % world.app.url
    await world.execute("select add_worker_job('general', $1, job_key => $2)", payload, key)
    assert AS_JAVASCRIPT_READS == await world.result(key)
    members = ["job_key", "retry", "time", "event", "data"]
    assert (members, ["2", "10", "b", "a"]) == (
        world.deliveries(key)[0]["members"],
        list(world.deliveries(key)[0]["data"]),
    )


async def a_job_without_a_key(world: World) -> None:
    """Is delivered as "cron", and with no more than it has."""
    payload = json.dumps({"event": "data/echo", "url": world.app.url})
    await world.execute("select add_worker_job('general', $1)", payload)

    def delivered() -> list[dict[str, Any]]:
        return [entry for entry in world.deliveries("cron") if entry["event"] == "data/echo"]

    await world.until(delivered, "it is delivered")
    assert ["job_key", "retry", "time", "event"] == delivered()[0]["members"]


SCENARIOS = [
    a_2xx_ends_the_job,
    no_retry,
    an_unknown_event,
    gone,
    retry_after,
    any_other_answer,
    data_comes_out_as_it_went_in,
    a_payload_as_others_write_it,
    a_job_without_a_key,
]
