"""An event of a run against the wait's time-out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from tests.sql.runs import PAID, RunsDaemon, leased, make_steps_due, send

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


@pytest.mark.parametrize("first", ["timer", "event"])
async def test_a_time_out_against_an_event(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon, first: str
) -> None:
    """Whoever has the row writes the one outcome; the other leaves it alone."""
    await runs.flush((await leased(connection, runs)).wait("payment").ends("suspended"))
    await make_steps_due(connection)
    await send(connection, PAID, {"order": 7})
    other = await connect()
    async with other.transaction():
        if first == "timer":
            await other.fetch(query("promote"), 10)
            assert (0, True) == tuple(await runs.match())[::3]
        else:
            await RunsDaemon(runs.daemon, other).match()
            assert 0 == (await runs.promote())["promoted"]
    await runs.match()
    await runs.promote()
    steps = (await runs.lease_one()).steps
    assert {"payment": "timed_out" if first == "timer" else ("done", {"order": 7})} == steps
