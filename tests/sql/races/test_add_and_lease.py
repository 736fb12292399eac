"""A key added again while its job is leased: each order of the two (N4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import commit_or_not, lease, meet, sleep
from tests.sql.support import add, data_of, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


@commit_or_not
async def test_an_add_that_meets_an_open_lease(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The add waits for the lease, and then makes a new row; if that was rolled back it is the old row, changed."""
    first = await add(connection, "run", {"n": 1})
    await meet(connect, lambda one: lease(one, daemon), lambda two: add(two, "run", {"n": 2}), commits=commits)
    second = await live(connection, "run")
    assert (commits, 0 if commits else 1) == (second["id"] > first["id"], second["revision"])
    assert ({"n": 2}, "ready") == (data_of(await daemon.lease_one()), second["state"])


async def test_a_continuation_that_meets_an_open_lease(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """An app that was thought dead says that it sleeps, as its run is being leased again: the run sleeps."""
    first = await add(connection, "run", {"n": 1})
    await meet(connect, lambda one: lease(one, daemon), sleep)
    asleep = await live(connection, "run")
    assert ("scheduled", 0, True) == (asleep["state"], asleep["attempts"], asleep["id"] > first["id"])
    assert (await live(connection, first["id"]))["superseded"]


@commit_or_not
async def test_a_lease_that_meets_an_open_add(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The lease passes the job by without waiting; what is leased later is what the add has made of it."""
    await add(connection, "run", {"n": 1})
    app = await connect()
    transaction = app.transaction()
    await transaction.start()
    await add(app, "run", {"n": 2})
    assert [] == await daemon.lease(free=5)
    await (transaction.commit() if commits else transaction.rollback())
    assert {"n": 2 if commits else 1} == data_of(await daemon.lease_one())
