"""Two events that wake the same run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import WOKEN, commit_or_not, meet, outcome, pay, wait_for_payment
from tests.sql.support import add, later

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


@commit_or_not
async def test_two_triggers_at_once(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """The second waits for the first and finds nothing left, or wakes the run if that was rolled back: one outcome."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, pay, pay, commits=commits)
    assert WOKEN == await outcome(connection)
