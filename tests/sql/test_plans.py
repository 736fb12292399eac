"""EXPLAIN of the hot statements: what they read does not grow with sleeping, blocked, dead or unserved jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import names, query
from slayq_server.db.store import lease_arguments
from slayq_server.model import LeaseRequest
from tests.sql.plans import CROWD, FEW, GROWING, HANDFUL, SESSION_SETTINGS, Sessions
from tests.sql.support import QUEUE, Daemon, add, released

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.plans import Reading


@pytest.mark.parametrize("name", names())
async def test_every_statement_prepares(connection: asyncpg.Connection, name: str) -> None:
    """Each file of queries/ is one valid statement."""
    await connection.prepare(query(name))


async def test_functions_without_sequential_scans_are_not_compiled(connection: asyncpg.Connection) -> None:
    """Switched off, the one scan of a small table that has no index costs enough, nominally, for JIT: 50 ms a call."""
    settings = await connection.fetch(
        "select proname, proconfig from pg_proc where 'enable_seqscan=off' = any (proconfig)"
    )
    assert len(settings) > 10
    assert [row["proname"] for row in settings if "jit=off" not in row["proconfig"]] == []


async def test_what_is_read_does_not_grow(database_url: str, connect: Connect, connection: asyncpg.Connection) -> None:
    """200,000 parked, blocked, failing and unserved jobs and 100,000 dead letters cost the hot statements nothing.

    Three times: with plans that the sessions made while the tables were empty, with new plans and statistics from when
    they were empty (what measured.md calls the trap), and with fresh statistics.
    """
    for table in GROWING:
        await connection.execute(f"alter table slayq.{table} set (autovacuum_enabled = off)")
    await connection.execute("analyze")
    await connection.execute(HANDFUL)
    early = await Sessions.open(connect, database_url, plan_cache_mode="force_generic_plan")
    small = await early.readings()
    await connection.execute(CROWD, timeout=100)
    crowded = {"plans from before": await early.readings()}
    crowded["old statistics"] = await (await Sessions.open(connect, database_url)).readings()
    await connection.execute("analyze")
    crowded["fresh statistics"] = await (await Sessions.open(connect, database_url)).readings()

    problems = [
        f"{name}, {case}: {reading} after {small[name]}"
        for case, readings in {"small": small, **crowded}.items()
        for name, reading in readings.items()
        if too_much(reading, small[name])
    ]
    assert problems == []


async def test_a_lease_passes_over_nothing_that_is_done(
    database_url: str, connect: Connect, connection: asyncpg.Connection, daemon: Daemon
) -> None:
    """Jobs that are done stay in the index until vacuum has come by; a lease that begins after them reads none."""
    await connection.execute("alter table slayq.job set (autovacuum_enabled = off)")
    await connection.execute(
        "insert into slayq.job (queue, state, event, payload, run_at) "
        "select 'mail', 'ready', 'done/before', '{}', now() - interval '1 hour' from generate_series(1, 20000)"
    )
    await connection.execute("delete from slayq.job")
    for _ in range(3):
        await add(connection)
    request = LeaseRequest((QUEUE,), 2)
    leased = await daemon.store.lease(daemon.worker_id, [request])
    assert leased[-1].place is not None
    await daemon.settle(*map(released, leased))
    session = await connect(database_url, server_settings=SESSION_SETTINGS)

    async def pages(request: LeaseRequest) -> int:
        arguments = lease_arguments(daemon.worker_id, [request])
        statement = f"explain (analyze, buffers, timing off, format json) {query('lease')}"
        transaction = session.transaction()
        await transaction.start()
        (explained,) = json.loads(await session.fetchval(statement, *arguments))
        await transaction.rollback()
        plan = explained["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    whole, short = await pages(request), await pages(replace(request, start=leased[-1].place))
    assert whole > short + 50
    assert short < 100


def too_much(reading: Reading, small: Reading) -> bool:
    """Whether a statement read a table from end to end, many rows for each of its jobs, or more than when small."""
    grown = reading.rows > small.rows + FEW or reading.pages > 3 * small.pages + 100
    return grown or reading.rows > 16 * FEW or bool(GROWING & set(reading.sequential))
