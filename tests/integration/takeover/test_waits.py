"""Taking over what waits: for events, and for the end of jobs that were invoked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slayq_server.db.migrate import Order, carry_out, migrate
from slayq_server.db.takeover import TakenOver
from slayq_server.errors import SchemaError
from tests.integration.takeover.original import our_jobs, snapshot
from tests.integration.takeover.test_moving import LATER, take_over

if TYPE_CHECKING:
    import asyncpg

    from tests.integration.takeover.original import Original
    from tests.support.daemon import Daemons
    from tests.support.endpoint import Endpoint

WAIT = "select wait_for_worker_event($1, 'shop/paid', 'order', '7', $2)"
INVOKE = "select wait_for_invocation($1, $2, $3)"


async def test_a_wait_is_over_when_its_event_comes(
    old: Original, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A function that began to wait in the original goes on here, with its finished steps and the one it waited for."""
    await old.add(url=endpoint.url, job_key="k", run_at=LATER, cache={"first": 1})
    await connection.execute(WAIT, "k", "paid{,}.")
    await daemons.start()
    await connection.execute("select trigger_waiting_workers('shop/paid', 'order', '8')")
    await connection.execute("select trigger_waiting_workers('shop/paid', 'order', '7')")
    (callback,) = await endpoint.wait_for(1)
    assert callback.body["cache"] == {"first": 1, "paid{,}.": True}
    assert (callback.retry, callback.body["job_key"]) == (1, "k")


async def test_every_invoker_gets_the_result(
    old: Original, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Two functions that had invoked one callee in the original, whose job has come along, too."""
    for key in ("one", "two"):
        await old.add(url=endpoint.url, job_key=key, run_at=LATER, cache={})
        await connection.execute(INVOKE, key, "callee", "asked")
    await old.add(url=endpoint.url, job_key="callee")
    await daemons.start()
    await endpoint.wait_for(1)
    await connection.execute("select trigger_waiting_invoker('callee', '{\"answer\": 42}'::json)")
    callbacks = (await endpoint.wait_for(3))[1:]
    assert sorted(callback.body["job_key"] for callback in callbacks) == ["one", "two"]
    assert [callback.body["cache"] for callback in callbacks] == [{"asked": {"answer": 42}}] * 2


async def test_waits_that_mean_nothing_any_more(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """Of a job that is due already, has failed, or that nobody knows, and for a value that is not there."""
    due, failed = await old.add(job_key="due"), await old.add(job_key="failed", max_attempts=1, run_at=LATER)
    await old.set(failed, attempts=1)
    await old.add(job_key="null", run_at=LATER)
    for key in ("due", "failed", "unknown"):
        await connection.execute(WAIT, key, "s")
        await connection.execute(INVOKE, key, "callee", "s")
    await connection.execute("select wait_for_worker_event('null', 'e', 'k', null, 's')")
    assert due < failed
    assert await take_over(database_url) == TakenOver(due=1, later=1, failed=1)
    assert await connection.fetch("select * from slayq.wait") == []


async def test_a_wait_made_twice_counts_once(old: Original, connection: asyncpg.Connection, database_url: str) -> None:
    """One step waits for one thing."""
    await old.add(job_key="k", run_at=LATER)
    for _ in range(2):
        await connection.execute(WAIT, "k", "s")
    assert await take_over(database_url) == TakenOver(later=1, waits=1)


async def test_a_later_run_leaves_the_waits_alone_that_came_along(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """A wait that is over here does not come back, though the original's row is still there; new ones come along."""
    await old.add(job_key="k", run_at=LATER)
    await connection.execute(WAIT, "k", "s")
    await migrate(database_url)
    await connection.execute("delete from slayq.wait")
    late = await old.add(job_key="late", run_at=LATER)
    await connection.execute(
        "insert into slayq._private_waiting_on (job_id, event, match_key, match_value, step_name) "
        "values ($1, 'e', 'k', 'v', 's')",
        late,
    )
    assert await take_over(database_url) == TakenOver(later=1, waits=1)
    assert await connection.fetchval(
        "select array_agg(job_key) from slayq.wait w join slayq.job j on j.id = w.job_id"
    ) == ["late"]


async def test_the_tables_may_name_jobs_by_key_or_by_id(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """The contract does not say which, nor how the columns are spelled."""
    job_id = await old.add(job_key="k", run_at=LATER)
    await connection.execute(
        """
        drop table slayq._private_waiting_on, slayq._private_invoker;
        create table slayq._private_waiting_on
            ("_jobKey" text, _event text, _match_key text, matchval text, "stepName" text, extra integer);
        create table slayq._private_invoker (invoker_job_id bigint, target_key text, step text);
        insert into slayq._private_waiting_on values ('k', 'shop/paid', 'order', '7', 'waited', 1);
        """
    )
    await connection.execute("insert into slayq._private_invoker values ($1, 'callee', 'asked')", job_id)
    assert await take_over(database_url) == TakenOver(later=1, waits=1, invocations=1)
    rows = await connection.fetch(
        "select kind, event, match_key, match_value, target_key, step_name from slayq.wait order by id"
    )
    assert [tuple(row) for row in rows] == [
        ("event", "shop/paid", "order", "7", None, "waited"),
        ("invocation", None, None, None, "callee", "asked"),
    ]


@pytest.mark.parametrize("table", ["_private_waiting_on", "_private_invoker"])
async def test_waits_that_cannot_be_read(
    old: Original, connection: asyncpg.Connection, database_url: str, table: str
) -> None:
    """Refused with the columns there are; forced, the jobs come along and their waits time out."""
    await old.add(job_key="k", run_at=LATER)
    await connection.execute(f"drop table slayq.{table}; create table slayq.{table} (blob json, job_key text)")
    await connection.execute(f"insert into slayq.{table} values ('{{}}', 'k')")
    before = await snapshot(connection)
    with pytest.raises(SchemaError, match=rf"slayq\.{table} has columns that this server does not know \(.*blob"):
        await migrate(database_url)
    assert await snapshot(connection) == before
    tried = await carry_out(database_url, Order(dry_run=True))
    assert len(tried.obstacles) == 1
    assert await take_over(database_url, force=True) == TakenOver(later=1)
    assert [row["run_at"] for row in await our_jobs(connection)] == [LATER]
