"""A job is cancelled while its delivery ends: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import bury, cancel_it, commit_or_not, each_end, meet, start
from tests.sql.support import count, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.races.support import End
    from tests.sql.support import Daemon


@each_end
@commit_or_not
async def test_a_cancel_that_meets_an_open_end(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, end: End, commits: bool
) -> None:
    """Under delivery in the cancel's snapshot, waiting for its retry once the failure is committed: it goes.

    One that is done or a dead letter by then is no longer pending; one whose end came to nothing is marked.
    """
    leased = await start(connection, daemon)
    await meet(connect, lambda one: end(one, daemon, leased), cancel_it, commits=commits)
    letters = 1 if end is bury and commits else 0
    assert (0 if commits else 1, letters) == (await count(connection), await count(connection, "dead_letter"))
    if not commits:
        assert (await live(connection, "run"))["cancelled"]


@pytest.mark.parametrize("ending", ["complete", "fail", "bury", "release"])
async def test_an_end_that_meets_an_open_cancel(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, ending: str
) -> None:
    """The end does not wait for the cancel, but is told to try again; then nothing is left of the job."""
    leased = await start(connection, daemon)
    caller = await connect()
    async with caller.transaction():
        await cancel_it(caller)
        assert {leased.id: "locked"} == (await getattr(daemon, ending)(leased)).verdicts
    settled = await getattr(daemon, ending)(leased)
    assert {leased.id: "settled" if ending == "complete" else "dropped"} == settled.verdicts
    assert (0, 0) == (await count(connection), await count(connection, "dead_letter"))
