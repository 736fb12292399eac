"""Cancelled between two deliveries: the app of an earlier one may still run, and what it says later comes to nothing.

Its delivery has ended for the server (it timed out, or its daemon died) and not for the app.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.sql.support import add, count, later, next_due
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.model import LeasedJob
    from tests.conftest import Connect
    from tests.sql.support import Daemon

CACHE = {"first": 1}
CANCEL = "select cancel_pending_tasks('shop/order', 'n', '1')"


async def delivered(connection: asyncpg.Connection, daemon: Daemon) -> LeasedJob:
    """A job of key `k` that is being delivered."""
    await add(connection, "k", {"n": 1})
    return await daemon.lease_one()


async def say(connection: asyncpg.Connection, sleeps: bool) -> asyncpg.Record:
    """What the app says late: that it sleeps, or that a step threw."""
    return await add(connection, "k", {"n": 1}, cache=CACHE, run_at=later() if sleeps else None)


@pytest.mark.parametrize("sleeps", [True, False])
async def test_cancelled_while_it_waits_for_its_retry(
    connection: asyncpg.Connection, daemon: Daemon, sleeps: bool
) -> None:
    """The delivery timed out; the job is cancelled; the app that still runs adds it again: nothing comes back."""
    await daemon.fail(await delivered(connection, daemon))
    await connection.execute(CANCEL)
    for _ in range(2):
        assert (await say(connection, sleeps))["id"] is None
    assert (0, 0) == (await count(connection), await count(connection, "dead_letter"))


@pytest.mark.parametrize("sleeps", [True, False])
async def test_cancelled_while_delivered_and_said_after_the_end(
    connection: asyncpg.Connection, daemon: Daemon, sleeps: bool
) -> None:
    """The same where the delivery ends, its row with it, between the cancel and what the app says."""
    leased = await delivered(connection, daemon)
    await connection.execute(CANCEL)
    await daemon.fail(leased)
    assert 0 == await count(connection)
    assert (await say(connection, sleeps))["id"] is None
    assert 0 == await count(connection)


async def test_cancelled_while_it_sleeps(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The first delivery timed out, the second one sleeps and is cancelled; the app of the first one still runs."""
    first = await delivered(connection, daemon)
    await daemon.fail(first, delay=0.0)
    (second,) = await next_due(daemon, connection, first.id)
    await say(connection, sleeps=True)
    await daemon.complete(second)
    await connection.execute(CANCEL)
    assert (await say(connection, sleeps=True))["id"] is None
    assert 0 == await count(connection)


async def test_a_cancel_that_is_not_committed_yet(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """What the app says meanwhile waits for the cancel, and then comes to nothing."""
    await daemon.fail(await delivered(connection, daemon))
    canceller = await connect()
    async with canceller.transaction():
        await canceller.execute(CANCEL)
        other = await connect()
        pid = await other.fetchval("select pg_backend_pid()")
        saying = asyncio.ensure_future(say(other, True))
        await wait_until(lambda: connection.fetchval("select cardinality(pg_blocking_pids($1)) > 0", pid))
    assert (await saying)["id"] is None
    assert 0 == await count(connection)


async def test_a_fresh_job_takes_the_key(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A fresh job of a cancelled key runs, sleeps and fails as any other."""
    await daemon.fail(await delivered(connection, daemon))
    await connection.execute(CANCEL)
    await add(connection, "k", {"n": 2})
    leased = await daemon.lease_one()
    slept = await add(connection, "k", {"n": 2}, cache=CACHE, run_at=later())
    assert slept["state"] == "scheduled"
    await daemon.complete(leased)
    woken = await add(connection, "k", {"n": 2}, cache=CACHE, run_at=later(hours=-1))
    assert (slept["id"], "ready") == (woken["id"], woken["state"])


async def test_a_job_that_was_never_delivered_is_not_remembered(connection: asyncpg.Connection) -> None:
    """No app can say anything of it: the memory of cancels is for those that have run."""
    await add(connection, "k", {"n": 1})
    await connection.execute(CANCEL)
    assert 0 == await count(connection, "trigger")
