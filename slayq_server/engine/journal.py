"""What durable runs say while they are delivered, written down as it comes: many runs in a transaction, each in order.

A run is open from its lease until its end is written down. In between its ops are flushed in the order in which they
came, and its end after them; whatever becomes of its delivery, what is recorded stays. See `batches` for the loop, for
a database that is away, and for a worker row that is lost.

An app that is faster than Postgres has to wait: a run holds no more than `RUN_HOLDS` characters, all together no more
than `ALL_HOLD`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from logging import ERROR, INFO
from typing import TYPE_CHECKING, Final, Protocol

from slayq_server.engine.batches import LOCKED_PAUSE, REFUSED_PAUSE, BatchWriter
from slayq_server.model import Outcome, OutcomeKind, RunVerdict, RunWrite, Settlement
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slayq_server.errors import DatabaseUnavailable, StatementFailed
    from slayq_server.model import Flushed, LeasedJob, Op

RUN_HOLDS: Final = 1_048_576
"""Characters of one run that wait to be written down, before its app has to wait, too."""
ALL_HOLD: Final = 64 * 1_048_576
"""The same for all runs together."""
_FLUSH: Final = 4 * 1_048_576
"""Characters of a flush, each run taken for `_OF_A_RUN` more than its ops."""
_OF_A_RUN: Final = 8 * 1024
_LOCKED_DOUBLINGS: Final = 4
"""How often the pause before the next try is doubled for a run that stays locked."""
_STALE: Final = RunVerdict("stale")
_CANCELLED: Final = Outcome(OutcomeKind.RELEASED)
"""How a cancelled run ends does not matter: Postgres drops it."""


class JournalStore(Protocol):
    """What the journal asks of the database."""

    async def flush(
        self, worker_id: int, writes: Sequence[RunWrite], *, keep_done: bool = False, own_words: Sequence[str] = ()
    ) -> Flushed: ...


class Record:
    """An open run: its delivery says here what it has heard."""

    __slots__ = (
        "_journal",
        "_refusal",
        "_room",
        "busy",
        "careful",
        "closed",
        "end",
        "gone",
        "held",
        "job",
        "locked",
        "ops",
        "queue",
        "worker_id",
    )

    def __init__(
        self, journal: Journal, worker_id: int, job: LeasedJob, queue: str, refusal: Callable[[str], Outcome]
    ) -> None:
        self._journal = journal
        self._refusal = refusal
        self._room = asyncio.Event()
        self.worker_id = worker_id
        self.job = job
        self.queue = queue
        self.ops: deque[Op] = deque()
        """Not known to be written down."""
        self.held = 0
        """Their characters."""
        self.end: Outcome | None = None
        self.busy = False
        """It is waiting to be flushed, or being flushed."""
        self.careful = False
        """Postgres has refused some of it: one thing at a time."""
        self.locked = 0
        """So many flushes in a row came to nothing because somebody had it, or what it sends, locked."""
        self.closed = False
        """Nothing that its delivery says counts any more."""
        self.gone = False
        """It is no longer among the open ones."""

    def put(self, ops: Iterable[Op]) -> None:
        """Takes ops over."""
        if self.closed:
            return
        before = self.held
        for op in ops:
            self.ops.append(op)
            self.held += op.size
        self._journal.holds(self, self.held - before)

    async def room(self) -> None:
        """Returns when there is room for more ops."""
        while self._journal.is_full(self):
            self._room.clear()
            await self._room.wait()

    def finish(self, outcome: Outcome) -> None:
        """How the run goes on after its ops."""
        if not self.closed:
            self.closed = True
            self.end = outcome
            self._journal.holds(self, 0)

    def refuse(self, note: str) -> None:
        """What it says cannot be written down, or not any more: it ends here."""
        self._close_with(self._refusal(note))

    def cancel(self) -> None:
        """It has been cancelled."""
        self._close_with(_CANCELLED)

    def _close_with(self, outcome: Outcome) -> None:
        self.closed = True
        self.end = outcome
        self.written(len(self.ops))

    @property
    def size(self) -> int:
        """What it adds to a flush."""
        return _OF_A_RUN + min(self.held, RUN_HOLDS)

    def take(self) -> RunWrite:
        """The next that is to be written down."""
        number, size = 0, 0
        for op in self.ops:
            size += op.size
            if number and (self.careful or size > RUN_HOLDS):
                break
            number += 1
        whole = number == len(self.ops) and not (self.careful and number)
        run = self.job.run
        assert run is not None
        return RunWrite(
            self.job.id, self.job.lease, run.seen, tuple(islice(self.ops, number)), self.end if whole else None
        )

    def written(self, number: int) -> None:
        """So many of the ops need not be written down any more."""
        before = self.held
        for _ in range(number):
            self.held -= self.ops.popleft().size
        self._journal.holds(self, self.held - before)

    def go_on(self) -> None:
        """Lets the delivery say more."""
        self._room.set()

    @property
    def unwritten(self) -> bool:
        """There is something to write down."""
        return bool(self.ops) or self.end is not None


class Journal(BatchWriter[Record]):
    """Writes ops and ends down, one flush at a time; what comes while a flush is on its way makes the next."""

    _most = _FLUSH

    def __init__(
        self,
        store: JournalStore,
        *,
        keep_done: bool,
        own_words: Callable[[], Sequence[str]],
        on_settled: Callable[[Settlement, str], None],
        on_flushed: Callable[[int, int, Flushed], None],
        close: Callable[[int, int], None],
        on_error: Callable[[DatabaseUnavailable], None],
        may_write: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            keep_done: keep history of completed runs.
            own_words: the words by which this daemon goes at once, so that nobody need be notified.
            on_settled: called with each end and its verdict: settled, dropped or stale.
            on_flushed: called with how many runs and ops each flush was of, and what came of it.
            close: called with the job's id and the lease of a run of whose delivery nothing more will be written down.
            on_error: called when the database is away.
            may_write: whether that worker row is trusted now.
        """
        super().__init__(on_error=on_error, may_write=may_write)
        self._repeats = Repeats()
        self._store = store
        self._own_words = own_words
        self._on_settled = on_settled
        self._on_flushed = on_flushed
        self._close = close
        self._open: dict[tuple[int, int], Record] = {}
        self._held = 0
        self.keep_done = keep_done

    def open(self, worker_id: int, job: LeasedJob, queue: str, refusal: Callable[[str], Outcome]) -> Record:
        """Begins a leased run. `refusal` says how it ends when Postgres refuses an op, given the reason."""
        record = Record(self, worker_id, job, queue, refusal)
        self._open[job.id, job.lease] = record
        return record

    def job_ids(self) -> list[int]:
        """The jobs of the open runs."""
        return [job_id for job_id, _ in self._open]

    def forget(self, worker_id: int) -> int:
        """Drops the runs of a worker row that is lost; how many of them were only waiting to be written down."""
        super().forget(worker_id)
        lost = [record for record in self._open.values() if record.worker_id == worker_id]
        ended = sum(record.end is not None for record in lost)
        for record in lost:
            self._drop(record)
        return ended

    def is_full(self, record: Record) -> bool:
        """Whether the run has to wait until some of it is written down."""
        return record.held > 0 and not record.closed and (record.held > RUN_HOLDS or self._held > ALL_HOLD)

    def holds(self, record: Record, more: int) -> None:
        """The run has something new to be written down, or so much less to."""
        self._held += more
        if more >= 0 and record.unwritten and not record.busy and not record.gone:
            record.busy = True
            self.put(record.worker_id, record)

    # Rules of the loop

    async def _write(self, worker_id: int, batch: list[Record]) -> list[Record]:
        batch = self._without_outdated(batch)
        if not batch:
            return []
        writes = [record.take() for record in batch]
        flushed = await self._store.flush(worker_id, writes, keep_done=self.keep_done, own_words=self._own_words())
        locked = []
        for record, write in zip(batch, writes, strict=True):
            verdict = flushed.verdicts.get(write.job_id, _STALE)
            if verdict.verdict == "locked":
                locked.append(record)
                continue
            record.locked = 0
            self._conclude(record, write, verdict)
            if not record.gone:
                record.go_on()
                record.busy = record.unwritten
                if record.busy:
                    self.put(worker_id, record)
        self._on_flushed(len(writes), sum(len(write.ops) for write in writes), flushed)
        return locked

    def _without_outdated(self, batch: list[Record]) -> list[Record]:
        """Leaves out those of which a later lease is there, too: a flush has each run once.

        What ended such a run is written down, but the answer to that was lost, and it has been leased again since.
        """
        latest: dict[int, int] = {}
        for record in batch:
            latest[record.job.id] = max(record.job.lease, latest.get(record.job.id, 0))
        current = []
        for record in batch:
            if record.gone:
                continue
            if record.job.lease == latest[record.job.id]:
                current.append(record)
            else:
                self._conclude(record, record.take(), _STALE)
        return current

    def _conclude(self, record: Record, write: RunWrite, verdict: RunVerdict) -> None:
        ended = write.end is not None and verdict.verdict != "refused"
        if ended or verdict.verdict == "stale":
            outcome = write.end or _CANCELLED
            self._on_settled(Settlement(write.job_id, write.lease, record.queue, outcome), verdict.verdict)
            if not record.closed:
                self._close(write.job_id, write.lease)
            self._drop(record)
        elif record.gone:
            return  # its worker row was lost meanwhile
        elif verdict.verdict == "ok":
            record.written(len(write.ops))
        elif verdict.verdict == "dropped":
            self._end_early(record, None)
        else:
            self._end_early(record, verdict.note or "Postgres refused what the run said")

    def _end_early(self, record: Record, refused: str | None) -> None:
        is_delivered = not record.closed
        if refused is None:
            record.cancel()
        else:
            self._repeats.log(
                INFO, "op_refused", of=record.queue, job_id=record.job.id, queue=record.queue, error=refused
            )
            record.refuse(refused)
        if is_delivered:
            self._close(record.job.id, record.job.lease)

    def _drop(self, record: Record) -> None:
        record.gone = record.closed = True
        self._held -= record.held
        record.held = 0
        record.go_on()
        self._open.pop((record.job.id, record.job.lease), None)

    def _size(self, item: Record) -> int:
        return item.size

    def _locked_pause(self, item: Record) -> float:
        # Each try may make everybody else's flush wait for a quarter of a second: less often the longer it lasts.
        pause = LOCKED_PAUSE * (1 << min(item.locked, _LOCKED_DOUBLINGS))
        item.locked += 1
        return pause

    def _refused(self, item: Record, error: StatementFailed) -> float | None:
        if item.gone:
            return None
        write = item.take()
        if len(write.ops) + (write.end is not None) > 1:
            item.careful = True
            return 0.0
        if write.end is None or write.end.output is not None:
            # No other try would end in another way, and the run must not be held for ever.
            self._repeats.log(
                ERROR, "op_refused", kind=error.reason, job_id=write.job_id, queue=item.queue, error=str(error)
            )
            self._end_early(item, str(error))
            return 0.0
        self._repeats.log(
            ERROR,
            "outcome_refused",
            kind=error.reason,
            job_id=write.job_id,
            outcome=write.end.kind.value,
            error=str(error),
        )
        return REFUSED_PAUSE
