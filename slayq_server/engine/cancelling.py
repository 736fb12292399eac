"""Runs that are cancelled while they are delivered: their connections are closed, and with that their app's work.

A word says that there are some. Where nothing listens, and now and then in case that a word was lost, this looks by
itself, for as long as a run is being delivered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

LOOK_EVERY: Final = 1.0
"""Seconds between two looks where nothing listens."""
SAFETY_NET_EVERY: Final = 5.0
"""The same where words come."""
_log = structlog.get_logger()


class CancellingStore(Protocol):
    """What this asks of the database."""

    async def cancelled_runs(self, worker_id: int) -> list[tuple[int, int]]: ...


class Holder(Protocol):
    """The worker row under which runs are delivered."""

    @property
    def id(self) -> int | None: ...


class Cancellations:
    """Looks for runs of this daemon that have been cancelled."""

    def __init__(
        self,
        store: CancellingStore,
        worker: Holder,
        *,
        delivers_runs: Callable[[], bool],
        cancel: Callable[[Collection[tuple[int, int]]], int],
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            worker: whose runs are meant.
            delivers_runs: whether there is anything to look for.
            cancel: closes the deliveries of these (job id, lease); returns how many there were.
            on_error: called when the database is away.
        """
        self._store = store
        self._worker = worker
        self._delivers_runs = delivers_runs
        self._cancel = cancel
        self._on_error = on_error
        self._every = LOOK_EVERY
        self._wake = asyncio.Event()

    def look(self) -> None:
        """Some run has been cancelled."""
        self._wake.set()

    def listening(self, connected: bool) -> None:
        """Words come, or do not any more."""
        self._every = SAFETY_NET_EVERY if connected else LOOK_EVERY
        self._wake.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        soon = False
        while True:
            try:
                async with asyncio.timeout(min(LOOK_EVERY, self._every) if soon else self._every):
                    await self._wake.wait()
            except TimeoutError:
                pass
            # The word may be about a run that is leased just now, and not yet being delivered.
            soon = self._wake.is_set()
            self._wake.clear()
            if self._worker.id is None or not self._delivers_runs():
                continue
            try:
                cancelled = await self._store.cancelled_runs(self._worker.id)
            except DatabaseUnavailable as error:
                self._on_error(error)
                await asyncio.sleep(LOOK_EVERY)
                self._wake.set()
                continue
            closed = self._cancel(cancelled) if cancelled else 0
            soon = closed < len(cancelled)
            if closed:
                _log.info("runs_cancelled", runs=closed)
