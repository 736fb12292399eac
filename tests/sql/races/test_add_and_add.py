"""One key added by two connections: each order of the two (N3, N4)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import commit_or_not, meet, report, sleep, start
from tests.sql.support import QUEUE, add, count, live, payload

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.races.support import Call
    from tests.sql.support import Daemon


ADD_MANY = """select id from slayq.add_jobs(
    array(
        select row($1::text, $2::json, null, null, null, k, null, null)::slayq.job_spec
        from unnest($3::text[]) with ordinality as s (k, n) order by n
    )
)"""


@commit_or_not
@pytest.mark.parametrize("second", [sleep, report], ids=lambda each: each.__name__)
@pytest.mark.parametrize("first", [sleep, report], ids=lambda each: each.__name__)
async def test_two_continuations_of_one_delivery(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, first: Call, second: Call, commits: bool
) -> None:
    """The second waits for the first, and replaces it: one row, and no attempt that a failed step used comes back."""
    leased = await start(connection, daemon)
    await meet(connect, first, second, commits=commits)
    continued = await live(connection, "run")
    failed = second is report and (first is report or not commits)
    assert ("scheduled", 1) if failed else (continued["state"], 0) == (continued["state"], continued["attempts"])
    await daemon.complete(leased)
    assert (1, continued) == (await count(connection), await live(connection, "run"))


@commit_or_not
async def test_a_fresh_job_that_meets_an_open_continuation(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """Sent from elsewhere while the app puts the run to sleep: the fresh job has the key."""
    await start(connection, daemon)
    await meet(connect, sleep, lambda two: add(two, "run", {"n": 2}), commits=commits)
    fresh = await live(connection, "run")
    assert ("ready", 0, False) == (fresh["state"], fresh["attempts"], "cache" in fresh["payload"])


@commit_or_not
async def test_a_continuation_that_meets_an_open_fresh_job(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The run is put to sleep just after the same key was sent from elsewhere: the later word counts."""
    await start(connection, daemon)
    await meet(connect, lambda one: add(one, "run", {"n": 2}), sleep, commits=commits)
    asleep = await live(connection, "run")
    assert ("scheduled", 0, True) == (asleep["state"], asleep["attempts"], "cache" in asleep["payload"])


async def test_bulk_adds_of_the_same_keys_do_not_wait_in_a_circle(connect: Connect, daemon: Daemon) -> None:
    """N3, N4: calls that name the same keys in different orders all come through, while the keys are being leased."""
    keys = [f"key {n}" for n in range(12)]
    generator = random.Random(4)
    over = asyncio.Event()

    async def add_in_bulk(connection: asyncpg.Connection) -> int:
        rows = 0
        for _ in range(25):
            rows += len(await connection.fetch(ADD_MANY, QUEUE, payload(), generator.sample(keys, 8)))
        return rows

    async def drain() -> None:
        while not over.is_set():
            await daemon.complete(*await daemon.lease(free=4))

    connections = [await connect() for _ in range(8)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(drain())
        added = await asyncio.gather(*(add_in_bulk(each) for each in connections))
        over.set()

    assert added == [25 * 8] * 8
    keyed = await connections[0].fetch("select job_key from slayq.job where state <> 'leased'")
    assert len({row["job_key"] for row in keyed}) == len(keyed)
