"""EXPLAIN of the hot statements: what they read does not grow with sleeping, blocked, dead or unserved jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import names, query
from tests.sql.plans import CROWD, FEW, GROWING, HANDFUL, Sessions

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
    await connection.execute(CROWD)
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


def too_much(reading: Reading, small: Reading) -> bool:
    """Whether a statement read a table from end to end, many rows for each of its jobs, or more than when small."""
    grown = reading.rows > small.rows + FEW or reading.pages > 3 * small.pages + 100
    return grown or reading.rows > 16 * FEW or bool(GROWING & set(reading.sequential))
