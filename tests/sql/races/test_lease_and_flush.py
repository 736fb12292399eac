"""Leasing a run while another daemon delivers a whole segment of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from slayq_server.db.store import lease_arguments
from slayq_server.model import LeaseRequest
from tests.sql.runs import PLACED, QUEUE, RunsDaemon, send
from tests.sql.support import blocked_by

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


async def test_a_slow_lease_sees_what_was_recorded_meanwhile(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The run was ready when the lease began, and is again when it gets there: no step of it runs twice."""
    await send(connection, PLACED, {"order": 7})
    slow, gate = await connect(), await connect()
    await gate.execute("select pg_advisory_lock(7)")
    # The lease has its snapshot, and looks at no job yet.
    statement = query("lease").replace("where exists", "where pg_advisory_xact_lock(7)::text is not null and exists", 1)
    leasing = asyncio.ensure_future(
        slow.fetch(statement, *lease_arguments(runs.daemon.worker_id, [LeaseRequest((QUEUE,), 1)]))
    )
    await blocked_by(connection, gate, slow)
    assert ["settled"] == await runs.ended((await runs.lease_one()).step("reserve", 3).ends("released"))
    await gate.execute("select pg_advisory_unlock(7)")
    (row,) = await leasing
    steps = json.loads(row["run"])["steps"]
    assert [("reserve", 3)] == [(step["name"], step["output"]) for step in steps]
