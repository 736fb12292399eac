"""Vacuum where many jobs go through.

Autovacuum looks after a database once a minute by default, however much has happened there. Of a thousand jobs a second
and more, what is left by then fills hundreds of megabytes, of which each statement reads more than it should. So a
server that ends so many asks for a vacuum itself. One that ends fewer leaves it to autovacuum; and so does one that
does not own the tables, because Postgres lets nobody else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from slayq_server.clock import Clock

ENDED: Final = 100_000
"""Jobs after which to vacuum, if they have ended within `WITHIN`."""
WITHIN: Final = 60.0
"""Seconds. What takes longer, autovacuum has seen."""
_REST: Final = 10.0
"""How many times as long as a vacuum took not to make another one: with an old transaction open it is of no use."""
_AFTER_FAILURE: Final = 60.0
_log = structlog.get_logger()


class VacuumStore(Protocol):
    """What this asks of the database."""

    async def may_vacuum(self) -> bool: ...
    async def vacuum(self) -> None: ...


class Vacuum:
    """Counts jobs that end, and vacuums after so many."""

    def __init__(self, store: VacuumStore, clock: Clock) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            clock: measures.
        """
        self._store = store
        self._clock = clock
        self._ended = 0
        self._since = 0.0
        """When the first of these did."""
        self._wanted = asyncio.Event()

    def ended(self) -> None:
        """A job's outcome has been written down."""
        if not self._ended:
            self._since = self._clock.monotonic()
        self._ended += 1
        if self._ended >= ENDED:
            if self._clock.monotonic() - self._since <= WITHIN:
                self._wanted.set()
            self._ended = 0

    async def run(self) -> None:
        """Vacuums until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began = self._clock.monotonic()
            try:
                if not await self._store.may_vacuum():
                    _log.info("vacuum_left_to_autovacuum", hint="this role does not own slayq.job")
                    return
                await self._store.vacuum()
            except DatabaseUnavailable as error:
                # It may have taken longer than a statement may. Whether the database is away, others find out.
                _log.info("vacuum_failed", error=str(error))
                await asyncio.sleep(_AFTER_FAILURE)
            else:
                took = self._clock.monotonic() - began
                _log.debug("vacuumed", seconds=round(took, 3))
                await asyncio.sleep(_REST * took)
