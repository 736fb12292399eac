"""Outcomes gathered and written down in batches, each guarded by the lease it was reached under.

While Postgres is away the outcomes are kept, and written as soon as it is back, for as long as the worker row they
belong to may be trusted; after that they are worth nothing, because the jobs are somebody else's.

An outcome that Postgres refuses to write down holds up no other: its batch is split up, and it is tried again apart.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog

from slayq_server.errors import DatabaseUnavailable, StatementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slayq_server.model import Settled, Settlement

_BATCH = 500
_LOCKED_PAUSE = 0.1
_REFUSED_PAUSE = 5.0
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
        self._later: list[tuple[float, int, Settlement]] = []
        """Not before that time, by the event loop's clock: somebody has the row locked, or the outcome was refused."""
        self._in_hand: list[Settlement] = []
        self._in_hand_of: int | None = None
        """Whose they are; None once their worker row is lost."""
        self._singly = 0
        """So many are settled one by one: one among them was refused."""
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
        before = len(self._waiting) + len(self._later)
        self._waiting = deque(item for item in self._waiting if item[0] != worker_id)
        self._later = [item for item in self._later if item[1] != worker_id]
        if self._in_hand_of == worker_id:
            self._in_hand_of = None  # the statement on its way may yet write them down; nothing is tried again
        self._note_emptiness()
        return before - len(self._waiting) - len(self._later)

    def job_ids(self) -> list[int]:
        """The jobs whose outcomes are in hand."""
        waiting = [settlement.job_id for _, settlement in self._waiting]
        later = [settlement.job_id for *_, settlement in self._later]
        return waiting + later + [settlement.job_id for settlement in self._in_hand]

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
        loop = asyncio.get_running_loop()
        while True:
            self._take_up_what_is_due(loop.time())
            if self._waiting:
                return
            self._wake.clear()
            next_due = min((at for at, *_ in self._later), default=None)
            try:
                async with asyncio.timeout_at(next_due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _take_up_what_is_due(self, now: float) -> None:
        due = [item for item in self._later if item[0] <= now]
        if due:
            self._later = [item for item in self._later if item[0] > now]
            self._waiting.extend((worker_id, settlement) for _, worker_id, settlement in due)

    async def _settle_batch(self) -> None:
        worker_id, batch = self._next_batch()
        again = batch
        self._in_hand, self._in_hand_of = batch, worker_id
        try:
            settled = await self._store.settle(worker_id, batch, keep_done=self.keep_done)
            again = []
            self._pass_on(worker_id, batch, settled)
        except StatementFailed as error:
            self._on_error(error)
            again = self._refused(worker_id, batch, error)
        finally:
            if self._in_hand_of is not None:
                self._waiting.extendleft((worker_id, settlement) for settlement in reversed(again))
            self._in_hand, self._in_hand_of = [], None
            self._note_emptiness()

    def _next_batch(self) -> tuple[int, list[Settlement]]:
        worker_id = self._waiting[0][0]
        most = 1 if self._singly else _BATCH
        self._singly = max(0, self._singly - 1)
        batch: list[Settlement] = []
        while self._waiting and self._waiting[0][0] == worker_id and len(batch) < most:
            batch.append(self._waiting.popleft()[1])
        return worker_id, batch

    def _refused(self, worker_id: int, batch: list[Settlement], error: StatementFailed) -> list[Settlement]:
        """Some of a batch is refused: all of it is tried again, one by one. A single one is put aside for a while."""
        if len(batch) > 1:
            self._singly = len(batch)
            return batch
        (refused,) = batch
        _log.error("outcome_refused", job_id=refused.job_id, kind=refused.outcome.kind.value, error=str(error))
        self._put_off(_REFUSED_PAUSE, worker_id, refused)
        return []

    def _pass_on(self, worker_id: int, batch: list[Settlement], settled: Settled) -> None:
        for settlement in batch:
            verdict = settled.verdicts.get(settlement.job_id, "stale")
            if verdict == "locked":
                self._put_off(_LOCKED_PAUSE, worker_id, settlement)
            else:
                self._on_settled(settlement, verdict)
        if settled.ready:
            self._on_ready(settled.ready)

    def _put_off(self, seconds: float, worker_id: int, settlement: Settlement) -> None:
        if self._in_hand_of is None:
            return  # the row was lost meanwhile
        self._later.append((asyncio.get_running_loop().time() + seconds, worker_id, settlement))

    def _note_emptiness(self) -> None:
        if not self._waiting and not self._later and not self._in_hand:
            self._empty.set()
