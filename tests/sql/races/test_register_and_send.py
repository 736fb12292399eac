"""Registering an app against sending an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import PLACED, register, send

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


@pytest.mark.parametrize("commits", [True, False])
async def test_a_send_while_an_app_registers(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """It goes by what was registered before, and waits for nobody."""
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await register(other, {"event": PLACED, "queue": "orders"})
    await send(connection, PLACED, {"order": 7})
    await (transaction.commit() if commits else transaction.rollback())
    await send(connection, PLACED, {"order": 8})
    queues = [row["queue"] for row in await connection.fetch("select queue from slayq.job order by id")]
    assert ["general", "orders" if commits else "general"] == queues
