"""A run that is to wait, and what it waits for: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import ALONE, PARKED, WOKEN, both_kinds, commit_or_not, meet, outcome
from tests.sql.support import add, later

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.races.support import Call


@both_kinds
@commit_or_not
async def test_the_trigger_comes_first(
    connection: asyncpg.Connection, connect: Connect, wait: Call, ending: Call, commits: bool
) -> None:
    """A wait that meets an open trigger waits for it, and finds it if it was committed."""
    await add(connection, "run", cache={}, run_at=later())
    await meet(connect, ending, wait, commits=commits)
    assert await outcome(connection) == (WOKEN if commits else PARKED)


@both_kinds
@commit_or_not
async def test_the_wait_comes_first(
    connection: asyncpg.Connection, connect: Connect, wait: Call, ending: Call, commits: bool
) -> None:
    """A trigger that meets an open wait waits for it, and wakes the job if it was committed."""
    await add(connection, "run", cache={}, run_at=later())
    await meet(connect, wait, ending, commits=commits)
    assert await outcome(connection) == (WOKEN if commits else ALONE)


@both_kinds
async def test_the_trigger_comes_within_one_transaction_of_the_app(
    connection: asyncpg.Connection, connect: Connect, wait: Call, ending: Call
) -> None:
    """Fired and committed between an app's re-add and its wait, both in one open transaction: it is found."""
    app = await connect()
    async with app.transaction():
        await add(app, "run", cache={}, run_at=later())
        await ending(connection)
        await wait(app)
    assert await outcome(connection) == WOKEN
