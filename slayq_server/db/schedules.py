"""Schedules in Postgres: a row each with its next tick. Firing moves the row and adds the job in one transaction."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.db.errors import translated
from slayq_server.db.statements import query
from slayq_server.model import ScheduleRow, ScheduleTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from slayq_server.db.pool import Pool


class Firing:
    """The transaction in which due schedules fire: either all of it happens, or nothing."""

    def __init__(self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], due: list[ScheduleRow]) -> None:
        self._connection = connection
        self.due = due
        """The schedules with a tick due, locked against every other daemon."""

    @contextlib.asynccontextmanager
    async def one_schedule(self) -> AsyncIterator[None]:
        """What is refused in here leaves the rest of the transaction as it was; errors come out translated."""
        with translated():
            await self._connection.execute("savepoint one_schedule")
            try:
                yield
            except asyncpg.PostgresError:
                await self._connection.execute("rollback to savepoint one_schedule")
                raise
            await self._connection.execute("release savepoint one_schedule")

    async def add(self, schedule: ScheduleRow, payload: str, tick: datetime) -> bool:
        """Adds the job or the run of one tick; False if the v1 tick before it is still being delivered."""
        if schedule.kind == "function":
            await self._connection.fetchval(query("send_tick"), schedule.event, tick)
            return True
        if schedule.kind == "tick":
            added = await self._connection.fetchval(query("add_tick"), schedule.queue, payload, tick)
            return added is not None
        await self._connection.fetchval(
            query("add_job"),
            schedule.queue,
            payload,
            None,
            tick,
            schedule.max_attempts,
            schedule.job_key,
            schedule.priority,
            None,
            "replace",
        )
        return True

    async def move(self, schedule_id: str, next_at: datetime, fired: datetime | None) -> None:
        """Sets the next tick, and the last one fired."""
        await self._connection.execute(query("schedules_move"), schedule_id, next_at, fired)


class Schedules:
    """The schedules' statements over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def register(self, schedule: ScheduleRow) -> None:
        """Writes a schedule of the configuration. A new one, or one with another cron text, starts at its `next_at`."""
        await self._pool.execute(
            "schedules_register",
            schedule.id,
            schedule.cron,
            schedule.queue,
            schedule.event,
            schedule.url,
            schedule.data,
            schedule.priority,
            schedule.max_attempts,
            schedule.job_key,
            schedule.catch_up,
            schedule.catch_up_window,
            schedule.next_at,
            schedule.kind,
        )

    async def functions(self) -> list[tuple[ScheduleRow, bool]]:
        """The schedules of functions, and whether their next tick is set."""
        return [(ScheduleRow(*row[:-1]), row["planned"]) for row in await self._pool.fetch("schedules_functions")]

    async def plan(self, schedule_id: str, cron: str, next_at: datetime) -> None:
        """Sets the first tick of a function's schedule, unless that is done or its cron line is another by now."""
        await self._pool.execute("schedules_plan", schedule_id, cron, next_at)

    async def now(self) -> datetime:
        """The database's clock."""
        now: datetime = await self._pool.fetchval("clock")
        return now

    async def times(self, ids: Sequence[str]) -> list[ScheduleTimes]:
        """When these fire next and have fired last."""
        return [ScheduleTimes(*row) for row in await self._pool.fetch("schedules_times", list(ids))]

    @contextlib.asynccontextmanager
    async def firing(self, ids: Sequence[str]) -> AsyncIterator[Firing]:
        """Opens the transaction and locks what is due; a schedule that another daemon is firing is not among them."""
        async with self._pool.transaction() as connection:
            rows = await connection.fetch(query("schedules_due"), list(ids))
            yield Firing(connection, [ScheduleRow(*row) for row in rows])
