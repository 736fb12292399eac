"""This process's row among the workers: its renewal, and how long it may be trusted.

Every lease this daemon holds is as good as this one row. The daemon stops trusting itself before the others stop
trusting it: the trust deadline is counted on its own monotonic clock from the moment a renewal was *sent*, and ends
`MARGIN` of the lease early. So a daemon cut off from Postgres has closed its deliveries when its jobs go to others.
Trust that has ended never comes back for the same row, whatever answer is read after all: by then jobs were given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from logging import WARNING
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from slayq_server.errors import DatabaseUnavailable
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slayq_server.clock import Clock
    from slayq_server.model import Heartbeat

RenewalResult = Literal["ok", "failed", "lost"]
MARGIN = 0.2
"""The share of the lease that is kept back for closing deliveries and for clocks that run a little apart."""
_LONGEST_PAUSE = 1.0
"""Seconds between two tries while the database is away."""
_RETIREMENT = 2.0
"""Seconds spent on ending a row that is lost."""
_log = structlog.get_logger()


class WorkerStore(Protocol):
    """What the worker asks of the database."""

    async def register_worker(self, name: str, version: str, queues: Sequence[str], lease_seconds: float) -> int: ...
    async def renew_worker(
        self, worker_id: int, lease_seconds: float, queues: Sequence[str], circuits: str
    ) -> Heartbeat: ...
    async def retire_worker(self, worker_id: int) -> None: ...


class Worker:
    """One daemon process, which is one worker row at a time; a new row after each loss of trust."""

    def __init__(
        self,
        store: WorkerStore,
        clock: Clock,
        *,
        name: str,
        version: str,
        queues: Sequence[str],
        lease: float,
        renew_every: float,
        on_start: Callable[[int], None],
        on_heartbeat: Callable[[Heartbeat], None],
        on_lost: Callable[[int], None],
        on_renewal: Callable[[RenewalResult], None] = lambda _result: None,
        on_error: Callable[[DatabaseUnavailable], None] = lambda _error: None,
        circuits: Callable[[], str] = lambda: "[]",
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            clock: measures trust.
            name: for people; need not be unique.
            version: of the server.
            queues: every queue name served.
            lease: seconds a renewal is good for.
            renew_every: seconds between renewals.
            on_start: called with the id of each new row.
            on_heartbeat: called with what each renewal brought.
            on_lost: called with the id when trust has ended: close all deliveries, forget all outcomes.
            on_renewal: called with ok, failed or lost, for the metrics.
            on_error: called when the database is away.
            circuits: JSON text of the endpoints that this daemon finds away, for people and the other daemons.
        """
        self._store = store
        self._clock = clock
        self._name = name
        self._version = version
        self._queues = list(queues)
        self._lease = lease
        self._renew_every = renew_every
        self._on_start = on_start
        self._on_heartbeat = on_heartbeat
        self._on_lost = on_lost
        self._on_renewal = on_renewal
        self._on_error = on_error
        self._circuits = circuits
        self._trust_until = float("-inf")
        self._retired = False
        self._asked = asyncio.Event()
        self._repeats = Repeats(clock.monotonic)
        self.id: int | None = None
        """The row's id while there is one."""

    @property
    def trusted(self) -> bool:
        """Whether what this daemon holds may be delivered and settled now."""
        return self.id is not None and self._clock.monotonic() < self._trust_until

    def trusts(self, worker_id: int) -> bool:
        """Whether that row is this daemon's, and what is held under it may be settled now."""
        return self.id == worker_id and self.trusted

    def set_queues(self, queues: Sequence[str]) -> None:
        """Changes what the next row says is served (reload). Heartbeats ask about these from now on."""
        self._queues = list(queues)

    def look(self) -> None:
        """Something that a heartbeat brings, or takes along, has changed: the next renewal comes at once."""
        self._asked.set()

    async def run(self) -> None:
        """Holds a row until retired or cancelled; after each loss a new one."""
        while not self._retired:
            worker_id = await self._register()
            await self._renew_until_lost(worker_id)
            if not self._retired:
                await self._let_go(worker_id)

    async def retire(self) -> None:
        """Ends the row at shutdown, so that nobody waits for it to expire. There is no new one."""
        self._retired = True
        if self.id is not None:
            worker_id, self.id = self.id, None
            await self._store.retire_worker(worker_id)

    def _trust_from(self, sent: float) -> None:
        self._trust_until = sent + self._lease * (1 - MARGIN)

    async def _register(self) -> int:
        pause = 0.1
        while True:
            sent = self._clock.monotonic()
            try:
                worker_id = await self._store.register_worker(self._name, self._version, self._queues, self._lease)
                break
            except DatabaseUnavailable as error:
                self._on_error(error)
                self._repeats.log(
                    WARNING, "worker_not_registered", kind=error.reason, error=str(error), retry_seconds=pause
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        self.id = worker_id
        self._trust_from(sent)
        _log.info("worker_started", worker=worker_id, queues=self._queues)
        self._repeats.recovered("worker_not_registered", "worker_registered_again", worker=worker_id)
        self._on_start(worker_id)
        return worker_id

    async def _renew_until_lost(self, worker_id: int) -> None:
        wait = 0.0  # the first heartbeat tells at once what there is to do
        while True:
            await self._pause(max(0.0, min(wait, self._remaining())))
            if self._retired or self._remaining() <= 0:
                return
            sent = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._remaining()):
                    heartbeat = await self._store.renew_worker(worker_id, self._lease, self._queues, self._circuits())
            except (DatabaseUnavailable, TimeoutError) as error:
                self._on_renewal("failed")
                if isinstance(error, DatabaseUnavailable):
                    self._on_error(error)
                kind = type(error).__name__
                self._repeats.log(WARNING, "worker_renewal_failed", kind=kind, worker=worker_id, error_type=kind)
                # Sooner than usual: of a short lease, much may be gone by the time that the database is back.
                wait = min(_LONGEST_PAUSE, self._renew_every / 3)
                continue
            if self._retired or not heartbeat.held or self._remaining() <= 0:
                return
            self._trust_from(sent)
            self._on_renewal("ok")
            self._repeats.recovered("worker_renewal_failed", "worker_renewed_again", worker=worker_id)
            self._on_heartbeat(heartbeat)
            wait = self._renew_every - (self._clock.monotonic() - sent)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        self._asked.clear()

    def _remaining(self) -> float:
        return self._trust_until - self._clock.monotonic()

    async def _let_go(self, worker_id: int) -> None:
        self.id = None
        self._trust_until = float("-inf")
        self._on_renewal("lost")
        _log.error("worker_lost", worker=worker_id)
        self._on_lost(worker_id)
        try:
            async with asyncio.timeout(_RETIREMENT):
                await self._store.retire_worker(worker_id)  # spares the others the wait, where the database is there
        except (DatabaseUnavailable, TimeoutError):
            _log.info("worker_not_retired", worker=worker_id)
