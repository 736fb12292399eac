"""Fixtures for taking over: each test's own database is one in which the original has run, and nothing of ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.integration.takeover.original import HERE, Original, graphile
from tests.support.npm import npm_project
from tests.support.process import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slayq_server.dev.cluster import Cluster
    from tests.support.databases import Databases


@pytest.fixture(scope="session")
def packages() -> Path:
    """Where the real Graphile Worker is installed."""
    return npm_project(HERE / "node")


@pytest.fixture(scope="session")
def template(cluster: Cluster, databases: Databases, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database that the real Graphile Worker has migrated, with the original's own part, and no job."""
    name = databases.create_empty()
    url = cluster.url(name)

    async def make() -> None:
        with Program(tmp_path_factory.mktemp("graphile"), command=graphile(packages, "migrate", url)) as program:
            assert await program.wait() == 0, program.report()
        connection = await asyncpg.connect(url)
        try:
            await connection.execute((HERE / "original.sql").read_text(encoding="utf-8"))
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(make())
    return name


@pytest.fixture
def database_url(cluster: Cluster, databases: Databases, template: str) -> Iterator[str]:
    """The URL of a database of the test's own, as the original left it."""
    name = databases.clone(template)
    yield cluster.url(name)
    databases.drop(name)


@pytest.fixture
def old(connection: asyncpg.Connection) -> Original:
    """What the original does in the test's own database."""
    return Original(connection)


@pytest.fixture
def old_server(packages: Path, database_url: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts the real Graphile Worker on the test's own database, for the queues named."""
    started: list[Program] = []

    def start(*queues: str) -> Program:
        folder = tmp_path / f"old-{len(started)}"
        started.append(Program(folder, command=graphile(packages, "work", database_url, *queues)))
        return started[-1]

    yield start
    for program in started:
        program.kill()
        print(program.report())  # pytest shows it if the test failed
