"""One key added by two connections: each order of the two (N3, N4)."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from slayq_server.db.store import lease_arguments
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import LeaseRequest
from tests.sql.races.support import commit_or_not, meet, report, sleep, start
from tests.sql.support import QUEUE, add, count, live, payload

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.model import LeasedJob
    from tests.conftest import Connect
    from tests.sql.races.support import Call
    from tests.sql.support import Daemon


WORKER = object()
"""Stands for the worker's id."""
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
    """N3, N4: calls that name the same keys in different orders all come through, while the keys are being leased.

    Where a daemon is part of a circle (see slayq._impatient_1), it is the daemon that tries again.
    """
    keys = [f"key {n}" for n in range(12)]
    over = asyncio.Event()

    async def add_in_bulk(connection: asyncpg.Connection, number: int) -> int:
        generator = random.Random(number)
        rows = 0
        for _ in range(60):
            rows += len(await connection.fetch(ADD_MANY, QUEUE, payload(), generator.sample(keys, 8)))
        return rows

    async def drain() -> None:
        leased: list[LeasedJob] = []
        while not over.is_set():
            try:
                leased = leased or await daemon.lease(free=4)
                await daemon.complete(*leased)
                leased = []
            except DatabaseUnavailable as error:
                if error.reason != "locked":
                    raise

    connections = [await connect() for _ in range(8)]
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(drain())
        added = await asyncio.gather(*(add_in_bulk(each, n) for n, each in enumerate(connections)))
        over.set()

    assert added == [60 * 8] * 8
    keyed = await connections[0].fetch("select job_key from slayq.job where state <> 'leased'")
    assert len({row["job_key"] for row in keyed}) == len(keyed)


@pytest.mark.parametrize(
    ("statement", "args"),
    [
        pytest.param("lease", lease_arguments(WORKER, [LeaseRequest((QUEUE,), 1)]), id="lease"),
        pytest.param("settle_completed", (WORKER, [1], [1], False), id="settle_completed"),
        pytest.param("settle_retried", (WORKER, [1], [1], [1.0], [""], [False], [None]), id="settle_retried"),
        pytest.param("settle_dead", (WORKER, [1], [1], ["no-retry"], [""], [None]), id="settle_dead"),
        pytest.param("settle_released", (WORKER, [1], [1]), id="settle_released"),
        pytest.param("settle_put_off", (WORKER, [1], [1], [1.0], [""]), id="settle_put_off"),
        pytest.param("bring_forward", ("", 1, None), id="bring_forward"),
        pytest.param("release_unknown", (WORKER, []), id="release_unknown"),
        pytest.param("promote", (1,), id="promote"),
        pytest.param("reap", (1,), id="reap"),
    ],
)
async def test_what_a_daemon_does_to_rows_that_callers_change_is_impatient(
    connection: asyncpg.Connection, daemon: Daemon, statement: str, args: tuple[object, ...]
) -> None:
    """Postgres may wait in spite of `skip locked`, and must not for long: a caller may be waiting for this very one."""
    await add(connection, "due", run_at=datetime.now(UTC) - timedelta(seconds=1), serial="lane")
    await connection.execute("update slayq.job set state = 'leased', worker_id = $1 where id = 1", daemon.worker_id)
    await add(connection, "due too", run_at=datetime.now(UTC) - timedelta(seconds=1), serial="lane")
    async with connection.transaction():
        await connection.fetch(query(statement), *(daemon.worker_id if each == WORKER else each for each in args))
        assert await connection.fetchval("show lock_timeout") == "100ms"
    assert await connection.fetchval("show lock_timeout") == "0"
