"""Two cancels of the same jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import cancel_it, commit_or_not, meet
from tests.sql.support import add, count

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


@commit_or_not
async def test_two_cancels_at_once(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """The second waits for the first and finds nothing; if the first is rolled back, it does the work."""
    for n in range(5):
        await add(connection, f"{n}", {"n": 1})
    await meet(connect, cancel_it, cancel_it, commits=commits)
    assert 0 == await count(connection)
