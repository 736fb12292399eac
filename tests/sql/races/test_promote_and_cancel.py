"""A job is cancelled as its time comes: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import cancel_it, commit_or_not, meet, promote
from tests.sql.support import add, count, later, live, make_due, wait_event

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon

LANE = "orders of one customer"


@commit_or_not
async def test_a_cancel_that_meets_an_open_promotion(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """It waits, and takes the job away, whether that is ready by then or not."""
    await due(connection, "run", {"n": 1})
    await meet(connect, promote, cancel_it, commits=commits)
    assert (0, []) == (await count(connection), await daemon.lease(free=5))


@commit_or_not
async def test_a_promotion_that_meets_an_open_cancel(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """It passes the job by without waiting, and takes others; rolled back, the job's turn comes with the next one."""
    await due(connection, "run", {"n": 1})
    await due(connection, "other", {"n": 2})
    caller = await connect()
    transaction = caller.transaction()
    await transaction.start()
    await cancel_it(caller)
    assert 1 == (await promote(connection))["promoted"]
    assert "ready" == (await live(connection, "other"))["state"]
    await (transaction.commit() if commits else transaction.rollback())
    assert (0 if commits else 1) == (await promote(connection))["promoted"]
    assert (["other"] if commits else ["other", "run"]) == sorted(
        leased.job_key or "" for leased in await daemon.lease(free=5)
    )


@commit_or_not
async def test_a_cancel_of_the_head_of_a_serial_queue_that_is_on_its_way(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The promotion gives the queue a head, which the cancel takes away: at the daemons' next look another has it."""
    await due(connection, "run", {"n": 1}, serial=LANE)
    await due(connection, "next", {"n": 2}, serial=LANE)
    await meet(connect, promote, cancel_it, commits=commits)
    await promote(connection)
    await daemon.store.advance_headless_lanes(10)
    assert "next" == (await daemon.lease_one()).job_key


@pytest.mark.parametrize("order", ["promote first", "cancel first"])
async def test_a_wait_that_times_out(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, order: str
) -> None:
    """Cancelled at the moment of its time-out: neither the job nor its wait is left."""
    waiting = await add(connection, "run", {"n": 1}, cache={}, run_at=later())
    await wait_event(connection, "run", "paid", "order", "7")
    await make_due(connection, waiting["id"])
    if order == "promote first":
        await meet(connect, promote, cancel_it)
    else:
        caller = await connect()
        async with caller.transaction():
            await cancel_it(caller)
            assert 0 == (await promote(connection))["promoted"]
    assert (0, 0, []) == (await count(connection), await count(connection, "wait"), await daemon.lease(free=5))


async def due(connection: asyncpg.Connection, key: str, data: object, serial: str | None = None) -> None:
    """A job whose time has come, and that nobody has promoted yet."""
    added = await add(connection, key, data, serial=serial, run_at=later())
    await make_due(connection, added["id"])
