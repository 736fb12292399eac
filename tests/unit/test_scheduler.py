"""The scheduler's loop, on a fake database."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from slayq_server.clock import SystemClock
from slayq_server.engine.scheduler import Scheduler
from slayq_server.model import ScheduleRow, ScheduleTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOURLY = ScheduleRow(
    id="hourly", cron="0 * * * *", queue="mail", event="e", url="http://127.0.0.1:1/", data="{}", priority=0,
    max_attempts=None, job_key=None, kind="config", catch_up="last", catch_up_window=60.0, next_at=NOW, last_at=None,
    now=NOW,
)  # fmt: skip


class FakeStore:
    """Says that the next tick is an hour away; `on_times` runs while it is asked."""

    def __init__(self) -> None:
        self.on_times: Any = lambda: None
        self.looked = asyncio.Event()

    async def now(self) -> datetime:
        return NOW

    async def register(self, schedule: ScheduleRow) -> None: ...

    async def times(self, ids: Sequence[str]) -> list[ScheduleTimes]:
        self.on_times()
        return [ScheduleTimes("hourly", NOW + timedelta(hours=1), None, 3600.0)]

    @asynccontextmanager
    async def firing(self, ids: Sequence[str]) -> AsyncIterator[Any]:
        self.looked.set()
        yield SimpleNamespace(due=[])


async def test_a_look_asked_for_while_the_next_tick_is_planned_is_not_lost() -> None:
    """The heartbeat says that a tick is due, between the reading of the next ticks and their planning."""
    store = FakeStore()
    scheduler = Scheduler(
        store,
        SystemClock(),
        on_fired=lambda *_: None,
        on_times=lambda _: None,
        on_error=lambda _: None,
    )
    scheduler.replace([HOURLY])

    def once() -> None:
        store.on_times = lambda: None
        scheduler.look()

    store.on_times = once
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(scheduler.run())
        await store.looked.wait()
        task.cancel()
