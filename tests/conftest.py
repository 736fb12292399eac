"""Fixtures for tests on a real Postgres: one server for each test process, one database for each test.

`SLAYQ_TEST_PG` says which server: `embedded` or `installed`, with or without a major version (`embedded:16`). Without
it, the newest embedded one. Each pytest-xdist worker has a server of its own, started when its first test asks for one,
so that roles and settings of one worker never meet those of another.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, cast

import asyncpg
import pytest
import pytest_asyncio

from slayq_server.dev.cluster import Cluster, Installation, temporary_cluster
from tests.support.daemon import Daemons
from tests.support.databases import Databases
from tests.support.endpoint import Endpoint
from tests.support.process import Program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path
    from typing import Literal


class Connect(Protocol):
    """Opens a connection: to the test's own database, or to `url`. It is closed at the end of the test."""

    async def __call__(self, url: str | None = None, **options: Any) -> asyncpg.Connection: ...


class StartProgram(Protocol):
    """Starts `python -m slayq_server` with arguments. It is killed at the end of the test if it still runs."""

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None) -> Program: ...


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
        connection: asyncpg.Connection = await asyncpg.connect(
            url or database_url, **{"timeout": 10, "command_timeout": 60, **options}
        )
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.terminate()


@pytest_asyncio.fixture
async def connection(connect: Connect) -> asyncpg.Connection:
    """One connection to the test's own database."""
    return await connect()


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An app's endpoint that answers 200 to every callback, until it is told otherwise."""
    async with Endpoint() as running:
        yield running


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[StartProgram]:
    """Starts the real program, as often as the test likes; what it printed is shown where the test fails."""
    started: list[Program] = []
    with ExitStack() as stack:

        def start(*arguments: str, env: Mapping[str, str] | None = None) -> Program:
            program = stack.enter_context(Program(tmp_path / f"program-{len(started) + 1}", *arguments, env=env))
            started.append(program)
            return program

        yield start
    for program in started:
        print(program.report())  # pytest shows it if the test failed


@pytest.fixture
def daemons(start_program: StartProgram, database_url: str, endpoint: Endpoint, tmp_path: Path) -> Daemons:
    """Starts real daemons on the test's database, for callbacks to the test's endpoint."""
    return Daemons(start_program, database_url, endpoint.origin, tmp_path)


@pytest.fixture
def unused_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
