"""Waiting for events and invocations: what a trigger does, what it finds when it looks back, time-outs, odd names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.sql.support import (
    Daemon,
    add,
    count,
    later,
    live,
    next_due,
    trigger,
    trigger_invoker,
    wait_event,
    wait_invocation,
)

if TYPE_CHECKING:
    from slayq_server.db.store import Store

STEP_NAMES = [
    "",
    "a,b",
    "{a,b}",
    "{}",
    'quo"te',
    "it's",
    "a.b.c",
    "..",
    "$.a[0]",
    "back\\slash",
    "\\u0041",
    "new\nline\ttab",
    "ünï→\U0001f600",
    "null",
    "0",
    "__proto__",
    "%s $1 --;",
    "long " * 200,
]


async def park(connection: asyncpg.Connection, key: str = "run", *, serial: str | None = None) -> int:
    """A continuation that waits for its time-out; its id."""
    parked = await add(connection, key, {"n": 1}, cache={"earlier": 1}, run_at=later(), serial=serial)
    job_id: int = parked["id"]
    return job_id


async def patches(connection: asyncpg.Connection, which: int | str) -> object:
    """What waits and invocations have added to a job's cache."""
    row = await live(connection, which)
    return None if row["patches"] is None else json.loads(row["patches"])


async def test_an_event_wakes_the_job_that_waits_for_it(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """At a match: cache[step] = true, due at once; the wait is gone and the payload is as the app stored it."""
    job_id = await park(connection)
    before = await live(connection, job_id)
    await wait_event(connection, "run", "paid", "order", "7", step="pay")
    assert (await live(connection, job_id))["state"] == "scheduled"
    await trigger(connection, "paid", "order", "7")
    row = await live(connection, job_id)

    assert (row["state"], row["payload"]) == ("ready", before["payload"])
    assert row["run_at"] < before["run_at"]
    assert await count(connection, "wait") == 0
    leased = await daemon.lease_one()
    assert (leased.id, leased.attempts, json.loads(leased.patches or "")) == (job_id, 1, [["pay", True]])


async def test_only_a_match_wakes(connection: asyncpg.Connection) -> None:
    """Another event, key or value does not, nor parts of them put together otherwise."""
    job_id = await park(connection)
    await wait_event(connection, "run", "paid", "order", "7")
    for others in [("Paid", "order", "7"), ("paid", "order", "8"), ("paid", "orde", "r7"), ("paidorder", "", "7")]:
        await trigger(connection, *others)
    await trigger_invoker(connection, "run", "1")

    assert ((await live(connection, job_id))["state"], await count(connection, "wait")) == ("scheduled", 1)


async def test_a_wait_times_out(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """At run_at the job is due as it was stored; the promoter removes the wait and counts it; then an event is late."""
    event, invocation = await park(connection), await park(connection, "other")
    await wait_event(connection, "run", "paid", "order", "7")
    await wait_invocation(connection, "other", "callee")
    await connection.execute("update slayq.job set run_at = now() - interval '1 s'")
    promoted = await daemon.store.promote(10)

    assert (promoted.count, promoted.expired_events, promoted.expired_invocations) == (2, 1, 1)
    assert await count(connection, "wait") == 0
    await trigger(connection, "paid", "order", "7")
    assert [(each.id, each.patches) for each in await daemon.lease(free=5)] == [(event, None), (invocation, None)]


async def test_an_event_between_the_two_calls_is_found(connection: asyncpg.Connection) -> None:
    """An event that fires after the app's re-add and before its wait_for_worker_event counts."""
    job_id = await park(connection)
    await trigger(connection, "paid", "order", "7")
    await wait_event(connection, "run", "paid", "order", "7", step="pay")

    assert ((await live(connection, job_id))["state"], await patches(connection, job_id)) == ("ready", [["pay", True]])
    assert await count(connection, "wait") == 0


async def test_an_event_before_the_re_add_does_not_count(connection: asyncpg.Connection) -> None:
    """Looking back ends at the time the continuation was added: an event of long ago wakes nobody."""
    await trigger(connection, "paid", "order", "7")
    job_id = await park(connection)
    await wait_event(connection, "run", "paid", "order", "7")
    assert ((await live(connection, job_id))["state"], await count(connection, "wait")) == ("scheduled", 1)


async def test_looking_back_compares_everything(connection: asyncpg.Connection) -> None:
    """Only the very event, key and value are found; an invocation's result is no event."""
    job_id = await park(connection)
    await trigger(connection, "paid", "order", "8")
    await trigger(connection, "", "invocation", "callee")
    await trigger_invoker(connection, "7", "true")
    await wait_event(connection, "run", "paid", "order", "7")
    await wait_invocation(connection, "run", "callee")
    assert ((await live(connection, job_id))["state"], await count(connection, "wait")) == ("scheduled", 2)


async def test_one_event_wakes_all_who_wait_for_it(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A hundred waiters, ninety for the same value: those ninety go on, each with its own step."""
    for n in range(100):
        await park(connection, f"run {n}")
        await wait_event(connection, f"run {n}", "paid", "order", "7" if n < 90 else "8", step=f"step {n}")
    await trigger(connection, "paid", "order", "7")

    leased = await daemon.lease(free=200)
    assert {each.job_key: json.loads(each.patches or "") for each in leased} == {
        f"run {n}": [[f"step {n}", True]] for n in range(90)
    }
    assert await count(connection, "wait") == 10


RESULTS = ["null", "0", '"text"', "[1, 2]", '{"a": {"b": 1e400}}', '"\\u0000 \\ud800"', "  true "]


@pytest.mark.parametrize("result", RESULTS)
async def test_a_result_reaches_every_invoker(connection: asyncpg.Connection, result: str) -> None:
    """cache[step] = result in every waiting invoker, due at once, the JSON text as it was given."""
    for n in range(5):
        await park(connection, f"run {n}")
        await wait_invocation(connection, f"run {n}", "callee", step=f"call {n}")
    await trigger_invoker(connection, "callee", result)

    for n in range(5):
        row = await live(connection, f"run {n}")
        assert (row["state"], row["patches"].replace(" ", "")) == ("ready", f'[["call{n}",{result}]]'.replace(" ", ""))
    assert await count(connection, "wait") == 0


async def test_sql_null_is_json_null(connection: asyncpg.Connection) -> None:
    """A callee that returns nothing (the supabase driver sends null) lets its invoker go on, even a late one."""
    early, late = await park(connection, "early"), await park(connection, "late")
    await wait_invocation(connection, "early", "callee", step="call")
    await trigger_invoker(connection, "callee", None)
    await wait_invocation(connection, "late", "callee", step="call")

    for job_id in (early, late):
        assert await patches(connection, job_id) == [["call", None]]
        assert (await live(connection, job_id))["state"] == "ready"


async def test_a_callee_that_ends_first(connection: asyncpg.Connection) -> None:
    """A result that comes before anything waits for it is kept; of two the first counts."""
    job_id = await park(connection)
    await trigger_invoker(connection, "callee", '{"n": 1}')
    await trigger_invoker(connection, "callee", '{"n": 2}')
    await wait_invocation(connection, "run", "callee", step="call")
    assert await patches(connection, job_id) == [["call", {"n": 1}]]


@pytest.mark.parametrize("step", STEP_NAMES, ids=range(len(STEP_NAMES)))
async def test_any_step_name_works(connection: asyncpg.Connection, step: str) -> None:
    """Commas, braces, quotes, dots, unicode, empty: the name comes out of the patches as it went in."""
    event, invoker = await park(connection, "event"), await park(connection, "invoker")
    await wait_event(connection, "event", "paid", "order", "7", step=step)
    await wait_invocation(connection, "invoker", "callee", step=step)
    await trigger(connection, "paid", "order", "7")
    await trigger_invoker(connection, "callee", '{"x": 1}')

    assert await patches(connection, event) == [[step, True]]
    assert await patches(connection, invoker) == [[step, {"x": 1}]]


@pytest.mark.parametrize("name", STEP_NAMES[1:], ids=range(len(STEP_NAMES) - 1))
async def test_any_event_key_and_value_work(connection: asyncpg.Connection, name: str) -> None:
    """What is compared is the text, whatever is in it; for job keys, too (up to their 512 characters)."""
    key = name[:512]
    job_id, invoker = await park(connection, key), await park(connection, "invoker")
    await wait_event(connection, key, name, name, name)
    await wait_invocation(connection, "invoker", key)
    await trigger(connection, name, name, name)
    await trigger_invoker(connection, key, "1")

    assert (await live(connection, job_id))["state"] == "ready"
    assert (await live(connection, invoker))["state"] == "ready"


async def test_a_trigger_for_nobody(connection: asyncpg.Connection) -> None:
    """No error, whatever is null."""
    await trigger(connection, "paid", "order", "7")
    await trigger(connection, "paid", "order", None)
    await trigger(connection, None, None, None)
    await trigger_invoker(connection, "nobody", "1")
    await trigger_invoker(connection, None, "1")
    assert await count(connection) == 0


@pytest.mark.parametrize("missing", range(5))
async def test_a_wait_that_is_incomplete(connection: asyncpg.Connection, missing: int) -> None:
    """A null among what a wait is made of is refused: SQ007, with a hint."""
    await park(connection)
    arguments = ["run", "paid", "order", "7", "step"]
    event = [None if n == missing else each for n, each in enumerate(arguments)]
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.execute("select wait_for_worker_event($1, $2, $3, $4, $5, now())", *event)
    assert (refused.value.sqlstate, "_step_name" in refused.value.as_dict()["hint"]) == ("SQ007", True)
    invocation = [None if n == missing % 3 else each for n, each in enumerate(arguments[:3])]
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.execute("select wait_for_invocation($1, $2, $3)", *invocation)
    assert refused.value.sqlstate == "SQ007"
    assert await count(connection, "wait") == 0


async def test_a_wait_for_a_job_that_is_gone_due_or_leased(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Nothing to park, no error, no wait left behind; the job is not touched."""
    await add(connection, "due")
    await add(connection, "leased", priority=-1)
    leased = await daemon.lease_one()
    assert leased.job_key == "leased"
    for key in ("gone", "due", "leased"):
        await wait_event(connection, key, "paid", "order", "7")
        await wait_invocation(connection, key, "callee")
    await trigger(connection, "paid", "order", "7")

    assert await count(connection, "wait") == 0
    assert await patches(connection, "due") is None
    assert (await daemon.complete(leased)).verdicts == {leased.id: "settled"}


async def test_a_trigger_for_a_job_that_is_gone(connection: asyncpg.Connection) -> None:
    """A wait whose job went another way does no harm, and goes."""
    job_id = await park(connection)
    await wait_event(connection, "run", "paid", "order", "7")
    await connection.execute("delete from slayq.job where id = $1", job_id)
    await trigger(connection, "paid", "order", "7")
    assert await count(connection, "wait") == 0


async def test_an_event_triggered_twice(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A wait has one outcome: the second event changes nothing, before and after the lease."""
    await park(connection)
    await wait_event(connection, "run", "paid", "order", "7", step="pay")
    for _ in range(2):
        await trigger(connection, "paid", "order", "7")
    assert await patches(connection, "run") == [["pay", True]]
    leased = await daemon.lease_one()
    await trigger(connection, "paid", "order", "7")
    await daemon.complete(leased)
    assert await count(connection) == 0


async def test_the_same_wait_twice(connection: asyncpg.Connection) -> None:
    """An app that repeats its call waits once."""
    await park(connection)
    for _ in range(2):
        await wait_event(connection, "run", "paid", "order", "7", step="pay")
        await wait_invocation(connection, "run", "callee", step="call")
    assert await count(connection, "wait") == 2


async def test_a_job_that_is_due_waits_for_nothing_else(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Of several waits of one job the first to end wakes it; the others go with it and leave nothing behind."""
    await park(connection)
    await wait_event(connection, "run", "paid", "order", "7", step="pay")
    await wait_event(connection, "run", "refused", "order", "7", step="refuse")
    await trigger(connection, "paid", "order", "7")
    assert await count(connection, "wait") == 0
    await trigger(connection, "refused", "order", "7")
    leased = await daemon.lease_one()
    assert json.loads(leased.patches or "") == [["pay", True]]


async def test_patches_stay_through_retries(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A continuation that fails after its wait has ended keeps what it waited for, into its dead letter and back."""
    job_id = await park(connection)
    await wait_event(connection, "run", "paid", "order", "7", step="pay")
    await trigger(connection, "paid", "order", "7")
    await daemon.fail(await daemon.lease_one())
    (again,) = await next_due(daemon, connection, job_id)
    assert json.loads(again.patches or "") == [["pay", True]]
    await daemon.bury(again)
    assert await connection.fetchval("select slayq._redrive_1(array[$1::bigint])", job_id) == job_id
    assert json.loads((await daemon.lease_one()).patches or "") == [["pay", True]]


async def test_a_continuation_of_a_serial_queue(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Woken, it takes its turn in its lane: through the promoter, behind whoever holds it."""
    await add(connection, serial="lane")
    await daemon.store.promote(10)
    holder = await daemon.lease_one()
    job_id = await park(connection, serial="lane")
    await wait_event(connection, "run", "paid", "order", "7")
    await trigger(connection, "paid", "order", "7")
    assert (await live(connection, job_id))["state"] == "scheduled"
    await daemon.store.promote(10)
    assert (await live(connection, job_id))["state"] == "blocked"
    await daemon.complete(holder)
    assert (await daemon.lease_one()).id == job_id


async def test_a_run_that_waits_for_one_event_again_and_again(
    connection: asyncpg.Connection, daemon: Daemon, store: Store
) -> None:
    """A loop in an app: each wait needs an event of its own; one event is never counted for two waits."""
    await add(connection, "run")
    for n in range(3):
        leased = await daemon.lease_one()
        await park(connection)
        await wait_event(connection, "run", "tick", "k", "v", step=f"wait {n}")
        await daemon.complete(leased)
        assert (await store.promote(10)).count == 0
        assert await daemon.lease(free=5) == []
        await trigger(connection, "tick", "k", "v")
    assert json.loads((await daemon.lease_one()).patches or "") == [["wait 2", True]]
