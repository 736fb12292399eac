"""Fixtures for tests of the schema and its SQL: a store over the test's own database, and a daemon's worker row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from slayq_server.db.pool import Pool
from slayq_server.db.store import Store
from tests.sql.runs import RunsDaemon, register
from tests.sql.support import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """The engine's statements on the test's own database."""
    pool = Pool(database_url)
    await pool.open()
    yield Store(pool)
    await pool.close()


@pytest_asyncio.fixture
async def daemon(store: Store) -> Daemon:
    """A daemon that has just started."""
    return await Daemon.register(store)


@pytest_asyncio.fixture
async def runs(daemon: Daemon, connection: asyncpg.Connection) -> RunsDaemon:
    """A daemon that has just started, and what it does with runs."""
    return RunsDaemon(daemon, connection)


@pytest_asyncio.fixture
async def shop(connection: asyncpg.Connection) -> None:
    """An app whose functions run."""
    await register(connection)
