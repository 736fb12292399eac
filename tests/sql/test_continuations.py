"""A job added again under its own key while it is delivered: sleeps, failed steps, fresh jobs (protocol v1, 3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.model import QueueFacts
from tests.sql.support import Daemon, add, count, data_of, job, later, live, next_due

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob

REPORT = "the app reported that a step failed"
CACHE = {"first": {"id": 1}}


@pytest.fixture
async def _plain_back_off(store: Store) -> None:
    """Back-off without jitter: 10, 20, 40 s."""
    await store.register_queues([QueueFacts("mail", None, 10.0, 2.0, 10, None, 0.0, False)])


async def start(connection: asyncpg.Connection, daemon: Daemon, **options: Any) -> LeasedJob:
    """A run under the key k whose delivery is on its way."""
    await add(connection, "k", {"n": 1}, **options)
    return await daemon.lease_one()


async def test_a_sleep_is_a_job_of_attempts_zero(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A key added with a time and a cache is the continuation, due then, its attempts counted from the start."""
    leased = await start(connection, daemon)
    wake = later(hours=2)
    asleep = await add(connection, "k", {"n": 1}, cache=CACHE, run_at=wake)
    await daemon.complete(leased)

    assert (asleep["state"], asleep["run_at"], asleep["attempts"], asleep["last_error"]) == ("scheduled", wake, 0, None)
    (woken,) = await next_due(daemon, connection, asleep["id"])
    assert (woken.attempts, json.loads(woken.payload)["cache"]) == (1, CACHE)


async def test_a_sleep_that_is_over_already(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A time that has passed makes a continuation that is due at once."""
    leased = await start(connection, daemon)
    asleep = await add(connection, "k", {"n": 1}, cache=CACHE, run_at=later(seconds=-5))
    await daemon.complete(leased)
    assert asleep["state"] == "ready"
    assert (await daemon.lease_one()).attempts == 1


async def test_the_same_key_without_a_cache_is_a_fresh_job(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Sent from elsewhere while it runs: due at once, attempts 0, its own data."""
    leased = await start(connection, daemon, max_attempts=1)
    fresh = await add(connection, "k", {"n": 2})
    await daemon.complete(leased)

    assert (fresh["state"], fresh["attempts"], fresh["max_attempts"]) == ("ready", 0, 25)
    assert data_of(await daemon.lease_one()) == {"n": 2}


@pytest.mark.usefixtures("_plain_back_off")
async def test_a_failed_step_carries_the_attempts_on(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A key added with a cache and no time is a failed attempt: attempts go on, back-off applies, the cache is kept."""
    leased = await start(connection, daemon)
    delays = []
    for attempt in range(1, 4):
        assert leased.attempts == attempt
        before = await connection.fetchval("select now()")
        failed = await add(connection, "k", {"n": 1}, cache={"done": attempt})
        await daemon.complete(leased)

        assert (failed["state"], failed["attempts"], failed["last_error"]) == ("scheduled", attempt, REPORT)
        delays.append((failed["run_at"] - before).total_seconds())
        (leased,) = await next_due(daemon, connection, failed["id"])
        assert json.loads(leased.payload)["cache"] == {"done": attempt}
    assert delays == pytest.approx([10.0, 20.0, 40.0], abs=1.0)


async def test_the_answer_after_the_report_changes_nothing(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The delivery that reported a failed step ends in any way: the continuation is as it was."""
    for ending in (daemon.complete, daemon.fail, daemon.bury, daemon.release):
        leased = await start(connection, daemon)
        failed = await add(connection, "k", cache=CACHE)
        await ending(leased)

        assert await job(connection, leased.id) is None
        assert dict(await live(connection, "k")).items() >= {"id": failed["id"], "attempts": 1}.items()
        assert (await count(connection), await count(connection, "dead_letter")) == (1, 0)
        await connection.execute("select slayq.remove_job('k')")


async def test_a_second_report_does_not_give_the_attempts_back(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Two steps that fail side by side each report: attempts, error, time and limit stay, the newer cache is kept."""
    leased = await start(connection, daemon, max_attempts=4)
    first = await add(connection, "k", cache={"a": 1})
    second = await add(connection, "k", cache={"a": 1, "b": 2})
    await daemon.complete(leased)

    assert second["id"] == first["id"]
    for column in ("attempts", "last_error", "run_at", "state", "max_attempts"):
        assert (column, second[column]) == (column, first[column])
    assert second["max_attempts"] == 4
    assert json.loads((await live(connection, "k"))["payload"])["cache"] == {"a": 1, "b": 2}


async def test_a_report_after_the_lease_was_lost(connection: asyncpg.Connection, daemon: Daemon, store: Store) -> None:
    """A delivery that outlives its lease reports a failed step: the reaped job keeps its attempts, gets the cache."""
    leased = await start(connection, daemon)
    await daemon.expire(connection)
    await store.reap(10)
    reported = await add(connection, "k", cache=CACHE)

    assert (reported["id"], reported["attempts"], reported["state"]) == (leased.id, 1, "ready")
    again = await (await Daemon.register(store)).lease_one()
    assert (again.attempts, json.loads(again.payload)["cache"]) == (2, CACHE)


async def test_a_report_while_the_retry_is_waiting(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A delivery that timed out for us but went on reports a failed step: attempts and the retry's time stay."""
    leased = await start(connection, daemon)
    await daemon.fail(leased)
    waiting = await live(connection, "k")
    reported = await add(connection, "k", cache=CACHE)
    assert (reported["attempts"], reported["run_at"], reported["state"]) == (1, waiting["run_at"], "scheduled")


async def test_at_max_attempts_a_failed_step_is_a_dead_letter(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The last attempt's report leaves a dead letter that keeps the finished steps; the key is free."""
    leased = await start(connection, daemon, max_attempts=2)
    failed = await add(connection, "k", {"n": 1}, cache=CACHE)
    await daemon.complete(leased)
    (leased,) = await next_due(daemon, connection, failed["id"])
    ended = await add(connection, "k", {"n": 1}, cache={**CACHE, "second": 2})
    await daemon.complete(leased)
    (dead,) = await connection.fetch("select * from slayq.dead_letter")

    assert ended["id"] is None
    assert await count(connection) == 0
    assert (dead["reason"], dead["attempts"], dead["max_attempts"]) == ("attempts-exhausted", 2, 2)
    assert (dead["job_key"], dead["last_error"], dead["event"]) == ("k", REPORT, "shop/order")
    assert json.loads(dead["payload"])["cache"] == {**CACHE, "second": 2}
    assert (await add(connection, "k"))["id"] is not None


async def test_a_second_report_at_max_attempts(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Two steps that fail side by side in the last attempt: one dead letter with the newer cache, and no new run."""
    leased = await start(connection, daemon, max_attempts=1)
    await add(connection, "k", {"n": 1}, cache={"a": 1})
    await add(connection, "k", {"n": 1}, cache={"a": 1, "b": 2})
    await daemon.complete(leased)
    letters = await connection.fetch("select payload from slayq.dead_letter")

    assert await count(connection) == 0
    assert [json.loads(each["payload"])["cache"] for each in letters] == [{"a": 1, "b": 2}]


async def test_a_report_after_the_dead_letter(connection: asyncpg.Connection, daemon: Daemon, store: Store) -> None:
    """The daemon died with the last attempt, the app reports later: the letter gets the steps, and nothing runs."""
    await start(connection, daemon, max_attempts=1)
    await daemon.expire(connection)
    await store.reap(10)
    for cache in (CACHE, {**CACHE, "second": 2}):
        assert (await add(connection, "k", {"n": 1}, cache=cache))["id"] is None
    (dead,) = await connection.fetch("select * from slayq.dead_letter")

    assert 0 == await count(connection)
    assert ("lease-lost", 1) == (dead["reason"], dead["attempts"])
    assert {**CACHE, "second": 2} == json.loads(dead["payload"])["cache"]


@pytest.mark.parametrize("change", ["died_at = now() - interval '2 hours'", "event = 'shop/other'"])
async def test_a_report_beside_the_dead_letter_of_another_run(
    connection: asyncpg.Connection, daemon: Daemon, change: str
) -> None:
    """An old letter, or one of another event, that happens to have the same key is nothing to do with it."""
    await daemon.bury(await start(connection, daemon))
    await connection.execute(f"update slayq.dead_letter set {change}")
    assert (await add(connection, "k", {"n": 1}, cache=CACHE))["id"] is not None
    assert "cache" not in json.loads(await connection.fetchval("select payload from slayq.dead_letter"))


async def test_a_redriven_run_goes_on_with_its_steps(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Put back, the dead letter of a failed step is due at once with attempts 0, its key and its cache."""
    leased = await start(connection, daemon, max_attempts=1)
    await add(connection, "k", {"n": 1}, cache=CACHE)
    await daemon.complete(leased)
    dead = await connection.fetchval("select id from slayq.dead_letter")
    assert await connection.fetchval("select slayq._redrive_1(array[$1::bigint])", dead) == dead
    again = await daemon.lease_one()

    assert (again.job_key, again.attempts, json.loads(again.payload)["cache"]) == ("k", 1, CACHE)


@pytest.mark.parametrize("sleeps", [True, False])
async def test_nothing_of_a_cancelled_run_comes_back(
    connection: asyncpg.Connection, daemon: Daemon, sleeps: bool
) -> None:
    """Cancelled while delivered: neither its sleep nor its failed step, told once or twice, makes a new row."""
    leased = await start(connection, daemon)
    await connection.execute("select cancel_pending_tasks('shop/order', 'n', '1')")
    for _ in range(2):
        continued = await add(connection, "k", {"n": 1}, cache=CACHE, run_at=later() if sleeps else None)
        assert continued["id"] is None
    assert (await daemon.complete(leased)).verdicts == {leased.id: "settled"}
    assert (await count(connection), await count(connection, "dead_letter")) == (0, 0)


async def test_a_cancelled_run_does_not_block_its_key(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A fresh job may take the key while the cancelled delivery still runs, and again after a continuation of that."""
    leased = await start(connection, daemon)
    await connection.execute("select cancel_pending_tasks('shop/order', 'n', '1')")
    await add(connection, "k", {"n": 1}, cache=CACHE)
    fresh = await add(connection, "k", {"n": 2})
    assert (fresh["state"], fresh["revision"]) == ("ready", 0)
    assert (await daemon.fail(leased)).verdicts == {leased.id: "dropped"}
    assert data_of(await daemon.lease_one()) == {"n": 2}


async def test_a_wait_or_trigger_of_a_cancelled_run_is_no_error(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The app of a cancelled run goes on with its calls: each comes to nothing, none fails."""
    leased = await start(connection, daemon)
    await connection.execute("select cancel_pending_tasks('shop/order', 'n', '1')")
    await add(connection, "k", {"n": 1}, cache=CACHE, run_at=later())
    await connection.execute("select wait_for_worker_event('k', 'e', 'm', 'v', 's', now())")
    await connection.execute("select wait_for_invocation('k', 'callee', 's')")
    await connection.execute("select trigger_waiting_workers('e', 'm', 'v')")
    await daemon.complete(leased)
    assert (await count(connection), await count(connection, "wait")) == (0, 0)


async def test_a_failed_step_keeps_serial_queue_priority_and_queue(
    connection: asyncpg.Connection, daemon: Daemon
) -> None:
    """The app re-adds with what it knows; what it gives is what the continuation has."""
    await add(connection, "k", {"n": 1}, serial="lane", priority=3)
    await daemon.store.promote(10)
    leased = await daemon.lease_one()
    failed = await add(connection, "k", {"n": 1}, cache=CACHE, serial="lane", priority=3)
    settled = await daemon.complete(leased)

    assert settled.verdicts == {leased.id: "settled"}
    assert (failed["queue_name"], failed["priority"], failed["state"]) == ("lane", 3, "scheduled")


async def test_an_empty_cache_is_a_cache(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The very first step may fail: `cache` is {} then. A cache of null is one too; without the member it is none."""
    for cache in ("{}", "null"):
        leased = await start(connection, daemon)
        raw = '{"url":"https://app.example.com/x","event":"shop/order","data":{},"cache":' + cache + "}"
        failed = await add(connection, "k", raw=raw)
        await daemon.complete(leased)
        assert (cache, failed["attempts"], failed["state"]) == (cache, 1, "scheduled")
        await connection.execute("select slayq.remove_job('k')")
