"""Two daemons, one schedule whose tick is due; and one that fires while another takes over a new configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from slayq_server.db.statements import query
from tests.sql.races.support import commit_or_not, meet
from tests.sql.support import count, payload

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NEXT = NOON + timedelta(days=36500)
"""No test lives to see it."""


@commit_or_not
async def test_a_tick_that_meets_an_open_one(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """It passes the schedule by without waiting. Later it finds the tick gone, or, rolled back, fires it."""
    await register(connection)
    one = await connect()
    transaction = one.transaction()
    await transaction.start()
    assert 1 == await fire(one)
    assert 0 == await fire(connection)
    await (transaction.commit() if commits else transaction.rollback())
    assert (0 if commits else 1) == await fire(connection)
    assert (1, NEXT) == (await count(connection), await next_tick(connection))


async def test_other_schedules_do_not_wait(connection: asyncpg.Connection, connect: Connect) -> None:
    """One is being fired: the other one fires meanwhile."""
    await register(connection, "first")
    one = await connect()
    async with one.transaction():
        assert 1 == await fire(one)
        await register(connection, "second")
        assert 1 == await fire(connection)
    assert 2 == await count(connection)


@commit_or_not
async def test_a_configuration_that_meets_an_open_tick(
    connection: asyncpg.Connection, connect: Connect, commits: bool
) -> None:
    """A daemon that starts waits for the tick, and leaves the next one as it is: it is not fired a second time."""
    await register(connection)
    await meet(connect, fire, register, commits=commits)
    assert (NEXT if commits else NOON) == await next_tick(connection)
    assert (0 if commits else 1) == await fire(connection)
    assert 1 == await count(connection)


async def test_a_tick_that_meets_an_open_configuration(connection: asyncpg.Connection, connect: Connect) -> None:
    """It passes the schedule by; then another cron line starts anew, with no tick of the old one."""
    await register(connection)
    starting = await connect()
    async with starting.transaction():
        await register(starting, cron="30 * * * *", next_at=NEXT)
        assert 0 == await fire(connection)
    assert (0, 0, NEXT) == (await fire(connection), await count(connection), await next_tick(connection))


async def register(
    connection: asyncpg.Connection, name: str = "hourly", cron: str = "0 * * * *", next_at: datetime = NOON
) -> None:
    """What a daemon does at its start; the tick is long due."""
    facts = (name, cron, "mail", "test/hourly", "http://127.0.0.1:1/", "{}", 0, 2, None, "last", 3600.0, next_at)
    await connection.execute(query("schedules_register"), *facts, "config")


async def fire(connection: asyncpg.Connection) -> int:
    """What a daemon does when a tick is due, all in one transaction; how many it has fired."""
    async with connection.transaction():
        due = await connection.fetch(query("schedules_due"), ["hourly", "first", "second"])
        for row in due:
            arguments = "mail", payload(), None, row["next_at"], 2, None, 0, None, "replace"
            await connection.fetchval(query("add_job"), *arguments)
            await connection.execute(query("schedules_move"), row["id"], NEXT, row["next_at"])
    return len(due)


async def next_tick(connection: asyncpg.Connection) -> datetime:
    """When the schedule fires next."""
    found: datetime = await connection.fetchval("select next_at from slayq.schedule")
    return found
