"""A run is cancelled while its app goes on with it, or becomes another one: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.sql.races.support import cancel_it, commit_or_not, meet, report, sleep, start
from tests.sql.support import add, count, job, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.races.support import Call
    from tests.sql.support import Daemon


each_continuation = pytest.mark.parametrize("continue_", [sleep, report], ids=lambda each: each.__name__)


@each_continuation
async def test_a_cancel_that_meets_an_open_continuation(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, continue_: Call
) -> None:
    """The app's re-add first, which the cancel's snapshot does not have: the continuation goes all the same."""
    leased = await start(connection, daemon)
    await meet(connect, continue_, cancel_it)
    assert await job(connection, "run") is None
    assert (await live(connection, leased.id))["cancelled"]


@each_continuation
@commit_or_not
async def test_a_continuation_that_meets_an_open_cancel(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, continue_: Call, commits: bool
) -> None:
    """The cancel first: the app's re-add waits for it and comes to nothing; if it was rolled back, it is added."""
    leased = await start(connection, daemon)
    await meet(connect, cancel_it, continue_, commits=commits)
    await daemon.complete(leased)
    assert (0 if commits else 1) == await count(connection)


@pytest.mark.parametrize("change", [{"event": "shop/other"}, {"data": {"n": 2}}])
async def test_a_cancel_that_meets_an_open_change(
    connection: asyncpg.Connection, connect: Connect, change: dict[str, Any]
) -> None:
    """The job becomes one of another event or value while the cancel waits for it: it stays."""
    await add(connection, "k", {"n": 1})

    async def replace(one: asyncpg.Connection) -> None:
        await add(one, "k", **{"data": {"n": 1}, **change})

    await meet(connect, replace, cancel_it)
    assert 1 == await count(connection)


@commit_or_not
async def test_a_fresh_job_that_meets_an_open_cancel(
    connection: asyncpg.Connection, connect: Connect, commits: bool
) -> None:
    """The cancelling event starts a run of the same key: it is not the one that is cancelled."""
    await add(connection, "run", {"n": 1})
    await meet(connect, cancel_it, lambda two: add(two, "run", {"n": 1}), commits=commits)
    assert ("ready", 0 if commits else 1) == (
        (await live(connection, "run"))["state"],
        (await live(connection, "run"))["revision"],
    )
