"""A waiting run is replaced while what it waits for comes: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import ALONE, WOKEN, commit_or_not, meet, outcome, pay, wait_for_payment
from tests.sql.support import add, later

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


async def replace(connection: asyncpg.Connection) -> None:
    """Another job takes the key, and waits for nothing."""
    await add(connection, "run", {"n": 2}, run_at=later())


@commit_or_not
async def test_a_job_added_again_before_a_trigger(
    connection: asyncpg.Connection, connect: Connect, commits: bool
) -> None:
    """A trigger that meets an open re-add waits for it, and wakes the run if it is still there; no other is patched."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, replace, pay, commits=commits)
    assert (ALONE if commits else WOKEN) == await outcome(connection)


@commit_or_not
async def test_a_trigger_before_a_job_is_added_again(
    connection: asyncpg.Connection, connect: Connect, commits: bool
) -> None:
    """A re-add that meets an open trigger waits for it; nothing of the run that was woken is left in the new job."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, pay, replace, commits=commits)
    assert ALONE == await outcome(connection)
