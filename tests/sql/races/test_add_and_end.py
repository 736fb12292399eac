"""A key added again while its delivery ends: each order of the two (N4; protocol v1, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import bury, commit_or_not, each_end, fail, meet, report, sleep, start
from tests.sql.support import add, count, data_of, job, live

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.races.support import Call, End
    from tests.sql.support import Daemon


@each_end
@commit_or_not
async def test_an_add_that_meets_an_open_end(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, end: End, commits: bool
) -> None:
    """A fresh job waits for the end, and is due at once, whatever the end was and whether it came to be."""
    leased = await start(connection, daemon)
    await meet(connect, lambda one: end(one, daemon, leased), lambda two: add(two, "run", {"n": 2}), commits=commits)
    fresh = await live(connection, "run")
    assert ("ready", 0) == (fresh["state"], fresh["attempts"])
    assert {"n": 2} == data_of(await daemon.lease_one())


@commit_or_not
async def test_a_report_that_meets_an_open_failure(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The delivery times out as the app reports a failed step: one failed attempt, not two, and the steps are kept."""
    leased = await start(connection, daemon)
    await meet(connect, lambda one: fail(one, daemon, leased), report, commits=commits)
    retried = await live(connection, "run")
    assert ("scheduled", 1) == (retried["state"], retried["attempts"])
    assert '"first"' in retried["payload"]


async def test_a_report_that_meets_an_open_burial(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """The delivery becomes a dead letter as the app reports a failed step: the letter has the steps, nothing runs."""
    leased = await start(connection, daemon)
    await meet(connect, lambda one: bury(one, daemon, leased), report)
    assert 0 == await count(connection)
    assert '"first"' in await connection.fetchval("select payload from slayq.dead_letter")


@pytest.mark.parametrize("ending", ["complete", "fail", "bury", "release"])
@pytest.mark.parametrize("continue_", [sleep, report], ids=lambda each: each.__name__)
@commit_or_not
async def test_an_end_that_meets_an_open_continuation(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, ending: str, continue_: Call, commits: bool
) -> None:
    """The end does not wait, and is told to try again; then it touches the delivery, and never the continuation."""
    leased = await start(connection, daemon)
    app = await connect()
    transaction = app.transaction()
    await transaction.start()
    await continue_(app)
    assert {leased.id: "locked"} == (await getattr(daemon, ending)(leased)).verdicts
    await (transaction.commit() if commits else transaction.rollback())
    continued = await job(connection, "run")
    verdict = (await getattr(daemon, ending)(leased)).verdicts[leased.id]

    if commits:
        assert (await job(connection, leased.id), continued) == (None, await live(connection, "run"))
        assert ("settled" if ending == "complete" else "dropped", 0) == (
            verdict,
            await count(connection, "dead_letter"),
        )
    else:
        assert "settled" == verdict
