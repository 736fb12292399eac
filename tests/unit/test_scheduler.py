"""The scheduler's loop, on a fake database."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from slayq_server.clock import SystemClock
from slayq_server.engine.crontab import Crontab
from slayq_server.engine.scheduler import Scheduler
from slayq_server.model import ScheduleRow, ScheduleTimes
from tests.support.virtual import VirtualClock, in_virtual_time, now

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
        self.registered: list[tuple[ScheduleRow, bool]] = []
        """Functions' schedules, and whether they are planned."""
        self.plans: list[tuple[str, str, datetime]] = []
        self.asked_for: list[str] = []
        self.due_in = 3600.0

    async def functions(self) -> list[tuple[ScheduleRow, bool]]:
        return self.registered

    async def plan(self, schedule_id: str, cron: str, next_at: datetime) -> None:
        self.plans.append((schedule_id, cron, next_at))

    async def now(self) -> datetime:
        return NOW

    async def register(self, schedule: ScheduleRow) -> None: ...

    async def times(self, ids: Sequence[str]) -> list[ScheduleTimes]:
        self.on_times()
        self.asked_for = list(ids)
        return [ScheduleTimes("hourly", NOW + timedelta(hours=1), None, self.due_in)]

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


async def test_functions_schedules_are_planned_from_now_on() -> None:
    """One that is planned already is left as it is; one whose cron line cannot be read costs only itself, once."""
    store = FakeStore()
    of_function = replace(HOURLY, kind="function")
    store.registered = [
        (replace(of_function, id="function:a", cron="30 12 * * *"), False),
        (replace(of_function, id="function:b"), True),
        (replace(of_function, id="function:c", cron="61 * * * *"), False),
    ]
    refused: list[str] = []
    times: list[str] = []
    looks = 0
    scheduler = Scheduler(
        store,
        SystemClock(),
        on_fired=lambda schedule, result, _: refused.append(f"{schedule.id} {result}"),
        on_times=lambda entries: times.extend(entry.id for entry in entries),
        on_error=lambda _: None,
    )

    def again() -> None:
        nonlocal looks
        looks += 1
        if looks < 3:
            scheduler.look()
        else:
            enough.set()

    enough = asyncio.Event()
    store.on_times = again
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(scheduler.run())
        await enough.wait()
        task.cancel()
    expected = Crontab.parse("30 12 * * *").next_after(NOW)
    assert [("function:a", "30 12 * * *", expected)] * 3 == store.plans
    assert ["function:c refused"] == refused
    assert ["function:a", "function:b"] == store.asked_for
    # A cron line that was mended is tried again.
    store.registered = [(replace(of_function, id="function:c", cron="1 * * * *"), False)]
    await scheduler._look_at_functions()
    assert "function:c" == store.plans[-1][0]


@in_virtual_time
async def test_a_schedule_that_stays_locked_is_looked_at_less_and_less_often() -> None:
    """An app may take its time to register; other schedules are on time meanwhile."""
    store = FakeStore()
    looks: list[float] = []
    store.on_times = lambda: looks.append(now())
    store.due_in = -1.0
    scheduler = Scheduler(
        store, VirtualClock(), on_fired=lambda *_: None, on_times=lambda _: None, on_error=lambda _: None
    )
    scheduler.replace([HOURLY])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(scheduler.run())
        await asyncio.sleep(60)
        assert 10 < len(looks) < 60
        store.due_in = 0.2
        await asyncio.sleep(10)
        assert len(looks) > 60
        task.cancel()
