"""What a daemon costs the database while there is nothing to do."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from unittest.mock import Mock

from slayq_server import settings
from slayq_server.config import load
from slayq_server.daemon import Daemon
from slayq_server.db import pool
from slayq_server.engine import upkeep
from tests.support.daemon import add, until_no_jobs
from tests.support.endpoint import SECRET, Endpoint
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg
    import pytest

RENEWALS = 5
WATCHER = "the test"


async def test_an_idle_daemon_has_two_connections(
    connection: asyncpg.Connection,
    endpoint: Endpoint,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that listens and one for all the rest; those that a burst of work needed are closed again, and stay so.

    In this process, and with all that is done now and then done at each renewal.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "IDLE", 2.0)
    monkeypatch.setattr(upkeep, "SNAPSHOT_EVERY", 0.1)
    monkeypatch.setattr(upkeep, "PRUNE_EVERY", 0.1)
    path = tmp_path / "slay-config.json"
    queues = {f"q{number}": {"concurrency": 10} for number in range(6)}
    path.write_text(
        json.dumps(
            {
                "queues": queues,
                "callbacks": {"allow": [endpoint.origin]},
                "http": {"port": 0},
                "worker": {"lease": 15, "renew": 1},
            }
        )
    )
    made = settings.load(None, database_url=database_url, secret=SECRET)
    daemon = Daemon(load(path), made, notifier=Mock())
    running = asyncio.create_task(daemon.run())

    async def connections() -> int:
        found = await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and application_name <> $1",
            WATCHER,
        )
        assert isinstance(found, int)
        return found

    try:
        await connection.execute(f"set application_name = '{WATCHER}'")
        for number in range(200):
            await add(connection, endpoint.url, queue=f"q{number % 6}")
        await wait_until(lambda: daemon.health().ready, 20.0, "the daemon being ready")
        most = await connections()
        while await connection.fetchval("select exists (select from slayq.job)"):
            most = max(most, await connections())
        await until_no_jobs(connection)
        assert most > 2, "the burst took more"

        async def shrunk() -> bool:
            return await connections() == 2

        await wait_until(shrunk, 20.0, "its connections being closed")
        renewed = set[object]()

        async def stays_so() -> bool:
            # Where a slow machine lets two statements meet, one more is opened for a while, and we begin again.
            if await connections() != 2:
                renewed.clear()
            renewed.add(await connection.fetchval("select max(renewed_at) from slayq.worker"))
            return len(renewed) == RENEWALS

        await wait_until(stays_so, 60.0, f"no third connection from one renewal to the {RENEWALS - 1} next ones")
    finally:
        daemon.stop()
        await running
