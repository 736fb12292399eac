"""Cron ticks: each once in the cluster, because the row of a schedule is moved in the transaction that adds the job.

The row's `next_at` only ever moves forward, so a clock that is set back cannot repeat a tick. A tick that comes while
nobody was there to fire it is missed; the schedule's `catch_up` says what becomes of missed ticks.

A row says what a daemon with another configuration, or of another release, has last written, or, of a function's
schedule, what an app has registered. One that this daemon can make nothing of costs its own ticks and no others.

A function's schedule is registered without a next tick, because Postgres cannot read cron lines: whichever daemon sees
it first sets that, from then on. Every daemon fires every function's schedule.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import structlog

from slayq_server.engine.crontab import Crontab
from slayq_server.engine.passes import make_passes
from slayq_server.errors import RequestRefused, StatementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from slayq_server.clock import Clock
    from slayq_server.errors import DatabaseUnavailable
    from slayq_server.model import ScheduleRow, ScheduleTimes

FUNCTION_KIND = "function"
"""The `kind` of a function's schedule."""
ON_TIME = timedelta(seconds=60)
"""A tick this late at the most is on time; a later one was missed."""
_MOST_CAUGHT_UP = 50_000
"""More than a tick each minute of the longest window, 31 days."""
_LOCKED_PAUSE = 0.05
_MOST_VAIN = 5
_log = structlog.get_logger()


class Firing(Protocol):
    """The transaction in which due schedules fire."""

    due: list[ScheduleRow]

    def one_schedule(self) -> AbstractAsyncContextManager[None]: ...
    async def add(self, schedule: ScheduleRow, payload: str, tick: datetime) -> bool: ...
    async def move(self, schedule_id: str, next_at: datetime, fired: datetime | None) -> None: ...


class ScheduleStore(Protocol):
    """What the scheduler asks of the database."""

    async def now(self) -> datetime: ...
    async def register(self, schedule: ScheduleRow) -> None: ...
    async def functions(self) -> list[tuple[ScheduleRow, bool]]: ...
    async def plan(self, schedule_id: str, cron: str, next_at: datetime) -> None: ...
    async def times(self, ids: Sequence[str]) -> list[ScheduleTimes]: ...
    def firing(self, ids: Sequence[str]) -> AbstractAsyncContextManager[Firing]: ...


def ticks_to_fire(schedule: ScheduleRow, crontab: Crontab) -> list[datetime]:
    """The ticks of a due schedule that are to fire now, oldest first: the one on time, and missed ones by `catch_up`.

    none: only a tick that is on time. last: the last one, however late. all: each within the window, and the last.
    """
    window = timedelta(seconds=schedule.catch_up_window)
    if schedule.catch_up != "all":
        latest = _latest(schedule, crontab)
        if schedule.catch_up == "none" and schedule.now - latest > ON_TIME:
            return []
        return [latest]
    since = max(schedule.next_at, schedule.now - window)
    just_before = timedelta(microseconds=1)
    ticks = crontab.ticks_between(since - just_before, schedule.now, _MOST_CAUGHT_UP)
    return ticks or [_latest(schedule, crontab)]


def _latest(schedule: ScheduleRow, crontab: Crontab) -> datetime:
    """The last tick up to now."""
    return crontab.last_between(schedule.next_at, schedule.now) or schedule.next_at


def payload_of(schedule: ScheduleRow) -> str:
    """The payload of a schedule's job, as JSON text; `data` goes in as it was stored."""
    head = json.dumps({"url": schedule.url, "retry": 0, "event": schedule.event})
    return f'{head[:-1]}, "data": {schedule.data}}}'


class Scheduler:
    """Fires the schedules of this daemon's configuration, and those of functions."""

    def __init__(
        self,
        store: ScheduleStore,
        clock: Clock,
        *,
        on_fired: Callable[[ScheduleRow, str, int], None],
        on_times: Callable[[Sequence[ScheduleTimes]], None],
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            clock: measures the wait.
            on_fired: called with a schedule, a result (fired, caught_up, skipped, missed, refused) and how many
                ticks.
            on_times: called with the next and last ticks of the configuration's schedules, after each change.
            on_error: called when the database is away.
        """
        self._store = store
        self._clock = clock
        self._on_fired = on_fired
        self._on_times = on_times
        self._on_error = on_error
        self._schedules: list[ScheduleRow] = []
        self._registered = False
        self._unusable: set[str] = set()
        """Rows that this daemon leaves to those who have written them, until the next reload."""
        self._functions: dict[str, str] = {}
        """Cron lines of functions' schedules, by id, as they were last seen."""
        self._unusable_functions: dict[str, str] = {}
        """Those of them that cannot be read: until another is registered."""
        self._functions_changed = True
        self._due_at: float | None = None
        self._vain = 0
        """Looks in a row that have left something due."""
        self._asked = False
        """To look at the rows: since the last look began, whatever that look makes of the next tick."""
        self._wake = asyncio.Event()

    def replace(self, schedules: Sequence[ScheduleRow]) -> None:
        """Takes over the schedules of a (new) configuration; they are written to the database by `run`."""
        self._schedules = list(schedules)
        self._registered = False
        self._unusable = set()
        self._wake.set()

    def look(self) -> None:
        """The heartbeat says that a tick is due, or functions were registered: look at the rows again."""
        self._asked = True
        self._functions_changed = True
        self._wake.set()

    async def run(self) -> None:
        """Fires ticks until cancelled."""
        await make_passes(self._until_due, self._pass, self._failed)

    async def _pass(self) -> None:
        self._asked = False
        if self._functions_changed:
            await self._look_at_functions()
        if not self._registered:
            await self._register()
        else:
            await self._fire()
        ids = self._ids()
        self._plan(await self._store.times(ids) if ids else [])

    def _failed(self, error: DatabaseUnavailable) -> None:
        self._on_error(error)
        self.look()

    def _ids(self) -> list[str]:
        configured = [schedule.id for schedule in self._schedules if schedule.id not in self._unusable]
        return configured + [id for id, cron in self._functions.items() if self._unusable_functions.get(id) != cron]

    async def _look_at_functions(self) -> None:
        """Takes over which functions have schedules, and sets the first ticks of new ones: no back-fill."""
        self._functions_changed = False
        rows = await self._store.functions()
        self._functions = {schedule.id: schedule.cron for schedule, _ in rows}
        for schedule, planned in rows:
            if planned or self._unusable_functions.get(schedule.id) == schedule.cron:
                continue
            try:
                next_at = Crontab.parse(schedule.cron).next_after(schedule.now)
            except ValueError as error:
                self._give_up(schedule, error)
                self._on_fired(schedule, "refused", 1)
            else:
                await self._store.plan(schedule.id, schedule.cron, next_at)

    async def _register(self) -> None:
        schedules = self._schedules
        now = await self._store.now() if schedules else None
        for schedule in schedules:
            # Where a new schedule starts is for the database's clock to say, as everything that is due.
            assert now is not None
            try:
                await self._store.register(replace(schedule, next_at=Crontab.parse(schedule.cron).next_after(now)))
            except StatementFailed as error:
                self._give_up(schedule, error)
        self._registered = schedules is self._schedules

    def _plan(self, times: Sequence[ScheduleTimes]) -> None:
        now = self._clock.monotonic()
        # What is due still is locked, by a daemon that fires it or by an app that registers: looked at less and less
        # often. This clock may also be a little ahead.
        locked = any(entry.due_in <= 0 for entry in times)
        self._vain = min(self._vain + 1, _MOST_VAIN) if locked else 0
        pause = _LOCKED_PAUSE * (1 << self._vain)
        self._due_at = min(
            (now + (max(entry.due_in, _LOCKED_PAUSE) if entry.due_in > 0 else pause) for entry in times), default=None
        )
        self._on_times([entry for entry in times if entry.id not in self._functions])

    async def _until_due(self) -> None:
        while self._registered and not self._asked:
            now = self._clock.monotonic()
            if self._due_at is not None and self._due_at <= now:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(None if self._due_at is None else self._due_at - now):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _fire(self) -> None:
        fired: list[tuple[ScheduleRow, str, int]] = []
        async with self._store.firing(self._ids()) as firing:
            for schedule in firing.due:
                fired.append(await self._fire_one(firing, schedule))
        for schedule, result, number in fired:
            self._on_fired(schedule, result, number)

    async def _fire_one(self, firing: Firing, schedule: ScheduleRow) -> tuple[ScheduleRow, str, int]:
        try:
            crontab = Crontab.parse(schedule.cron)
            next_at = crontab.next_after(schedule.now)
            # In a thread: a month of minutes to catch up takes a second.
            ticks = await asyncio.to_thread(ticks_to_fire, schedule, crontab)
        except ValueError as error:
            self._give_up(schedule, error)
            return schedule, "refused", 1
        payload = payload_of(schedule)
        added: list[bool] = []
        try:
            async with firing.one_schedule():
                added += [await firing.add(schedule, payload, tick) for tick in ticks]
        except (RequestRefused, StatementFailed) as error:
            _log.error("schedule_refused", schedule=schedule.id, error=str(error))
            await firing.move(schedule.id, next_at, None)
            return schedule, "refused", 1
        await firing.move(schedule.id, next_at, ticks[-1] if ticks else None)
        if not ticks:
            return schedule, "missed", 1
        if not any(added):
            return schedule, "skipped", 1
        late = len(ticks) > 1 or schedule.now - ticks[-1] > ON_TIME
        return schedule, "caught_up" if late else "fired", len(ticks)

    def _give_up(self, schedule: ScheduleRow, error: Exception) -> None:
        if schedule.kind == FUNCTION_KIND:
            self._unusable_functions[schedule.id] = schedule.cron
        else:
            self._unusable.add(schedule.id)
        _log.error("schedule_unusable", schedule=schedule.id, error=str(error))
