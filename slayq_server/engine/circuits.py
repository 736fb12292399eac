"""What the breaker needs of the database: a job to probe with, and what was put off brought forward again.

Jobs that are put off are due some minutes later, so that they cost next to nothing while their endpoint is away. When a
probe may go, one of them is brought forward; when the endpoint answers, all of them are, also those that other daemons
have put off. The heartbeat tells of what is put off for an endpoint that no live daemon finds away: the one that did
was killed, say.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from slayq_server.engine.passes import make_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slayq_server.clock import Clock
    from slayq_server.engine.breaker import Breaker
    from slayq_server.errors import DatabaseUnavailable

_BATCH = 500


class CircuitsStore(Protocol):
    """What this asks of the database."""

    async def bring_forward(self, endpoint: str, most: int, queues: Sequence[str] | None) -> tuple[int, set[str]]: ...


class Circuits:
    """Brings forward what was put off."""

    def __init__(
        self,
        store: CircuitsStore,
        breaker: Breaker,
        clock: Clock,
        *,
        queues: Callable[[], Sequence[str]],
        on_ready: Callable[[Iterable[str]], None],
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            breaker: says when to probe.
            clock: the breaker's.
            queues: those that this daemon leases from now, by all of their names.
            on_ready: called with queues that have something new to lease.
            on_error: called when the database is away.
        """
        self._store = store
        self._breaker = breaker
        self._clock = clock
        self._queues = queues
        self._on_ready = on_ready
        self._on_error = on_error
        self._back: dict[str, None] = {}
        """Endpoints whose jobs are to be brought forward, all of them; in order."""
        self._wake = asyncio.Event()

    def look(self) -> None:
        """The breaker may have something for us sooner than it said."""
        self._wake.set()

    def bring_back(self, endpoints: Iterable[str]) -> None:
        """What was put off for these is to be delivered now."""
        self._back.update(dict.fromkeys(endpoints))
        if self._back:
            self._wake.set()

    def row(self) -> str:
        """The open circuits as they stand in the worker row: JSON text."""
        now = self._clock.wall()
        return json.dumps(
            [
                {
                    "endpoint": circuit.endpoint,
                    "since": datetime.fromtimestamp(now - circuit.open_for, UTC).isoformat(),
                    "failures": circuit.failures,
                    "result": circuit.result,
                }
                for circuit in self._breaker.open_circuits()
            ]
        )

    async def run(self) -> None:
        """Brings forward until cancelled."""
        await make_passes(self._until_useful, self._pass, self._on_error)

    async def _until_useful(self) -> None:
        while not self._back:
            self._wake.clear()
            at = self._breaker.next_at()
            remaining = None if at is None else at - self._clock.monotonic()
            if remaining is not None and remaining <= 0:
                return
            try:
                async with asyncio.timeout(remaining):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _pass(self) -> None:
        """A batch for each endpoint that is back, and a job for each that is to be probed."""
        for endpoint in list(self._back):
            if self._breaker.is_open(endpoint):
                self._back.pop(endpoint, None)  # away again: what comes now would only be put off once more
                continue
            number, queues = await self._store.bring_forward(endpoint, _BATCH, None)
            if number < _BATCH:
                self._back.pop(endpoint, None)
            if queues:
                self._on_ready(queues)
        queues_served = self._queues()
        for endpoint in self._breaker.wanting():
            number, queues = await self._store.bring_forward(endpoint, 1, queues_served)
            self._breaker.asked(endpoint, number > 0)
            if queues:
                self._on_ready(queues)
