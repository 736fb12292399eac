"""A flush of a run's journal against a cancel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import CANCELLED, RunsDaemon, leased, send
from tests.sql.support import blocked_by, count

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


async def test_a_flush_against_a_cancel_that_is_not_committed(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The flush is put off; committed, the run is dropped; rolled back, it is written."""
    segment = await leased(connection, runs)
    other = await connect()
    for commits in (False, True):
        transaction = other.transaction()
        await transaction.start()
        await send(other, CANCELLED, {"order": 7})
        assert ["locked"] == await runs.ended(segment.step("a" if commits else "b"))
        await (transaction.commit() if commits else transaction.rollback())
        assert ["dropped" if commits else "ok"] == await runs.ended(segment.step("a"))


async def test_a_cancel_against_a_flush_that_is_not_committed(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The cancel waits for the flush and then catches the run in its new state."""
    segment = await leased(connection, runs)
    flushing, cancelling = await connect(), await connect()
    transaction = flushing.transaction()
    await transaction.start()
    await RunsDaemon(runs.daemon, flushing).flush(segment.sleep("nap").ends("suspended"))
    cancelled = asyncio.ensure_future(cancelling.fetchval("select slayq.cancel($1)", segment.run["id"]))
    await blocked_by(connection, flushing, cancelling)
    await transaction.commit()
    assert await cancelled
    assert (0, 0) == (await count(connection), await count(connection, "step"))
