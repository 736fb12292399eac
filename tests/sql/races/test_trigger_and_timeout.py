"""What a run waits for comes as its time runs out: each order of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sql.races.support import WOKEN, meet, outcome, pay, promote, wait_for_payment
from tests.sql.support import add, later

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


async def test_the_promoter_passes_by_an_open_trigger(connection: asyncpg.Connection, connect: Connect) -> None:
    """At the time-out, with a trigger's transaction open on the job: the promoter does not wait, the trigger counts."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await connection.execute("update slayq.job set run_at = now() - interval '1 s'")
    caller = await connect()
    async with caller.transaction():
        await pay(caller)
        promoted = await promote(connection)
        assert (promoted["promoted"], promoted["expired_events"]) == (0, 0)
    assert await outcome(connection) == WOKEN
    assert (await promote(connection))["promoted"] == 0


async def test_a_trigger_finds_the_job_just_promoted(connection: asyncpg.Connection, connect: Connect) -> None:
    """At the time-out, with the promoter first: the trigger waits for it and changes nothing; the wait timed out."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await connection.execute("update slayq.job set run_at = now() - interval '1 s'")

    async def time_out(promoter: asyncpg.Connection) -> None:
        assert (await promote(promoter))["expired_events"] == 1

    await meet(connect, time_out, pay, commits=True)
    assert await outcome(connection) == ("ready", None, 0)
