"""The outcome of a delivery while its lease is taken back: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import commit_or_not, each_end, reap, start
from tests.sql.runs import RunsDaemon
from tests.sql.runs import leased as leased_run
from tests.sql.support import buried, completed, count, failed, job, released

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from slayq_server.model import LeasedJob, Settlement
    from tests.conftest import Connect
    from tests.sql.races.support import End
    from tests.sql.support import Daemon

each_outcome = pytest.mark.parametrize(
    "outcome", [completed, failed, buried, released], ids=lambda outcome: outcome.__name__
)


@each_outcome
@commit_or_not
async def test_an_outcome_that_meets_an_open_reap(
    connection: asyncpg.Connection,
    connect: Connect,
    daemon: Daemon,
    outcome: Callable[[LeasedJob], Settlement],
    commits: bool,
) -> None:
    """It does not wait, and is told to come again: then it is stale, and changes nothing; or, rolled back, counts."""
    leased = await start(connection, daemon)
    await daemon.expire(connection)
    reaper = await connect()
    transaction = reaper.transaction()
    await transaction.start()
    assert ["ready"] == await reap(reaper)
    assert {leased.id: "locked"} == (await daemon.settle(outcome(leased))).verdicts
    await (transaction.commit() if commits else transaction.rollback())
    before = await job(connection, leased.id)
    assert {leased.id: "stale" if commits else "settled"} == (await daemon.settle(outcome(leased))).verdicts
    assert commits == (before == await job(connection, leased.id))
    assert (commits, 0) == (before is not None and before["state"] == "ready", await count(connection, "done_job"))


@each_end
@commit_or_not
async def test_a_reap_that_meets_an_open_outcome(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, end: End, commits: bool
) -> None:
    """The reap passes the job by without waiting; the next one finds nothing, or, rolled back, makes it due again."""
    leased = await start(connection, daemon)
    await daemon.expire(connection)
    settler = await connect()
    transaction = settler.transaction()
    await transaction.start()
    await end(settler, daemon, leased)
    assert [] == await reap(connection)
    await (transaction.commit() if commits else transaction.rollback())
    before = await job(connection, leased.id)
    assert ([] if commits else ["ready"]) == await reap(connection)
    assert commits == (before == await job(connection, leased.id))


async def test_an_outcome_after_another_lease(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Taken back and leased by another: the first one's outcome is stale, the other's counts."""
    late = await start(connection, daemon)
    await daemon.expire(connection)
    assert ["ready"] == await reap(connection)
    other = await daemon.register(daemon.store, "other")
    again = await other.lease_one()
    for outcome in (completed, failed, buried, released):
        assert {late.id: "stale"} == (await daemon.settle(outcome(late))).verdicts
    assert {again.id: "settled"} == (await other.settle(completed(again))).verdicts
    assert (0, 0) == (await count(connection), await count(connection, "dead_letter"))


@pytest.mark.usefixtures("shop")
@commit_or_not
async def test_a_flush_that_meets_an_open_reap(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon, commits: bool
) -> None:
    """What a run has said is put off; then it is stale and not written down, or, rolled back, it is."""
    segment = await leased_run(connection, runs)
    await runs.daemon.expire(connection)
    reaper = await connect()
    transaction = reaper.transaction()
    await transaction.start()
    assert ["ready"] == await reap(reaper)
    assert ["locked"] == await runs.ended(segment.step("reserve", 1).ends("suspended"))
    await (transaction.commit() if commits else transaction.rollback())
    assert ["stale" if commits else "settled"] == await runs.ended(segment.step("reserve", 1))
    assert (0 if commits else 1) == await count(connection, "step")


@pytest.mark.usefixtures("shop")
@commit_or_not
async def test_a_reap_that_meets_an_open_flush(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon, commits: bool
) -> None:
    """The reap passes the run by; what the flush has written stays, and a rolled back run starts where it was."""
    segment = await leased_run(connection, runs)
    await runs.daemon.expire(connection)
    flushing = await connect()
    transaction = flushing.transaction()
    await transaction.start()
    await RunsDaemon(runs.daemon, flushing).flush(segment.step("reserve", 1))
    assert [] == await reap(connection)
    await (transaction.commit() if commits else transaction.rollback())
    assert ["ready"] == await reap(connection)
    other = RunsDaemon(await runs.daemon.register(runs.daemon.store, "other"), connection)
    again = await other.lease_one()
    assert ({"reserve": ("done", 1)} if commits else {}) == again.steps
