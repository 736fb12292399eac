"""What runs wait for: events, other runs, time. Each wait has one outcome, and no wake-up is lost."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import CANCELLED, PAID, PLACED, RENDER, RunsDaemon, Segment, make_steps_due, send
from tests.sql.support import count

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


pytestmark = pytest.mark.usefixtures("shop")


async def placed(connection: asyncpg.Connection, runs: RunsDaemon, order: object = 7) -> Segment:
    """A run that is leased for the first time."""
    await send(connection, PLACED, {"order": order})
    return await runs.lease_one()


async def test_an_event_wakes_who_waits_for_it(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """The run is due at once, with the event's data for its outcome; those that wait for another value sleep on."""
    await runs.flush((await placed(connection, runs)).wait("payment").ends("suspended"))
    await runs.flush((await placed(connection, runs, 8)).wait("payment", "8").ends("suspended"))
    assert await send(connection, PAID, {"order": 7, "amount": 5}) is None
    row = await runs.match()
    assert (1, ["general"], False, False) == tuple(row)[:4]
    assert {"payment": ("done", {"order": 7, "amount": 5})} == (await runs.lease_one()).steps
    assert [] == await runs.lease()


@pytest.mark.parametrize(("given", "text"), [(7, "7"), ("7", "7"), (7.0, "7"), (True, "true"), (1e21, "1e+21")])
async def test_values_are_compared_as_javascript_prints_them(
    connection: asyncpg.Connection, runs: RunsDaemon, given: object, text: str
) -> None:
    """A number and its text are the same, as in protocol v1."""
    await runs.flush((await placed(connection, runs)).wait("payment", text).ends("suspended"))
    await send(connection, PAID, {"order": given})
    assert 1 == (await runs.match())["matched"]


async def test_an_event_that_came_first(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A wait looks back to the start of its run, also to events that were matched: it has its outcome at once."""
    segment = await placed(connection, runs)
    await send(connection, PAID, {"order": 7})
    await runs.match()
    (row,) = await runs.flush(segment.wait("payment").ends("suspended"))
    assert "general" == row["ready"]
    assert {"payment": ("done", {"order": 7})} == (await runs.lease_one()).steps


async def test_an_event_before_the_run_does_not_count(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Neither when looking back nor when it is matched late."""
    await send(connection, PAID, {"order": 7})
    segment = await placed(connection, runs)
    (row,) = await runs.flush(segment.wait("payment").ends("suspended"))
    assert row["ready"] is None
    assert 0 == (await runs.match())["matched"]


async def test_an_event_committed_after_the_run_began(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """It was sent first, in a transaction that ended later: nobody can have known of it, so it counts."""
    other = await connect()
    async with other.transaction():
        await send(other, PAID, {"order": 7})
        segment = await placed(connection, runs)
    await runs.flush(segment.wait("payment").ends("suspended"))
    assert {"payment": ("done", {"order": 7})} == (await runs.lease_one()).steps


async def test_an_event_that_is_not_committed_yet_when_the_wait_comes(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The wait holds up nobody and is held up by nobody; the event finds it once it is there."""
    segment = await placed(connection, runs)
    other = await connect()
    async with other.transaction():
        await send(other, PAID, {"order": 7})
        assert ["settled"] == await runs.ended(segment.wait("payment").ends("suspended"))
        assert 0 == (await runs.match())["matched"]
    assert 1 == (await runs.match())["matched"]


async def test_an_event_serves_one_wait_after_the_other_only_once(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """A loop of waits takes an event each: a later wait does not find the event that an earlier one has taken."""
    await runs.flush((await placed(connection, runs)).wait("first").ends("suspended"))
    await send(connection, PAID, {"order": 7, "n": 1})
    await runs.match()
    await runs.flush((await runs.lease_one()).wait("second").ends("suspended"))
    assert [] == await runs.lease()
    await send(connection, PAID, {"order": 7, "n": 2})
    await runs.match()
    steps = (await runs.lease_one()).steps
    assert {"first": ("done", {"order": 7, "n": 1}), "second": ("done", {"order": 7, "n": 2})} == steps


async def test_two_waits_at_once_take_an_event_each(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """As two in a row do: the first event is for the wait that was there first."""
    segment = await placed(connection, runs)
    await runs.flush(segment.wait("first").wait("second").ends("suspended"))
    await send(connection, PAID, {"order": 7, "n": 1})
    row = await runs.match()
    assert (1, False) == (row["matched"], row["left_over"])
    resumed = await runs.lease_one()
    assert {"first": ("done", {"order": 7, "n": 1}), "second": "pending"} == resumed.steps
    await runs.flush(resumed.ends("suspended"))
    await send(connection, PAID, {"order": 7, "n": 2})
    await runs.match()
    assert ("done", {"order": 7, "n": 2}) == (await runs.lease_one()).steps["second"]


async def test_an_event_from_before_a_run_that_has_died(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It is not for that run, however late it is matched: put back, the run waits on."""
    await send(connection, PAID, {"order": 7})
    segment = await placed(connection, runs)
    await runs.flush(segment.wait("payment").ends("dead", error="no", reason="no-retry"))
    assert 0 == (await runs.match())["matched"]
    await connection.execute("select slayq._redrive_1(array[$1::bigint])", segment.id)
    assert {"payment": "pending"} == (await runs.lease_one()).steps


async def test_a_wait_times_out(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Its outcome is that it timed out; an event that comes later changes nothing."""
    await runs.flush((await placed(connection, runs)).wait("payment").ends("suspended"))
    await make_steps_due(connection)
    row = await runs.promote()
    assert (1, 0) == (row["expired_events"], row["expired_invocations"])
    await send(connection, PAID, {"order": 7})
    assert 0 == (await runs.match())["matched"]
    assert {"payment": "timed_out"} == (await runs.lease_one()).steps


async def test_an_event_in_time_that_nobody_has_matched_yet(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """All daemons were away: the time-out passed, but the event had come before it, and counts."""
    await runs.flush((await placed(connection, runs)).wait("payment").ends("suspended"))
    await send(connection, PAID, {"order": 7})
    await connection.execute("update slayq.step set due_at = clock_timestamp()")
    await connection.execute("update slayq.job set run_at = now()")
    await runs.promote()
    assert {"payment": ("done", {"order": 7})} == (await runs.lease_one()).steps


async def test_a_wait_without_a_time_out(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It waits until the event comes, and the timers go on."""
    (row,) = await runs.flush((await placed(connection, runs)).wait("payment", seconds=None).ends("suspended"))
    assert row["due_in"] > 86400 * 365
    assert (await runs.promote())["due_in"] > 0
    await send(connection, PAID, {"order": 7})
    assert 1 == (await runs.match())["matched"]


async def test_a_wait_that_was_not_declared(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It is refused in clear words; what came before it is written, what came after it is not, nor the end."""
    segment = await placed(connection, runs)
    segment.step("a", 1).wait("odd", event=CANCELLED).step("b", 2).ends("suspended")
    (row,) = await runs.flush(segment)
    assert "refused" == row["verdict"]
    assert "'odd'" in row["note"]
    assert "does not declare" in row["note"]
    await runs.flush(segment.ends("retried", error=row["note"], delay=0.0))
    await runs.promote()
    assert {"a": ("done", 1)} == (await runs.lease_one()).steps


async def test_an_outcome_that_comes_while_the_app_is_at_work(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Invariant I: two branches, one waits and one works. The event comes meanwhile: due as soon as it suspends."""
    await runs.flush((await placed(connection, runs)).wait("payment").sleep("nap").ends("suspended"))
    await connection.execute("update slayq.step set due_at = now() where name = 'nap'")
    await connection.execute("update slayq.job set run_at = now()")
    await runs.promote()
    second = await runs.lease_one()
    assert {"nap": ("done", None), "payment": "pending"} == second.steps
    await send(connection, PAID, {"order": 7})
    assert (1, []) == tuple(await runs.match())[:2]
    (row,) = await runs.flush(second.step("work", 1).ends("suspended"))
    assert "general" == row["ready"]
    assert ("done", {"order": 7}) == (await runs.lease_one()).steps["payment"]


async def test_an_outcome_does_not_cut_a_back_off_short(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A run that failed waits for its time; the outcome is there when it comes."""
    segment = (await placed(connection, runs)).wait("payment")
    await runs.flush(segment.ends("retried", error="x", delay=3600.0))
    await send(connection, PAID, {"order": 7})
    assert (1, []) == tuple(await runs.match())[:2]
    assert [] == await runs.lease()
    await make_steps_due(connection)
    await runs.promote()
    assert {"payment": ("done", {"order": 7})} == (await runs.lease_one()).steps


async def test_many_wait_for_one_event(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """All are woken by it."""
    for _ in range(5):
        await runs.flush((await placed(connection, runs)).wait("payment").ends("suspended"))
    await send(connection, PAID, {"order": 7})
    assert 5 == (await runs.match())["matched"]
    assert 5 == len(await runs.lease(10))


async def test_a_locked_run_is_woken_later(connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon) -> None:
    """Matching waits for nobody: the event stays until it has reached the run that somebody has locked."""
    await runs.flush((await placed(connection, runs)).wait("payment").ends("suspended"))
    await send(connection, PAID, {"order": 7})
    other = await connect()
    async with other.transaction():
        await other.execute("select from slayq.job for update")
        assert (0, [], False, True) == tuple(await runs.match())[:4]
    assert (1, ["general"], False, False) == tuple(await runs.match())[:4]


async def test_events_for_a_locked_run_hold_up_no_others(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """However many there are of them, and however long the run stays locked."""
    for order in (1, 2):
        await runs.flush((await placed(connection, runs, order)).wait("payment", str(order)).ends("suspended"))
    other = await connect()
    async with other.transaction():
        await other.execute("select from slayq.job order by id limit 1 for update")
        for order in (1, 1, 1, 2):
            await send(connection, PAID, {"order": order})
        first = await runs.match(2)
        assert (0, [], True, True) == tuple(first)[:4]
        assert (1, ["general"], False, True) == tuple(await runs.match(2, first["last"]))[:4]
    assert (1, ["general"], True, False) == tuple(await runs.match(2))[:4]


async def test_an_event_for_very_many_is_handed_out_bit_by_bit(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """No pass takes longer than its time limit, and each brings something, whoever has some of the runs locked."""
    for _ in range(23):
        await runs.flush((await placed(connection, runs)).wait("payment").ends("suspended"))
    await send(connection, PAID, {"order": 7})
    other = await connect()
    async with other.transaction():
        await other.execute("select from slayq.job order by id limit 2 for update")
        first = await runs.match(1)
        second = await runs.match(1, first["last"])
        third = await runs.match(1, second["last"])
        assert [(10, True, False), (10, True, False), (1, False, True)] == [
            (row["matched"], row["more"], row["left_over"]) for row in (first, second, third)
        ]
    assert (2, ["general"], False, False) == tuple(await runs.match(1))[:4]


async def test_a_dead_run_takes_the_event_that_it_waits_for(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It is there when the run is put back, and keeps no event from being over."""
    await runs.flush((await placed(connection, runs)).wait("payment").ends("dead", error="no", reason="no-retry"))
    await send(connection, PAID, {"order": 7})
    assert (0, [], False, False) == tuple(await runs.match())[:4]
    await connection.execute("select slayq._redrive_1(array(select id from slayq.dead_letter))")
    assert {"payment": ("done", {"order": 7})} == (await runs.lease_one()).steps


# Invocations


async def invoked(connection: asyncpg.Connection, runs: RunsDaemon) -> tuple[Segment, Segment]:
    """A run that is parked on its callee, and the callee, leased."""
    caller = await placed(connection, runs)
    await runs.flush(caller.invoke("invoice", {"n": 1}).ends("suspended"))
    callee = await runs.lease_one()
    assert {"n": 1} == json.loads(callee.payload)["data"]
    return caller, callee


async def test_a_callee_that_is_done(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Its output is the step's; what carried it is forgotten."""
    caller, callee = await invoked(connection, runs)
    await runs.flush(callee.ends("done", output={"pdf": "x"}))
    assert 1 == (await runs.match())["matched"]
    woken = await runs.lease_one()
    assert (caller.id, {"invoice": ("done", {"pdf": "x"})}) == (woken.id, woken.steps)
    assert 0 == await count(connection, "event")


@pytest.mark.parametrize("how", ["dies", "is cancelled", "is cancelled while it waits", "loses its daemon"])
async def test_a_callee_that_ends_without_a_result(
    connection: asyncpg.Connection, runs: RunsDaemon, daemon: Daemon, how: str
) -> None:
    """The step has failed, and says why; the invoker goes on."""
    _, callee = await invoked(connection, runs)
    if how == "dies":
        await runs.flush(callee.ends("dead", error="ValueError: no", reason="no-retry"))
    elif how == "is cancelled":
        await connection.execute("select slayq.cancel($1)", callee.run["id"])
        assert ["dropped"] == await runs.ended(callee.ends("done"))
    elif how == "is cancelled while it waits":
        await runs.flush(callee.sleep("nap").ends("suspended"))
        await connection.execute("select slayq.cancel($1)", callee.run["id"])
    else:
        await connection.execute("update slayq.job set delivery_failures = 24 where id = $1", callee.id)
        await daemon.expire(connection)
        await daemon.store.reap(10)
        await connection.execute("update slayq.worker set expires_at = now() + interval '1 hour'")
    assert 1 == (await runs.match())["matched"]
    (step,) = (await runs.lease_one()).run["steps"]
    assert ("failed", "InvocationFailed") == (step["state"], step["error"]["type"])
    assert callee.run["id"] in step["error"]["message"]
    assert ("cancelled" in how) == ("was cancelled" in step["error"]["message"])


async def test_an_invocation_times_out(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """The callee goes on, and its result reaches nobody."""
    _, callee = await invoked(connection, runs)
    await make_steps_due(connection)
    assert 1 == (await runs.promote())["expired_invocations"]
    await runs.flush(callee.ends("done", output=1))
    assert 0 == (await runs.match())["matched"]
    assert {"invoice": "timed_out"} == (await runs.lease_one()).steps


@pytest.mark.parametrize("how", ["done", "dead"])
async def test_a_callees_end_in_time_that_nobody_has_matched_yet(
    connection: asyncpg.Connection, runs: RunsDaemon, how: str
) -> None:
    """It counts, as an event does."""
    _, callee = await invoked(connection, runs)
    await runs.flush(callee.ends(how, output=5, error="no", reason="no-retry"))
    await connection.execute("update slayq.event set created_at = now() - interval '1 minute'")
    await make_steps_due(connection)
    assert 0 == (await runs.promote())["expired_invocations"]
    assert (0, [], False, False) == tuple(await runs.match())[:4]
    (step,) = (await runs.lease_one()).run["steps"]
    assert ("done", 5) == (step["state"], step["output"]) if how == "done" else "failed" == step["state"]


async def test_an_event_that_no_app_registers(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Invoking it is refused in clear words; nothing is lost."""
    (row,) = await runs.flush(
        (await placed(connection, runs)).step("a").invoke("x", event="shop/nobody").ends("suspended")
    )
    assert ("refused", True) == (row["verdict"], "shop/nobody" in row["note"])


# Sending from a step


async def test_a_step_sends_with_its_record(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """The runs are there when the step is; the step's output says which they are."""
    segment = await placed(connection, runs)
    events = [{"event": RENDER, "data": {"n": 1}}, {"event": PAID, "data": {"order": 1}}]
    await runs.flush(segment.say("send", "tell", events).ends("released"))
    (state, sent) = (await runs.lease(2))[0].steps["tell"]
    created = await connection.fetchval("select run_id from slayq.job where event = $1", RENDER)
    assert ("done", [str(created), None]) == (state, sent)


async def test_a_send_that_is_refused(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """None of its events is sent, what came before stays."""
    segment = (await placed(connection, runs)).step("a")
    segment.say("send", "tell", [{"event": RENDER, "data": {}}, {"event": "shop/nobody", "data": {}}])
    (row,) = await runs.flush(segment)
    assert ("refused", True) == (row["verdict"], "shop/nobody" in row["note"])
    assert (1, 1) == (await count(connection), await count(connection, "step"))


async def test_a_send_waits_for_nobody_for_long(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """What it cancels is locked by somebody: the run is put off as a whole, the others are written."""
    first = await placed(connection, runs, 1)
    second = await placed(connection, runs, 2)
    victim = await send(connection, PLACED, {"order": 3})
    other = await connect()
    async with other.transaction():
        await other.execute("select from slayq.job where run_id = $1 for update", victim)
        first.step("a").say("send", "stop", [{"event": CANCELLED, "data": {"order": 3}}])
        assert ["locked", "ok"] == await runs.ended(first, second.step("b"))
        assert 1 == await count(connection, "step")
    first.step("a").say("send", "stop", [{"event": CANCELLED, "data": {"order": 3}}])
    assert ["ok"] == await runs.ended(first)
    assert 0 == await count(connection, where=f"run_id = '{victim}'")


async def test_sends_of_many_runs_wait_no_longer_than_one(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """A daemon writes down one flush at a time: it must not stand still while all that it delivers is locked."""
    for order in range(20):
        await send(connection, PLACED, {"order": order})
    victim = await send(connection, PLACED, {"order": 99})
    segments = await runs.lease(20)
    other = await connect()
    async with other.transaction():
        await other.execute("select from slayq.job where run_id = $1 for update", victim)
        for segment in segments:
            segment.say("send", "stop", [{"event": CANCELLED, "data": {"order": 99}}])
        started = time.monotonic()
        assert ["locked"] * 20 == await runs.ended(*segments)
    assert time.monotonic() - started < 4  # each of them would wait for a quarter of a second


async def test_a_run_that_cancels_itself(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """What it sends cancels it: its end comes to nothing, and it is gone."""
    segment = await placed(connection, runs)
    segment.say("send", "stop", [{"event": CANCELLED, "data": {"order": 7}}])
    assert ["dropped"] == await runs.ended(segment.sleep("nap").ends("suspended"))
    assert (0, 0) == (await count(connection), await count(connection, "step"))
