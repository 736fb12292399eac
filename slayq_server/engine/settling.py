"""Outcomes gathered and written down in batches, each guarded by the lease it was reached under. See `batches`."""

from __future__ import annotations

from logging import ERROR
from typing import TYPE_CHECKING, Protocol

from slayq_server.engine.batches import REFUSED_PAUSE, BatchWriter
from slayq_server.model import Settlement
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slayq_server.errors import DatabaseUnavailable, StatementFailed
    from slayq_server.model import Settled


class SettlingStore(Protocol):
    """What settling asks of the database."""

    async def settle(self, worker_id: int, batch: Sequence[Settlement], *, keep_done: bool = False) -> Settled: ...


class Settler(BatchWriter[Settlement]):
    """Writes outcomes down, one batch at a time; what comes while a batch is on its way makes the next."""

    _most = 500

    def __init__(
        self,
        store: SettlingStore,
        *,
        keep_done: bool,
        on_settled: Callable[[Settlement, str], None],
        on_ready: Callable[[Iterable[str]], None],
        on_error: Callable[[DatabaseUnavailable], None],
        may_write: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            keep_done: keep history of completed jobs.
            on_settled: called with each settlement and its verdict: settled, dropped or stale.
            on_ready: called with queues in which a serial queue's next job became ready.
            on_error: called when the database is away.
            may_write: whether that worker row is trusted now.
        """
        super().__init__(on_error=on_error, may_write=may_write)
        self._store = store
        self._on_settled = on_settled
        self._on_ready = on_ready
        self._repeats = Repeats()
        self.keep_done = keep_done

    def job_ids(self) -> list[int]:
        """The jobs whose outcomes are in hand."""
        return [settlement.job_id for settlement in self.items()]

    async def _write(self, worker_id: int, batch: list[Settlement]) -> list[Settlement]:
        settled = await self._store.settle(worker_id, batch, keep_done=self.keep_done)
        locked = []
        for settlement in batch:
            verdict = settled.verdicts.get(settlement.job_id, "stale")
            if verdict == "locked":
                locked.append(settlement)
            else:
                self._on_settled(settlement, verdict)
        if settled.ready:
            self._on_ready(settled.ready)
        return locked

    def _refused(self, item: Settlement, error: StatementFailed) -> float:
        self._repeats.log(
            ERROR,
            "outcome_refused",
            kind=error.reason,
            job_id=item.job_id,
            outcome=item.outcome.kind.value,
            error=str(error),
        )
        return REFUSED_PAUSE
