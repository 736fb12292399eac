"""A waiting run is cancelled while what it waits for comes: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import WOKEN, cancel_it, commit_or_not, meet, outcome, pay, wait_for_payment
from tests.sql.support import add, count, later

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


@commit_or_not
async def test_a_cancel_comes_before_a_trigger(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """A trigger that meets an open cancel of the job waits for it, and wakes what is left."""
    await add(connection, "run", {"n": 1}, cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, cancel_it, pay, commits=commits)
    if commits:
        assert (await count(connection), await count(connection, "wait")) == (0, 0)
    else:
        assert await outcome(connection) == WOKEN


@commit_or_not
async def test_a_trigger_comes_before_a_cancel(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """A cancel that meets an open trigger waits for it, and takes the run away, woken or not."""
    await add(connection, "run", {"n": 1}, cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, pay, cancel_it, commits=commits)
    assert (0, 0) == (await count(connection), await count(connection, "wait"))
