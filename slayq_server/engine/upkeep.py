"""What is done now and then: the gauges' snapshot, and pruning what has been kept long enough.

It has no clockwork of its own, but goes by the renewals of the worker row, and does one thing after the other, when
such a renewal has ended: a server that has nothing to do needs no second connection for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slayq_server.clock import Clock

SNAPSHOT_EVERY = 14.0
"""Seconds, at the most, where renewals allow it; scrapes must not read anything older than 15 s."""
PRUNE_EVERY = 60.0
_PRUNE_BATCH = 1000
_TRIGGER_AGE = 3600.0
_TRIGGERS_KEPT = 100_000
_EVENT_AGE = 86_400.0
"""Seconds that an event is kept at the least for waits to look back to; those of older runs are kept for longer."""
_SENT_AGE = 7 * 86_400.0
"""Seconds within which sending with the same id creates no second run."""
_log = structlog.get_logger()

SnapshotRow = tuple[str, str, str, int, float | None]


class UpkeepStore(Protocol):
    """What upkeep asks of the database."""

    async def snapshot(self) -> list[SnapshotRow]: ...
    async def prune(self, statement: str, *limits: float) -> int: ...


class Upkeep:
    """A slow loop over the database."""

    def __init__(
        self,
        store: UpkeepStore,
        clock: Clock,
        *,
        beats_every: float,
        on_snapshot: Callable[[Sequence[SnapshotRow]], None],
        on_error: Callable[[DatabaseUnavailable], None],
        done_kept: float | None,
        dead_kept: float,
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            clock: measures.
            beats_every: seconds between two beats.
            on_snapshot: called with each snapshot's rows.
            on_error: called when the database is away.
            done_kept: seconds that history is kept; None: there is none.
            dead_kept: seconds that dead letters are kept.
        """
        self._store = store
        self._clock = clock
        self._beats_every = beats_every
        self._on_snapshot = on_snapshot
        self._on_error = on_error
        self.done_kept = done_kept
        self.dead_kept = dead_kept
        self._beat = asyncio.Event()

    def beat(self) -> None:
        """The worker row has been renewed."""
        self._beat.set()

    async def run(self) -> None:
        """Takes snapshots and prunes until cancelled."""
        snapshot_at = float("-inf")
        prune_at = self._clock.monotonic() + PRUNE_EVERY
        while True:
            await self._beat.wait()
            self._beat.clear()
            now = self._clock.monotonic()
            try:
                if snapshot_at < now + self._beats_every:  # the next beat would come too late
                    snapshot_at = now + SNAPSHOT_EVERY
                    self._on_snapshot(await self._store.snapshot())
                if prune_at <= now:
                    prune_at = now + PRUNE_EVERY
                    await self.prune_once()
            except DatabaseUnavailable as error:
                self._on_error(error)

    async def prune_once(self) -> dict[str, int]:
        """Removes all that is past its time; how many rows of each kind went. What fails keeps nothing else."""
        kinds: dict[str, tuple[float, ...]] = {
            "prune_dead": (self.dead_kept,),
            "prune_triggers": (_TRIGGER_AGE, _TRIGGERS_KEPT),
            "prune_events": (_EVENT_AGE,),
            "prune_sent": (_SENT_AGE,),
        }
        if self.done_kept is not None:
            kinds["prune_done"] = (self.done_kept,)
        gone: dict[str, int] = {}
        failures: list[DatabaseUnavailable] = []
        for statement, limits in kinds.items():
            try:
                gone[statement] = await self._prune(statement, *limits)
            except DatabaseUnavailable as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return gone

    async def _prune(self, statement: str, *limits: float) -> int:
        total, batch = 0, _PRUNE_BATCH
        while True:
            try:
                gone = await self._store.prune(statement, *limits, batch)
            except DatabaseUnavailable:
                # A dead letter of a run takes all of its steps along: maybe that was too much for one statement.
                batch //= 10
                if not batch:
                    raise
                continue
            total += gone
            if gone < batch:
                break
        if total:
            _log.info("pruned", statement=statement, rows=total)
        return total
