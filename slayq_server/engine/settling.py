"""Outcomes gathered and written down in batches, each guarded by the lease it was reached under.

While Postgres is away the outcomes are kept, and written as soon as it is back, for as long as the worker row they
belong to may be trusted; after that they are worth nothing, because the jobs are somebody else's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog

from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slayq_server.model import Settled, Settlement

_BATCH = 500
_LOCKED_PAUSE = 0.1
_log = structlog.get_logger()


class SettlingStore(Protocol):
    """What settling asks of the database."""

    async def settle(self, worker_id: int, batch: Sequence[Settlement], *, keep_done: bool = False) -> Settled: ...


class Settler:
    """Writes outcomes down, one batch at a time; what comes while a batch is on its way makes the next."""

    def __init__(
        self,
        store: SettlingStore,
        *,
        keep_done: bool,
        on_settled: Callable[[Settlement, str], None],
        on_ready: Callable[[Iterable[str]], None],
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            keep_done: keep history of completed jobs.
            on_settled: called with each settlement and its verdict: settled, dropped or stale.
            on_ready: called with queues in which a serial queue's next job became ready.
            on_error: called when the database is away.
        """
        self._store = store
        self._on_settled = on_settled
        self._on_ready = on_ready
        self._on_error = on_error
        self._waiting: deque[tuple[int, Settlement]] = deque()
        self._locked: list[tuple[int, Settlement]] = []
        self._in_hand: list[Settlement] = []
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.keep_done = keep_done

    def put(self, worker_id: int, settlement: Settlement) -> None:
        """Takes an outcome over."""
        self._waiting.append((worker_id, settlement))
        self._empty.clear()
        self._wake.set()

    def forget(self, worker_id: int) -> int:
        """Drops what belongs to a worker row that is lost; how many outcomes that were."""
        before = len(self._waiting) + len(self._locked)
        self._waiting = deque(item for item in self._waiting if item[0] != worker_id)
        self._locked = [item for item in self._locked if item[0] != worker_id]
        self._note_emptiness()
        return before - len(self._waiting) - len(self._locked)

    def job_ids(self) -> list[int]:
        """The jobs whose outcomes are in hand."""
        waiting = [settlement.job_id for _, settlement in (*self._waiting, *self._locked)]
        return waiting + [settlement.job_id for settlement in self._in_hand]

    async def drained(self) -> None:
        """Returns when everything taken over has been written down or dropped."""
        await self._empty.wait()

    async def run(self) -> None:
        """Settles until cancelled."""
        pause = 0.0
        while True:
            await self._work_to_do()
            if pause:
                await asyncio.sleep(pause)
            try:
                await self._settle_batch()
                pause = 0.0
            except DatabaseUnavailable as error:
                self._on_error(error)
                pause = min(max(pause * 2, 0.05), 1.0)

    async def _work_to_do(self) -> None:
        while not self._waiting:
            self._wake.clear()
            try:
                async with asyncio.timeout(_LOCKED_PAUSE if self._locked else None):
                    await self._wake.wait()
            except TimeoutError:
                self._waiting.extend(self._locked)
                self._locked.clear()

    async def _settle_batch(self) -> None:
        worker_id = self._waiting[0][0]
        batch: list[Settlement] = []
        while self._waiting and self._waiting[0][0] == worker_id and len(batch) < _BATCH:
            batch.append(self._waiting.popleft()[1])
        self._in_hand = batch
        try:
            settled = await self._store.settle(worker_id, batch, keep_done=self.keep_done)
        except BaseException:
            self._waiting.extendleft((worker_id, settlement) for settlement in reversed(batch))
            raise
        finally:
            self._in_hand = []
        for settlement in batch:
            verdict = settled.verdicts.get(settlement.job_id, "stale")
            if verdict == "locked":
                self._locked.append((worker_id, settlement))
            else:
                self._on_settled(settlement, verdict)
        if settled.ready:
            self._on_ready(settled.ready)
        self._note_emptiness()

    def _note_emptiness(self) -> None:
        if not self._waiting and not self._locked and not self._in_hand:
            self._empty.set()
