"""Databases for tests: each a clone of one migrated template, made in milliseconds and dropped at the test's end."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from slayq_server.dev.cluster import Cluster

TEMPLATE = "slayq_template"
TIME_LIMIT = 60.0


class Databases:
    """Makes and drops the databases of one server, in a thread of its own, so that tests of any kind can use it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._numbers = count(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="test-databases")
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection | None = None
        self._template_made = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._run(self._connection.close(timeout=5))
        self._thread.submit(self._runner.close).result(TIME_LIMIT)
        self._thread.shutdown()

    def create_migrated(self) -> str:
        """Make a database with the schema in it; return its name."""
        if not self._template_made:
            # Imported here so that tests which need no database do not depend on the migrations.
            from slayq_server.db.migrate import migrate

            self._execute(f"create database {TEMPLATE}")
            self._run(migrate(self._cluster.url(TEMPLATE)))
            self._template_made = True
        return self._create(TEMPLATE)

    def create_empty(self) -> str:
        """Make a database with nothing in it; return its name."""
        return self._create("template0")

    def clone(self, template: str) -> str:
        """Make a copy of a database to which nobody is connected; return its name."""
        return self._create(template)

    def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected to it; nothing where the test has done so already."""
        if self._cluster.running:
            self._execute(f'drop database if exists "{name}" with (force)')

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        # Copying the files is the quicker strategy by far with fsync off.
        self._execute(f'create database "{name}" template {template} strategy file_copy')
        return name

    def _execute(self, statement: str) -> None:
        self._run(self._execute_here(statement))

    async def _execute_here(self, statement: str) -> None:
        if self._connection is None or self._connection.is_closed():  # a test may have restarted the server
            self._connection = await asyncpg.connect(self._cluster.url(), command_timeout=TIME_LIMIT)
        await self._connection.execute(statement)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._thread.submit(self._runner.run, work).result(TIME_LIMIT)
