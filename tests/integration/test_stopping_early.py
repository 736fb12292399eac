"""Being told to stop while the database is asked about its schema, and does not answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from slayq_server.db import migrate
from slayq_server.db.pooler import shares_sessions
from tests.support.wire import Wire

if TYPE_CHECKING:
    from tests.support.daemon import Daemons


async def cancelled_in_time(task: asyncio.Task[object], wire: Wire) -> None:
    """Cancels it once the wire has fallen silent: it ends soon, as cancelled, and as nothing else."""
    async with asyncio.timeout(10):
        await wire.fell_silent.wait()
    await asyncio.sleep(0)
    task.cancel()
    # Much less than what the time limits of statements would allow.
    await asyncio.wait([task], timeout=3)
    assert task.cancelled()


@pytest.mark.parametrize("mark", [b"BEGIN", b"slayq.migration", b"compatible_with"])
async def test_a_look_at_the_schema_can_be_cancelled(database_url: str, mark: bytes) -> None:
    """At any of its steps."""
    async with Wire(database_url) as wire:
        wire.silence_at(mark)
        await cancelled_in_time(asyncio.create_task(migrate.ensure(wire.url)), wire)


@pytest.mark.parametrize("mark", [b"BEGIN", b"pg_advisory_xact_lock", b"create table", b"_grant_1"])
async def test_a_migration_can_be_cancelled(empty_database_url: str, mark: bytes) -> None:
    """At any of its steps, although each may take minutes."""
    async with Wire(empty_database_url) as wire:
        wire.silence_at(mark)
        await cancelled_in_time(asyncio.create_task(migrate.migrate(wire.url)), wire)


@pytest.mark.parametrize("mark", [b"BEGIN", b"pg_backend_pid"])
async def test_a_look_for_poolers_can_be_cancelled(database_url: str, mark: bytes) -> None:
    """At any of its steps."""
    async with Wire(database_url) as wire:
        wire.silence_at(mark)
        await cancelled_in_time(asyncio.create_task(shares_sessions(wire.url)), wire)


async def test_a_daemon_stops_that_has_not_started(daemons: Daemons, database_url: str) -> None:
    """One signal is enough."""
    async with Wire(database_url) as wire:
        wire.silence_at(b"slayq.migration")
        program = daemons.launch(env={"SLAY_Q_DATABASE_URL": wire.url})
        async with asyncio.timeout(20):
            await wire.fell_silent.wait()
        program.terminate()
        assert 0 == await program.wait(8)
        assert "Traceback" not in program.stdout + program.stderr
