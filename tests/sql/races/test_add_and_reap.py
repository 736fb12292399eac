"""A run that its app goes on with while its lease is taken back: each order of the two (protocol v1, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import commit_or_not, meet, reap, report, sleep, start
from tests.sql.support import add, count, data_of, job, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.races.support import Call
    from tests.sql.support import Daemon

each_continuation = pytest.mark.parametrize("continue_", [sleep, report], ids=lambda each: each.__name__)


@each_continuation
async def test_a_continuation_that_meets_an_open_reap(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, continue_: Call
) -> None:
    """It waits for the reap, which has made the job due again: a run that sleeps sleeps, one that failed counts on."""
    await start(connection, daemon)
    await daemon.expire(connection)
    await meet(connect, reap, continue_)
    continued = await live(connection, "run")
    assert 1 == await count(connection)
    assert (("scheduled", 0) if continue_ is sleep else ("ready", 1)) == (continued["state"], continued["attempts"])
    assert '"first"' in continued["payload"]


async def test_a_report_that_meets_an_open_reap_of_the_last_attempt(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """It waits for the dead letter, adds its steps to it, and starts nothing."""
    await start(connection, daemon, max_attempts=1)
    await daemon.expire(connection)
    await meet(connect, reap, report)
    assert 0 == await count(connection)
    (payload,) = await connection.fetch("select payload from slayq.dead_letter")
    assert '"first"' in payload["payload"]


async def test_a_fresh_job_that_meets_an_open_reap(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """It takes the place of the job that was to be delivered again."""
    await start(connection, daemon)
    await daemon.expire(connection)
    await meet(connect, reap, lambda two: add(two, "run", {"n": 2}))
    other = await daemon.register(daemon.store, "other")
    again = await other.lease_one()
    assert (1, 1, {"n": 2}) == (await count(connection), again.attempts, data_of(again))


@each_continuation
@commit_or_not
async def test_a_reap_that_meets_an_open_continuation(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, continue_: Call, commits: bool
) -> None:
    """The reap passes the delivery by without waiting; the next one drops it, and leaves the continuation as it is."""
    leased = await start(connection, daemon)
    await daemon.expire(connection)
    app = await connect()
    transaction = app.transaction()
    await transaction.start()
    await continue_(app)
    assert [] == await reap(connection)
    await (transaction.commit() if commits else transaction.rollback())
    continued = await live(connection, "run")
    assert ["dropped" if commits else "ready"] == await reap(connection)

    if commits:
        assert (await job(connection, leased.id), continued) == (None, await live(connection, "run"))
    else:
        assert leased.id == (await live(connection, "run"))["id"]
