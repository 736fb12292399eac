"""A job is cancelled while it is leased: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import cancel_it, lease, meet
from tests.sql.support import add, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


async def test_a_cancel_that_meets_an_open_lease(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """The cancel waits for the lease and marks the job, which was ready in the cancel's snapshot."""
    await add(connection, "k", {"n": 1})
    await meet(connect, lambda one: lease(one, daemon), cancel_it)
    row = await live(connection, "k")
    assert (row["state"], row["cancelled"]) == ("leased", True)


async def test_a_lease_that_meets_an_open_cancel(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """The cancel first: the lease passes the job by, without waiting; if that is rolled back it is leased later."""
    await add(connection, "k", {"n": 1})
    caller = await connect()
    transaction = caller.transaction()
    await transaction.start()
    await cancel_it(caller)
    assert await daemon.lease(free=5) == []
    await transaction.rollback()
    assert (await daemon.lease_one()).job_key == "k"
