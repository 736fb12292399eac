"""Fixtures for tests on a real Postgres: one server for each test process, one database for each test.

`SLAYQ_TEST_PG` says which server: `embedded` or `installed`, with or without a major version (`embedded:16`). Without
it, the newest embedded one. Each pytest-xdist worker has a server of its own, started when its first test asks for one,
so that roles and settings of one worker never meet those of another.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, cast

import asyncpg
import pytest
import pytest_asyncio

from slayq_server.dev.cluster import Cluster, Installation, temporary_cluster
from tests.support.databases import Databases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Literal


class Connect(Protocol):
    """Opens a connection: to the test's own database, or to `url`. It is closed at the end of the test."""

    async def __call__(self, url: str | None = None, **options: Any) -> asyncpg.Connection: ...


def chosen_installation() -> Installation:
    """The Postgres that `SLAYQ_TEST_PG` names."""
    kind, _, major = os.environ.get("SLAYQ_TEST_PG", "embedded").partition(":")
    if kind not in ("embedded", "installed", "auto"):
        raise pytest.UsageError(f"SLAYQ_TEST_PG={kind!r}: use embedded, installed or auto, such as embedded:16")
    return Installation.find(cast("Literal['embedded', 'installed', 'auto']", kind), int(major) if major else None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The running server that all databases are in. A test that stops or changes a server starts one of its own."""
    with temporary_cluster(chosen_installation()) as running:
        yield running


@pytest.fixture(scope="session")
def databases(cluster: Cluster) -> Iterator[Databases]:
    """What makes databases, for a test that needs more than one: `create_migrated()`, `create_empty()`, `drop()`."""
    with Databases(cluster) as made:
        yield made


@pytest.fixture
def database_url(cluster: Cluster, databases: Databases) -> Iterator[str]:
    """The URL of a database of the test's own, with the schema in it."""
    name = databases.create_migrated()
    yield cluster.url(name)
    databases.drop(name)


@pytest.fixture
def empty_database_url(cluster: Cluster, databases: Databases) -> Iterator[str]:
    """The URL of a database of the test's own, with nothing in it."""
    name = databases.create_empty()
    yield cluster.url(name)
    databases.drop(name)


@pytest_asyncio.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    """Opens as many connections as the test likes: `await connect()`."""
    opened: list[asyncpg.Connection] = []

    async def open_connection(url: str | None = None, **options: Any) -> asyncpg.Connection:
        connection = await asyncpg.connect(url or database_url, **{"timeout": 10, "command_timeout": 60, **options})
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.terminate()


@pytest_asyncio.fixture
async def connection(connect: Connect) -> asyncpg.Connection:
    """One connection to the test's own database."""
    return await connect()
