"""Registering an app against sending an event: neither waits for the other, in each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import commit_or_not
from tests.sql.runs import CANCELLED, PAID, PLACED, RunsDaemon, register, send
from tests.sql.support import count

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


@commit_or_not
async def test_a_send_while_an_app_registers(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """It goes by what was registered before, and waits for nobody."""
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await register(other, {"event": PLACED, "queue": "orders"})
    await send(connection, PLACED, {"order": 7})
    await (transaction.commit() if commits else transaction.rollback())
    await send(connection, PLACED, {"order": 8})
    assert ["general", "orders" if commits else "general"] == await queues(connection)


@commit_or_not
async def test_an_app_registers_while_a_send_is_open(
    connection: asyncpg.Connection, connect: Connect, commits: bool
) -> None:
    """It waits for nobody; the run that was being sent stays as it was made, and the next goes by the new manifest."""
    sender = await connect()
    transaction = sender.transaction()
    await transaction.start()
    await send(sender, PLACED, {"order": 7})
    await register(connection, {"event": PLACED, "queue": "orders"})
    await send(sender, PLACED, {"order": 8})  # each statement of a transaction sees what is committed by then
    await (transaction.commit() if commits else transaction.rollback())
    assert (["general", "orders"] if commits else []) == await queues(connection)


@commit_or_not
async def test_an_event_while_an_app_is_deployed(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon, commits: bool
) -> None:
    """The manifest is written anew, and the run that is to wait for the event does not wait yet: it gets it."""
    await send(connection, PLACED, {"order": 7})
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await register(other)
    await send(connection, PAID, {"order": 7})
    await (transaction.commit() if commits else transaction.rollback())
    segment = await runs.lease_one()
    await runs.flush(segment.wait("payment").ends("suspended"))
    await runs.match()
    assert {"payment": ("done", {"order": 7})} == (await runs.lease_one()).steps


@commit_or_not
async def test_an_event_that_cancels(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """A manifest that no more cancels on it is not committed yet: the run is cancelled."""
    await send(connection, PLACED, {"order": 7})
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await register(other, {"event": PLACED})
    await send(connection, CANCELLED, {"order": 7})
    await (transaction.commit() if commits else transaction.rollback())
    assert 0 == await count(connection)


async def queues(connection: asyncpg.Connection) -> list[str]:
    """The queues of the runs, in the order of their sends."""
    return [row["queue"] for row in await connection.fetch("select queue from slayq.job order by id")]
