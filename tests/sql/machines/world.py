"""What the machines share: the test's database, driven from code that is not asynchronous, and how much they try."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from hypothesis import HealthCheck, Phase, settings

from slayq_server.db.pool import Pool
from slayq_server.db.store import Store
from tests.sql.support import Daemon

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from slayq_server.model import LeasedJob

T = TypeVar("T")

_UNHURRIED = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


def effort(examples: int, steps: int, *, same: bool = True) -> settings:
    """So many examples of so many steps at the most: the same ones each time, or others."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=same,
        deadline=None,
        database=None,
        print_blob=not same,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=_UNHURRIED,
    )


class World:
    """A database with the schema in it, and daemons on it."""

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection, store: Store) -> None:
        self._runner = runner
        self.connection = connection
        self.store = store

    @classmethod
    @contextmanager
    def of(cls, url: str) -> Iterator[World]:
        """Connected."""
        with asyncio.Runner() as runner:
            connection = runner.run(asyncpg.connect(url, timeout=10, command_timeout=60))
            pool = Pool(url)
            runner.run(pool.open())
            try:
                yield cls(runner, connection, Store(pool))
            finally:
                runner.run(pool.close())
                connection.terminate()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def do(self, sql: str, *args: object) -> None:
        self.run(self.connection.execute(sql, *args))

    def rows(self, sql: str, *args: object) -> list[Any]:
        return self.run(self.connection.fetch(sql, *args))

    def value(self, sql: str, *args: object) -> Any:
        return self.run(self.connection.fetchval(sql, *args))

    def clear(self) -> None:
        """Empties all tables but that of the migrations."""
        tables = self.value(
            """select string_agg(format('slayq.%I', tablename), ', ') from pg_tables
            where schemaname = 'slayq' and tablename not in ('migration', 'grantee', 'replaced_function')"""
        )
        self.do(f"truncate {tables}")

    def daemon(self) -> Daemon:
        """One that has just started."""
        return self.run(Daemon.register(self.store))


def leased_order(rows: Sequence[Any]) -> list[int]:
    """The ids of these ready jobs in the order in which they are to be leased."""
    return [row["id"] for row in sorted(rows, key=lambda row: (row["priority"], row["run_at"], row["id"]))]


def ids(jobs: Sequence[LeasedJob]) -> list[int]:
    return [each.id for each in jobs]


EVENTUALLY = timedelta(days=30_000)
"""Later than any back-off: such a time was given by the caller."""
