"""A dead letter is put back while its app goes on with the run, or its key is added again: each order of the two."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.sql.races.support import bury, commit_or_not, meet, report, start
from tests.sql.support import add, blocked_by, count, data_of, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


async def dead(connection: asyncpg.Connection, daemon: Daemon) -> int:
    """The run is a dead letter; its id."""
    leased = await start(connection, daemon)
    await bury(connection, daemon, leased)
    return leased.id


async def redrive(connection: asyncpg.Connection) -> None:
    """Puts all dead letters back."""
    await connection.fetch("select slayq._redrive_1(array(select id from slayq.dead_letter))")


@commit_or_not
async def test_a_report_that_meets_an_open_redrive(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """It waits, and adds its steps to the run that is due again; or to the letter, if that stays one."""
    await dead(connection, daemon)
    await meet(connect, redrive, report, commits=commits)
    left = (await count(connection), await count(connection, "dead_letter"))
    assert ((1, 0) if commits else (0, 1)) == left
    kept = "select payload from slayq.job union all select payload from slayq.dead_letter"
    assert '"first"' in (await connection.fetchval(kept.replace("payload", "payload::text")))


async def test_a_redrive_that_meets_an_open_report(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """It waits for the report, which added its steps to the letter: with these the run comes back, once."""
    await dead(connection, daemon)
    await meet(connect, report, redrive)
    assert (1, 0) == (await count(connection), await count(connection, "dead_letter"))
    assert '"first"' in (await live(connection, "run"))["payload"]


async def test_they_do_not_wait_in_a_circle(connection: asyncpg.Connection, connect: Connect, daemon: Daemon) -> None:
    """The redrive has the letter and waits for the key that the report has: the report does not wait for the letter."""
    letter = await dead(connection, daemon)
    operator = await connect()
    async with operator.transaction():
        await operator.execute("select from slayq.dead_letter for update")
        app = await connect()
        transaction = app.transaction()
        await transaction.start()
        assert (await report(app))["id"] is None
        putting_back = asyncio.ensure_future(redrive(operator))
        await blocked_by(connection, app, operator)
        await transaction.commit()
        await putting_back
    assert (letter, 1, 0) == (
        (await live(connection, "run"))["id"],
        await count(connection),
        await count(connection, "dead_letter"),
    )


@commit_or_not
async def test_a_redrive_that_meets_an_open_add(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The letter whose key a fresh job takes stays where it is; if that is rolled back, it is put back."""
    await dead(connection, daemon)
    await meet(connect, lambda one: add(one, "run", {"n": 2}), redrive, commits=commits)
    assert (1 if commits else 0) == await count(connection, "dead_letter")
    assert {"n": 2 if commits else 1} == data_of(await daemon.lease_one())
