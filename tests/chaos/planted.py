"""Bugs to plant in a daemon, to see whether the checker finds them: `CHAOS_PLANT=NAME python -m tests.chaos.bent …`.

The product knows nothing of this: the bug is put in from outside, in that process alone, before the daemon starts.

    stale_settle    outcomes are written down by the job's id alone, whoever holds it by then
    counted_limit   a limit of the cluster is held by counting what is leased, not by locked slots
    unlocked_cron   a tick fires without its schedule's row being locked
    no_deadline     a daemon that cannot renew its worker row goes on trusting it
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from slayq_server.db import statements
from slayq_server.db import store as stores
from slayq_server.engine import scheduler, worker

if TYPE_CHECKING:
    from collections.abc import Callable


def stale_settle() -> None:
    """Completion goes by the id alone."""
    text = statements.query("settle_completed")
    held = " and j.worker_id = $1 and (select"
    bare = _replaced(text, held, " and $1::bigint > 0 and (select")
    bare = _replaced(bare, "on outcome.id = held.id and outcome.lease = held.lease", "on outcome.id = held.id")
    _put("settle_completed", bare)


def counted_limit() -> None:
    """How many slots are free is counted from the jobs that are leased: meanwhile, others lease, too."""

    async def acquire_slots(self: Any, worker_id: int, queue: str, wanted: int, limit: int) -> int:
        async with self._pool.connection() as connection:
            held: int = await connection.fetchval(
                "select greatest(0, $3 - count(*) filter (where worker_id <> $1))::int from slayq.job "
                "where state = 'leased' and queue = $2",
                worker_id,
                queue,
                limit,
            )
        await asyncio.sleep(0.3)
        return held

    async def release_slots(self: Any, worker_id: int, queue: str, number: int) -> None:
        pass

    stores.Store.acquire_slots = acquire_slots  # type: ignore[method-assign]
    stores.Store.release_slots = release_slots  # type: ignore[method-assign]


def unlocked_cron() -> None:
    """The row of a schedule is read, not locked; and it takes a while until it is moved, as on a slow machine."""
    _put("schedules_due", _replaced(statements.query("schedules_due"), "for update skip locked", ""))
    fire_one = scheduler.Scheduler._fire_one

    async def slowly(self: Any, firing: Any, schedule: Any) -> Any:
        await asyncio.sleep(1.5)
        return await fire_one(self, firing, schedule)

    scheduler.Scheduler._fire_one = slowly  # type: ignore[method-assign]


def no_deadline() -> None:
    """Trust has no end: only a renewal that finds the row gone ends it."""

    def remaining(self: Any) -> float:
        return 3600.0

    worker.Worker._remaining = remaining  # type: ignore[method-assign]
    worker.Worker.trusted = property(lambda self: self.id is not None)  # type: ignore[assignment, method-assign]


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"there is nothing to plant the bug in any more: {old!r}"
    return text.replace(old, new)


def _put(name: str, text: str) -> None:
    """Another text for a statement, for all modules that have taken `query` over by name."""
    query = statements.query

    def changed(asked: str) -> str:
        return text if asked == name else query(asked)

    for module in list(sys.modules.values()):
        if getattr(module, "query", None) is query:
            module.query = changed  # type: ignore[attr-defined]


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant for plant in (stale_settle, counted_limit, unlocked_cron, no_deadline)
}


def plant(name: str) -> None:
    """Puts a bug into this process."""
    import slayq_server.db.pool
    import slayq_server.db.schedules  # noqa: F401  # what is not loaded yet would take over the text as it is

    PLANTS[name]()
