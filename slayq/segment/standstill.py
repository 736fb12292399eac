"""Finds the moment at which a run can do no more in its segment.

A step without an outcome blocks the branch that asked for it. The segment is over when a branch is blocked, no step's
body runs, and every task of the run waits for a blocked one. That is looked at whenever a branch is blocked or a body
ends, and costs no delay. A task that waits for anything else gets a short grace: it is cancelled when that is up, and
its work begins anew with the next segment.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from slayq.errors import Suspended
from slayq.segment.failure import record_of
from slayq.segment.tasks import Family, Survey, Task, place_of, survey, waits_for_lock

if TYPE_CHECKING:
    from slayq.errors import InvalidStep
    from slayq.protocol_v2 import ErrorRecord

logger = logging.getLogger("slayq")

GRACE_SECONDS: Final = 0.25
"""How long what a function awaits outside of its steps holds up a segment that is over but for that."""

_REFUSALS: Final = 100
"""How often a step raises that cannot be taken. From then on it blocks, to stop a loop that catches whatever comes."""


class Fault:
    """A failed step that ends this attempt of the function."""

    def __init__(self, error: ErrorRecord, retry_after: float | None) -> None:
        self.error = error
        self.retry_after = retry_after


class Standstill:
    """Watches one segment. Everything here is called in the loop's thread."""

    def __init__(self, *, threaded: bool, grace: float = GRACE_SECONDS) -> None:
        """`threaded`: the function is a plain one; its task only waits for its thread."""
        self._loop = asyncio.get_running_loop()
        self._threaded = threaded
        self._grace = grace
        self._main: Task | None = None
        self._blocked: dict[asyncio.Future[NoReturn], Task | None] = {}
        self._running = 0
        self._check_due = False
        self._grace_timer: asyncio.TimerHandle | None = None
        self._watched: set[Task] = set()
        self._refused = 0
        self._calm: frozenset[Task] | None = None
        self.family = Family()
        """The tasks of the run."""
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when nothing can go on."""
        self.closed = False
        """Whether the segment takes no more ops."""
        self.fault: Fault | None = None
        """Once it is set, no body begins; those that run come to their end."""

    @property
    def running(self) -> int:
        """How many bodies run."""
        return self._running

    def watch(self, main: Task) -> None:
        """The task that the function runs in."""
        self._main = main

    async def admit(self) -> None:
        """Let a step in; raises Suspended once the segment is closed."""
        if not self.closed:
            return
        self._refused += 1
        if self._refused > _REFUSALS:
            await self._loop.create_future()
        raise Suspended

    async def refuse(self, error: InvalidStep) -> NoReturn:
        """Raise an error at a step, unless the function will not hear: then the attempt ends with that error."""
        self._refused += 1
        if self._refused > _REFUSALS:
            self.fail(Fault(record_of(error), None))
            await self.block()
        await asyncio.sleep(0)  # a loop round the step must not hold up everything else
        raise error

    def body_begins(self) -> None:
        """A step's body runs from now on."""
        self._running += 1
        self._stop_grace()

    def body_ends(self) -> None:
        """It does no longer."""
        self._running -= 1
        self._consider()

    async def block(self) -> NoReturn:
        """Wait for what this segment will not see. Raises Suspended when it is over."""
        await self.admit()
        pending: asyncio.Future[NoReturn] = self._loop.create_future()
        self._blocked[pending] = asyncio.current_task()
        self._consider()
        try:
            await pending
        finally:
            del self._blocked[pending]
        raise AssertionError("a blocked step came to an end")

    def fail(self, fault: Fault) -> None:
        """End the attempt as soon as no body runs. The first fault counts."""
        self.fault = self.fault or fault
        self._consider()

    def close(self) -> None:
        """Take no more ops."""
        self.closed = True
        self._stop_grace()

    def release(self) -> bool:
        """Raise Suspended in the function, if it waits for a step itself; else return False."""
        waiting = [
            pending
            for pending, task in self._blocked.items()
            if not pending.done() and (self._threaded or task is self._main)
        ]
        for pending in waiting:
            pending.set_exception(Suspended())
        return bool(waiting)

    def _consider(self) -> None:
        if not (self._check_due or self._running or self.closed):
            self._check_due = True
            self._loop.call_soon(self._check)

    def _check(self) -> None:
        self._check_due = False
        if self._running or self.closed or not self._blocked:
            return
        if self.fault is not None:
            self._end()
            return
        found = self._survey()
        if not (found.moving or found.outside):
            # Looked at twice: whom a task's end sets going is told a turn of the loop later.
            if found.tasks == self._calm:
                self._end()
            else:
                self._calm = found.tasks
                self._consider()
            return
        self._calm = None
        if self._grace_timer is None:
            self._grace_timer = self._loop.call_later(self._grace, self._grace_is_up)
        for task in found.outside:
            if task not in self._watched:
                self._watched.add(task)
                task.add_done_callback(self._outside_ended)
        if found.moving:
            self._consider()

    def _survey(self) -> Survey:
        in_step = set(self._blocked.values())
        if self._threaded:
            in_step.add(self._main)
        return survey(self.family.alive(), in_step.__contains__)

    def _outside_ended(self, task: Task) -> None:
        self._watched.discard(task)
        self._consider()

    def _grace_is_up(self) -> None:
        self._grace_timer = None
        if self._running or self.closed or not self._blocked:
            return
        outside = {place_of(task): waits_for_lock(task) for task in self._survey().outside}
        for place, for_lock in outside.items():
            # A branch that waits for its turn is as it should be, if it is another branch that gives it.
            logger.log(
                logging.INFO if for_lock else logging.WARNING,
                "function_awaits_outside_step: %s is cancelled, because the run is suspended and cannot wait for it; it"
                " begins anew when the run goes on. Put what it does into a step.",
                place,
                extra={"place": place},
            )
        self._end()

    def _stop_grace(self) -> None:
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None

    def _end(self) -> None:
        self.close()
        if not self.over.done():
            self.over.set_result(None)
