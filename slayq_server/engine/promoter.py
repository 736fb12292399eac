"""What has become due, what a dead worker held, which serial queue lacks a head, which event has a run waiting for it.

A timer that sleeps until the next job is due, not a poll: a sleep of 2 s ends at 2.0 s. The heartbeat looks further
ahead (every few seconds), so a word from outside is only needed for what falls due before the next one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from slayq_server.engine.passes import make_passes
from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slayq_server.clock import Clock
    from slayq_server.model import Matched, Promoted, Reaped

_BATCH = 500
_SWEEP_PAUSE = 0.1
"""Seconds between two sweeps of the serial queues, at the least."""
_MATCH_BATCH = 100
"""Events: while they are matched no wait can be registered."""
_LEFT_OVER_PAUSE = 0.1
"""Seconds after which to look again at events for a run that somebody had locked."""
_log = structlog.get_logger()


class PromoterStore(Protocol):
    """What the promoter asks of the database."""

    async def promote(self, most: int) -> Promoted: ...
    async def match_events(self, most: int, after: int) -> Matched: ...
    async def advance_headless_lanes(self, most: int) -> tuple[str, ...]: ...
    async def reap(self, most: int) -> tuple[list[Reaped], tuple[str, ...]]: ...


class Promoter:
    """Moves jobs on when their time comes."""

    def __init__(
        self,
        store: PromoterStore,
        clock: Clock,
        *,
        on_ready: Callable[[Iterable[str]], None],
        on_promoted: Callable[[Promoted], None],
        on_reaped: Callable[[list[Reaped]], None],
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            clock: measures the wait.
            on_ready: called with queues that have something new to lease.
            on_promoted: called with what each pass found, for the metrics.
            on_reaped: called with jobs taken back from dead workers.
            on_error: called when the database is away.
        """
        self._store = store
        self._clock = clock
        self._on_ready = on_ready
        self._on_promoted = on_promoted
        self._on_reaped = on_reaped
        self._on_error = on_error
        self._wake = asyncio.Event()
        self._due_at: float | None = None
        self._batch = _BATCH
        """How many jobs the next pass takes at the most: fewer after one that failed."""
        self._sweep_at: float | None = None
        self._match_at: float | None = None
        self._match_after = 0
        """The event up to which this round has come, 0 between two rounds."""
        self._match_again = False
        """Something has happened since this round began: what is new need not come after `_match_after`."""
        self._match_left_over = False
        """This round has left something."""
        self._reap_wanted = False

    def due_in(self, seconds: float | None) -> None:
        """A job is due in so many seconds (None: no news)."""
        if seconds is None:
            return
        at = self._clock.monotonic() + max(0.0, seconds)
        if self._due_at is None or at < self._due_at:
            self._due_at = at
            self._wake.set()

    def sweep(self) -> None:
        """Some serial queue may have lost its head."""
        if self._sweep_at is None:
            self._sweep_at = self._clock.monotonic() + _SWEEP_PAUSE
            self._wake.set()

    def match(self) -> None:
        """Something has happened that a run may wait for."""
        self._match_again = True
        self._match_in(0.0)

    def _match_in(self, seconds: float) -> None:
        at = self._clock.monotonic() + seconds
        if self._match_at is None or at < self._match_at:
            self._match_at = at
            self._wake.set()

    def reap(self) -> None:
        """Some worker's time is up."""
        self._reap_wanted = True
        self._wake.set()

    async def run(self) -> None:
        """Promotes, matches, sweeps and reaps until cancelled."""
        await make_passes(self._until_due, self._pass, self._on_error)

    async def _until_due(self) -> None:
        while True:
            now = self._clock.monotonic()
            times = [at for at in (self._due_at, self._match_at, self._sweep_at) if at is not None]
            if self._reap_wanted or any(at <= now for at in times):
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(min(times) - now if times else None):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _pass(self) -> None:
        """Does what is due. What fails keeps nothing else from being done."""
        now = self._clock.monotonic()
        failures: list[DatabaseUnavailable] = []
        for wanted, step in (
            (self._reap_wanted, self._reap),
            (self._match_at is not None and self._match_at <= now, self._match),
            (self._due_at is not None and self._due_at <= now, self._promote),
            (self._sweep_at is not None and self._sweep_at <= now, self._sweep),
        ):
            if wanted:
                try:
                    await step()
                except DatabaseUnavailable as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    async def _sweep(self) -> None:
        # Forgotten first: a word that comes while the statement runs asks for another sweep.
        self._sweep_at = None
        try:
            ready = await self._store.advance_headless_lanes(_BATCH)
        except DatabaseUnavailable:
            self.sweep()
            raise
        if ready:
            self._on_ready(ready)

    async def _match(self) -> None:
        self._match_at = None
        if self._match_after == 0:
            self._match_again = self._match_left_over = False
        try:
            matched = await self._store.match_events(_MATCH_BATCH, self._match_after)
        except DatabaseUnavailable:
            self.match()
            raise
        self._match_left_over = self._match_left_over or matched.left_over
        self._match_after = matched.last if matched.more else 0
        if matched.more or self._match_again:
            self._match_in(0.0)
        elif self._match_left_over:
            self._match_in(_LEFT_OVER_PAUSE)
        if matched.ready:
            self._on_ready(matched.ready)

    async def _promote(self) -> None:
        planned, self._due_at = self._due_at, None
        batch = self._batch
        try:
            promoted = await self._store.promote(batch)
        except DatabaseUnavailable:
            self._batch = max(1, batch // 4)  # was it too much for the time that a statement may take?
            self.due_in(0.0 if planned is not None else None)
            raise
        self._batch = min(_BATCH, batch * 2)
        self._on_promoted(promoted)
        if promoted.ready:
            self._on_ready(promoted.ready)
        if promoted.count == batch:
            self.due_in(0.0)
        else:
            self.due_in(promoted.due_in)

    async def _reap(self) -> None:
        reaped, ready = await self._store.reap(_BATCH)
        self._reap_wanted = len(reaped) == _BATCH
        if reaped:
            self._on_reaped(reaped)
        back = {job.queue for job in reaped if job.fate == "ready"}.union(ready)
        if back:
            self._on_ready(back)
