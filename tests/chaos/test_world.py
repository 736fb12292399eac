"""The ticks that a run begins with: what the checker expects is what fires."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from tests.chaos.world import MISS_TICKS

if TYPE_CHECKING:
    import asyncpg

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("fired", [0, 1, 2], ids=["not yet", "one of two", "both"])
@pytest.mark.parametrize("due", [False, True], ids=["in this minute", "at a full minute"])
async def test_the_first_tick(connection: asyncpg.Connection, fired: int, due: bool) -> None:
    """Some minutes ago; or, where the run begins just as a tick is due or has fired, that one."""
    now: datetime = await connection.fetchval("select date_trunc('minute', now())")
    tick = now if due else now + MINUTE
    for number in range(2):
        facts = "* * * * *", "mail", "e", "http://127.0.0.1:1/", "{}", 0, 25, None, "all", 3600.0, tick, "config"
        await connection.execute(query("schedules_register"), f"minute-{number}", *facts)
        if number < fired:
            await connection.execute(query("schedules_move"), f"minute-{number}", tick + MINUTE, tick)
    first = await connection.fetchval(MISS_TICKS, 5)
    assert first == (tick if due or fired else tick - 5 * MINUTE)
