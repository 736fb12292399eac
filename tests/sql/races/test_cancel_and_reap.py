"""A job is cancelled while its lease is taken back: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import cancel_it, commit_or_not, meet, reap, start
from tests.sql.support import count, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


@commit_or_not
async def test_a_cancel_that_meets_an_open_reap(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The cancel waits for the reap and takes the job away, which is due again; if it is still leased, it is marked."""
    await start(connection, daemon)
    await daemon.expire(connection)
    await meet(connect, reap, cancel_it, commits=commits)
    if commits:
        assert 0 == await count(connection)
    else:
        assert (await live(connection, "run"))["cancelled"]


@commit_or_not
async def test_a_reap_that_meets_an_open_cancel(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The reap passes the job by without waiting; the next one drops it, or makes it due if it is not cancelled."""
    await start(connection, daemon)
    await daemon.expire(connection)
    caller = await connect()
    transaction = caller.transaction()
    await transaction.start()
    await cancel_it(caller)
    assert [] == await reap(connection)
    await (transaction.commit() if commits else transaction.rollback())
    assert ["dropped" if commits else "ready"] == await reap(connection)
