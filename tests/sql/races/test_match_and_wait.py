"""Matching events against a run's wait that is being added."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import PAID, RunsDaemon, leased, send
from tests.sql.support import blocked_by

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


async def test_matching_waits_for_a_wait_that_is_being_added(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The wait looked back and found nothing, and is not committed; the event comes; matching sees the wait then."""
    segment = await leased(connection, runs)
    adding, matching = await connect(), await connect()
    transaction = adding.transaction()
    await transaction.start()
    await RunsDaemon(runs.daemon, adding).flush(segment.wait("payment").ends("suspended"))
    await send(connection, PAID, {"order": 7})
    matched = asyncio.ensure_future(RunsDaemon(runs.daemon, matching).match())
    await blocked_by(connection, adding, matching)
    await transaction.commit()
    assert 1 == (await matched)["matched"]


async def test_a_wait_that_comes_while_events_are_matched(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """It is put off until the matching is over, and then finds the event by looking back."""
    segment = await leased(connection, runs)
    await send(connection, PAID, {"order": 7})
    matching = await connect()
    async with matching.transaction():
        await RunsDaemon(runs.daemon, matching).match()
        assert ["locked"] == await runs.ended(segment.wait("payment").ends("suspended"))
    (row,) = await runs.flush(segment.wait("payment").ends("suspended"))
    assert "general" == row["ready"]
