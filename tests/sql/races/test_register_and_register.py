"""Two processes of an app that register at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.sql.runs import PLACED, register
from tests.sql.support import blocked_by, count

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


async def test_two_processes_of_an_app_register_at_once(connection: asyncpg.Connection, connect: Connect) -> None:
    """One after the other: the second waits, and changes nothing where it says the same."""
    one, other = await connect(), await connect()
    transaction = one.transaction()
    await transaction.start()
    await register(one, {"event": PLACED, "cron": "0 3 * * *"})
    second = asyncio.ensure_future(register(other, {"event": PLACED, "cron": "0 3 * * *"}))
    await blocked_by(connection, one, other)
    await transaction.commit()
    assert {"functions": 1, "warnings": []} == await second
    assert (1, 1) == (await count(connection, "function"), await count(connection, "schedule"))
