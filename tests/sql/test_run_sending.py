"""Registering apps, sending events and cancelling runs through the SQL API; every bad input by name."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from slayq_server.db.statements import query
from tests.sql.runs import CANCELLED, PAID, PLACED, QUEUE, RENDER, RunsDaemon, manifest, register, send
from tests.sql.support import blocked_by, count, later

if TYPE_CHECKING:
    from tests.conftest import Connect


async def refused(connection: asyncpg.Connection, call: str, *args: object) -> tuple[str, str]:
    """The SQLSTATE and the message of a call that is refused with a hint."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await connection.fetch(call, *args)
    assert caught.value.hint, "every error says what to do"
    assert caught.value.sqlstate is not None
    return caught.value.sqlstate, str(caught.value)


async def events_of(connection: asyncpg.Connection) -> list[str]:
    """The events of all runs there are, in order."""
    return [row["event"] for row in await connection.fetch("select event from slayq.job order by id")]


# Registering


async def test_registering_replaces_what_the_app_had(connection: asyncpg.Connection) -> None:
    """Functions, what cancels them and what they wait for go with a manifest that lacks them; other apps' stay."""
    await register(connection)
    await register(connection, {"event": "other/run"}, app="other")
    assert 2 == await count(connection, "interest")
    told = await register(connection, {"event": PLACED, "queue": "orders", "retries": 0, "priority": 3})
    assert {"functions": 1, "warnings": []} == told
    rows = await connection.fetch("select event, app, queue, max_attempts, priority from slayq.function order by event")
    assert [("other/run", "other", "general", 26, 0), (PLACED, "shop", "orders", 1, 3)] == [tuple(row) for row in rows]
    assert 0 == await count(connection, "interest")


async def test_registering_the_same_again_writes_nothing(connection: asyncpg.Connection) -> None:
    """Each process of an app registers when it starts: only the first one changes a row."""
    await register(connection)
    before = await connection.fetch("select xmin, * from slayq.function")
    await register(connection)
    assert before == await connection.fetch("select xmin, * from slayq.function")


async def test_an_invoked_event_that_no_app_registers(connection: asyncpg.Connection) -> None:
    """It is said, and is no error: the other app may come later."""
    for _ in range(2):
        told = await register(connection, {"event": PLACED, "invokes": [RENDER]})
        assert 1 == len(told["warnings"])
        assert RENDER in told["warnings"][0]


async def test_an_event_of_another_app(connection: asyncpg.Connection) -> None:
    """Two apps cannot have a function for one event; the error names the owner, and nothing changes."""
    await register(connection)
    state, message = await refused(connection, "select slayq.register($1)", manifest({"event": PLACED}, app="other"))
    assert ("SQ013", True, True) == (state, PLACED in message, "'shop'" in message)
    assert 1 == await count(connection, "app")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("null", "object"),
        ("[]", "object"),
        ("{}", "app"),
        ('{"app": ""}', "app"),
        ('{"app": 5, "url": "https://a.example"}', "app"),
        ('{"app": "a"}', "url"),
        ('{"app": "a", "url": "ftp://a.example"}', "url"),
        ('{"app": "a", "url": "https://u:p@a.example/"}', "url"),
        ('{"app": "a", "url": "https://a.example", "functions": {}}', "functions"),
        ('{"app": "a", "url": "https://a.example", "functions": [5]}', "function"),
        ('{"app": "a", "url": "https://a.example", "functions": [{}]}', "event"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e"}, {"event": "e"}]}', "two functions"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "retries": -1}]}', "retries"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "retries": 1.5}]}', "retries"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "priority": -1}]}', "priority"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "queue": ""}]}', "queue"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "queue": "@x"}]}', "queue"),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "waits_on": "x"}]}', "waits_on"),
        (
            '{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "waits_on": [{"event": "x"}]}]}',
            "match",
        ),
        ('{"app": "a", "url": "https://a.example", "functions": [{"event": "e", "cancel_on": [5]}]}', "cancel_on"),
        ('{"app": "a\\u0000", "url": "https://a.example"}', "NUL"),
    ],
)
async def test_bad_manifests(connection: asyncpg.Connection, given: str, names: str) -> None:
    """Each is refused by an error that names what is wrong."""
    state, message = await refused(connection, "select slayq.register($1)", given)
    assert state in ("SQ012", "SQ006")
    assert names in message


async def test_schedules_of_functions(connection: asyncpg.Connection) -> None:
    """A new cron text waits to be planned, the same one stays planned; a manifest without it ends the schedule."""
    nightly = {"event": "shop/nightly", "cron": "0 3 * * *"}

    async def schedules() -> list[tuple[Any, ...]]:
        rows = await connection.fetch(query("schedules_functions"))
        return [(row["id"], row["cron"], row["planned"]) for row in rows]

    await register(connection, nightly)
    assert [("function:shop/nightly", "0 3 * * *", False)] == await schedules()
    tick = later()
    await connection.execute(query("schedules_plan"), "function:shop/nightly", "1 1 * * *", tick)
    assert not (await schedules())[0][2], "another daemon read an older text"
    await connection.execute(query("schedules_plan"), "function:shop/nightly", "0 3 * * *", tick)
    await register(connection, nightly, {"event": "shop/other"})
    assert [("function:shop/nightly", "0 3 * * *", True)] == await schedules()
    await register(connection, {**nightly, "cron": "0 4 * * *"})
    assert [("function:shop/nightly", "0 4 * * *", False)] == await schedules()
    assert tick != await connection.fetchval("select next_at from slayq.schedule")
    await register(connection, {"event": "shop/nightly"})
    assert [] == await schedules()


async def test_an_app_that_takes_long_to_register_holds_up_no_schedules(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    """A daemon neither waits for it, nor is put out by a schedule that has no next tick yet."""
    await register(connection, {"event": "shop/nightly", "cron": "0 3 * * *"})
    other = await connect()
    async with other.transaction():
        await register(other, {"event": "shop/nightly", "cron": "0 4 * * *"})
        await connection.execute("set statement_timeout = '2s'")
        await connection.execute(query("schedules_plan"), "function:shop/nightly", "0 3 * * *", later())
        assert [] == await connection.fetch(query("schedules_times"), ["function:shop/nightly"])
    await connection.execute(query("schedules_plan"), "function:shop/nightly", "0 4 * * *", later())
    assert 1 == len(await connection.fetch(query("schedules_times"), ["function:shop/nightly"]))


# Sending


async def test_sending_joins_the_callers_transaction(connection: asyncpg.Connection) -> None:
    """Rolled back, nothing was sent."""
    await register(connection)
    transaction = connection.transaction()
    await transaction.start()
    await send(connection, PLACED, {"order": 7})
    await send(connection, PAID, {"order": 7})
    await transaction.rollback()
    assert (0, 0) == (await count(connection), await count(connection, "event"))


async def test_defaults(connection: asyncpg.Connection) -> None:
    """No data is an empty object; queue, priority and attempts are the function's."""
    await register(connection, {"event": PLACED, "queue": "orders", "priority": 2, "retries": 4})
    await connection.execute("select slayq.send($1)", PLACED)
    row = await connection.fetchrow("select queue, priority, max_attempts, state, payload from slayq.job")
    assert row is not None
    assert ("orders", 2, 5, "ready") == tuple(row)[:4]
    assert {} == json.loads(row["payload"])["data"]


async def test_sending_for_later(connection: asyncpg.Connection) -> None:
    """The run begins at its time."""
    await register(connection)
    at = later()
    await send(connection, PLACED, run_at=at)
    assert ("scheduled", at) == tuple(await connection.fetchrow("select state, run_at from slayq.job") or ())


async def test_an_id_makes_one_run(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Sending it twice gives the same run, also when that has ended; with another event it is an error."""
    await register(connection)
    first = await send(connection, PLACED, {"order": 7}, id="once")
    assert first == await send(connection, PLACED, {"order": 8}, id="once")
    await runs.flush((await runs.lease_one()).ends("done"))
    assert first == await send(connection, PLACED, {"order": 7}, id="once")
    assert 0 == await count(connection)
    state, message = await refused(connection, "select slayq.send($1, '{}', 'once')", RENDER)
    assert ("SQ014", True) == (state, PLACED in message)


@pytest.mark.parametrize("commits", [True, False])
async def test_two_senders_of_one_id(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """The second waits for the first: if that commits there is one run, if not the second makes it."""
    await register(connection)
    one, other = await connect(), await connect()
    transaction = one.transaction()
    await transaction.start()
    first = await send(one, PLACED, id="once")
    waiting = asyncio.ensure_future(send(other, PLACED, id="once"))
    await blocked_by(connection, one, other)
    await (transaction.commit() if commits else transaction.rollback())
    second = await waiting
    assert (first == second) == commits
    assert 1 == await count(connection)


async def test_many_in_order(connection: asyncpg.Connection) -> None:
    """One call sends all; a run's id for each that is a function's, null for the others."""
    await register(connection)
    batch = [
        {"event": RENDER},
        {"event": PAID, "data": {"order": 1}},
        {"event": PLACED, "data": {"order": 2}, "id": "x"},
    ]
    rows = await connection.fetch("select run from slayq.send_many($1) as run", json.dumps(batch))
    assert [False, True, False] == [row["run"] is None for row in rows]
    assert [RENDER, PLACED] == await events_of(connection)


async def test_many_or_none(connection: asyncpg.Connection) -> None:
    """One that cannot be sent keeps all from being sent."""
    await register(connection)
    batch = json.dumps([{"event": RENDER}, {"event": "shop/nobody"}])
    state, message = await refused(connection, "select slayq.send_many($1)", batch)
    assert ("SQ010", True) == (state, "shop/nobody" in message)
    assert 0 == await count(connection)


@pytest.mark.parametrize(
    ("batch", "state", "names"),
    [
        ("{}", "SQ011", "array"),
        ("null", "SQ011", "array"),
        ("[5]", "SQ011", "event 0"),
        ('[{"event": "shop/render"}, {"data": {}}]', "SQ011", "event 1"),
        ('[{"event": "shop/render", "Data": {}}]', "SQ011", "'Data'"),
        ('[{"event": "shop/render", "run_at": "soon"}]', "SQ005", "run_at"),
        ('[{"event": "shop/render", "priority": "high"}]', "SQ005", "priority"),
        ('[{"event": "shop/render", "data": {"a": "\\u0000"}}]', "SQ011", "NUL"),
    ],
)
async def test_bad_batches(connection: asyncpg.Connection, batch: str, state: str, names: str) -> None:
    """Each is refused by an error that names what is wrong."""
    await register(connection)
    got, message = await refused(connection, "select slayq.send_many($1)", batch)
    assert (state, True) == (got, names in message)


@pytest.mark.parametrize(
    ("call", "state", "names"),
    [
        ("slayq.send('shop/nobody')", "SQ010", "shop/nobody"),
        ("slayq.send('')", "SQ007", "name"),
        ("slayq.send(null)", "SQ007", "name"),
        ("slayq.send(repeat('x', 513))", "SQ007", "512"),
        ("slayq.send('shop/render', '[]')", "SQ011", "array"),
        ("slayq.send('shop/render', '5')", "SQ011", "number"),
        ("slayq.send('shop/render', '{\"a\": \"\\u0000\"}')", "SQ011", "NUL"),
        ("slayq.send('shop/render', '{\"a\": \"\\ud800\"}')", "SQ011", "surrogate"),
        ("slayq.send('shop/render', json_build_object('a', repeat('x', 4194304)))", "SQ002", "4194304"),
        ("slayq.send('shop/render', '{}', '')", "SQ007", "id"),
        ("slayq.send('shop/render', '{}', repeat('x', 513))", "SQ007", "512"),
        ("slayq.send('shop/render', '{}', null, 'infinity')", "SQ005", "run_at"),
        ("slayq.send('shop/render', '{}', null, null, 40000)", "SQ005", "priority"),
    ],
)
async def test_bad_sends(connection: asyncpg.Connection, call: str, state: str, names: str) -> None:
    """Each is refused by an error that names what is wrong; nothing is left of it."""
    await register(connection)
    got, message = await refused(connection, f"select {call}")
    assert (state, True) == (got, names in message)
    assert (0, 0) == (await count(connection), await count(connection, "sent"))


async def test_a_trace_that_is_none(connection: asyncpg.Connection) -> None:
    """A sender's odd traceparent is no reason to lose its event: it is left out."""
    await register(connection)
    await send(connection, PLACED, traceparent="who knows")
    assert await connection.fetchval("select traceparent from slayq.job") is None


# Cancelling


async def test_an_event_cancels(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Pending runs of that value go, one that is being delivered is marked; those of another value stay."""
    await register(connection)
    for order in (7, 7, 8):
        await send(connection, PLACED, {"order": order})
    leased = await runs.lease_one()
    await send(connection, CANCELLED, {"order": 7})
    rows = await connection.fetch("select state, cancelled from slayq.job order by id")
    assert [("leased", True), ("ready", False)] == [tuple(row) for row in rows]
    cancelled = await connection.fetch(query("runs_cancelled"), runs.daemon.worker_id)
    assert [(leased.id, leased.lease)] == [tuple(row) for row in cancelled]
    assert ["dropped"] == await runs.ended(leased.step("a"))
    assert ["dropped"] == await runs.ended(leased.step("a").ends("retried", error="x", delay=0.0))
    assert (1, 0) == (await count(connection), await count(connection, "step"))


async def test_never_the_run_that_this_very_send_creates(connection: asyncpg.Connection) -> None:
    """A function that the event which starts it also cancels: each send ends the run before."""
    await register(connection, {"event": PLACED, "cancel_on": [{"event": PLACED, "match": "order"}]})
    first = await send(connection, PLACED, {"order": 7})
    second = await send(connection, PLACED, {"order": 7})
    assert first != second
    assert [second] == [row["run_id"] for row in await connection.fetch("select run_id from slayq.job")]


async def test_cancelling_a_run(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Pending, parked or leased: nothing of it comes back. There is none: false."""
    await register(connection)
    cancel = "select slayq.cancel($1)"
    assert not await connection.fetchval(cancel, uuid4())
    ready = await send(connection, PLACED)
    assert await connection.fetchval(cancel, ready)
    assert not await connection.fetchval(cancel, ready)
    parked = await send(connection, PLACED)
    await runs.flush((await runs.lease_one()).step("a").sleep("nap").ends("suspended"))
    assert await connection.fetchval(cancel, parked)
    assert (0, 0) == (await count(connection), await count(connection, "step"))
    leased = await send(connection, PLACED)
    segment = await runs.lease_one()
    assert await connection.fetchval(cancel, leased)
    assert ["dropped"] == await runs.ended(segment.sleep("nap").ends("suspended"))
    assert 0 == await count(connection)


async def test_a_cancel_wakes_the_daemon(connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon) -> None:
    """The word goes out only if the run is being delivered."""
    await register(connection)
    await runs.daemon.store.want(runs.daemon.worker_id, ["@cancel", "@events", QUEUE])
    listener = await connect()
    heard: list[str] = []
    await listener.add_listener("slayq", lambda *args: heard.append(args[3]))
    await send(connection, PLACED, {"order": 7})
    segment = await runs.lease_one()
    await connection.execute("select slayq.cancel($1)", segment.run["id"])
    await send(connection, PAID, {"order": 7})
    await listener.execute("select")
    assert [QUEUE, "@cancel", "@events"] == heard


# Names and volumes


async def test_prune_forgets_events_no_run_waits_for(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """An old event goes unless a run that began before it may still wait for it; ids of sends go by age."""
    await register(connection)
    await send(connection, PAID, {"order": 1})
    await send(connection, PLACED, {"order": 2}, id="old")
    await send(connection, PAID, {"order": 2})
    await runs.match()
    await connection.execute("update slayq.sent set created_at = created_at - interval '2 days'")
    await connection.execute("update slayq.event set created_at = created_at - interval '2 days'")
    await connection.execute("update slayq.job set created_at = created_at - interval '2 days'")
    assert 1 == await connection.fetchval(query("prune_events"), 86400.0, 100)
    assert ["2"] == [row["match_value"] for row in await connection.fetch("select match_value from slayq.event")]
    await runs.flush((await runs.lease_one()).ends("done"))
    assert 1 == await connection.fetchval(query("prune_events"), 86400.0, 100)
    assert 1 == await connection.fetchval(query("prune_sent"), 86400.0, 100)


async def test_prune_keeps_events_for_dead_runs(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Put back, such a run may wait for what happened since it began; purged, it keeps nothing."""
    await register(connection)
    await send(connection, PLACED, {"order": 7})
    await runs.flush((await runs.lease_one()).ends("dead", error="no", reason="no-retry"))
    await connection.execute("update slayq.dead_letter set created_at = now() - interval '3 days'")
    await send(connection, PAID, {"order": 7})
    await runs.match()
    await connection.execute("update slayq.event set created_at = now() - interval '2 days'")
    assert 0 == await connection.fetchval(query("prune_events"), 86_400.0, 10)
    await connection.execute("delete from slayq.dead_letter")
    assert 1 == await connection.fetchval(query("prune_events"), 86_400.0, 10)


async def test_what_is_kept_for_an_old_run_costs_pruning_nothing(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """A run that lives for months keeps all the events that it may wait for; they are not gone through each minute."""
    await register(connection)
    await send(connection, PLACED, {"order": 7})
    await connection.execute("update slayq.job set created_at = now() - interval '60 days'")
    await connection.execute(
        """insert into slayq.event (kind, term, event, match_key, match_value, value, matched, created_at)
        select 'event', n, name, 'order', n, '{}', true, now() - interval '30 days'
        from generate_series(1, 20000) as n, (values ($1), ('shop/other')) as names (name) where name = $1 or n <= 5""",
        PAID,
    )
    await connection.execute("analyze slayq.event")
    async with connection.transaction():
        plan = await connection.fetchval(
            f"explain (analyze, buffers, format json) {query('prune_events')}", 86_400.0, 10
        )
    (explained,) = json.loads(plan)
    assert explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"] < 300
    assert 20_000 == await connection.fetchval("select count(*) from slayq.event")


async def test_ids_are_uuids(connection: asyncpg.Connection) -> None:
    """What a send returns is what the app will see."""
    await register(connection)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(await send(connection, PLACED)))
