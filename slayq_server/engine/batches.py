"""What is to be written down under a worker row, gathered into batches: the loop behind `settling` and `journal`.

One batch is on its way at a time; what comes meanwhile makes the next. While Postgres is away everything is kept, and
written as soon as it is back, for as long as the worker row it belongs to may be trusted; after that it is worth
nothing, because the jobs are somebody else's.

What Postgres refuses to write down holds up nothing else: its batch is split up, and it is tried again apart. What it
cannot write down in time, too: after each such failure batches are smaller, and grow again from there. A Postgres that
is read-only or has no room refuses nothing in particular: it is away, and waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from slayq_server.errors import DatabaseUnavailable, StatementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOCKED_PAUSE = 0.1
"""Seconds after which a job that somebody else has locked is tried again."""
REFUSED_PAUSE = 5.0
"""Seconds after which what was refused apart is tried again."""
_T = TypeVar("_T")


class BatchWriter(Generic[_T]):
    """Writes items down, batch by batch. To be derived from: `_write` and what stands beside it are the rules."""

    def __init__(
        self, *, on_error: Callable[[DatabaseUnavailable], None], may_write: Callable[[int], bool] = lambda _: True
    ) -> None:
        """Does nothing yet.

        Args:
            on_error: called when the database is away.
            may_write: asked with the id of the worker row under which something is about to be written: is it trusted?
        """
        self._on_error = on_error
        self._may_write = may_write
        self._waiting: deque[tuple[int, _T]] = deque()
        self._later: list[tuple[float, int, _T]] = []
        """Not before that time, by the event loop's clock: somebody has the row locked, or the item was refused."""
        self._in_hand: list[_T] = []
        self._in_hand_of: int | None = None
        """Whose they are; None once their worker row is lost."""
        self._singly = 0
        """So many are written one by one: one among them was refused."""
        self._share = 1.0
        """Of `_most`: how large a batch may be after what failed lately."""
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    # Rules

    async def _write(self, worker_id: int, batch: list[_T]) -> Iterable[_T]:
        """Writes a batch down and tells what came of it; those that are locked are given back, for a later try."""
        raise NotImplementedError

    _most: ClassVar[int]
    """How much a batch may hold. One that has no more than one item may hold more."""

    def _size(self, item: _T) -> int:
        """How much of that an item takes up."""
        return 1

    def _locked_pause(self, item: _T) -> float:
        """Seconds until an item that was locked is tried again."""
        return LOCKED_PAUSE

    def _refused(self, item: _T, error: StatementFailed) -> float | None:
        """An item was refused apart: seconds until it is to be tried again; None: it is not."""
        raise NotImplementedError

    # From outside

    def put(self, worker_id: int, item: _T) -> None:
        """Takes an item over."""
        self._waiting.append((worker_id, item))
        self._empty.clear()
        self._wake.set()

    def forget(self, worker_id: int) -> int:
        """Drops what belongs to a worker row that is lost; how many items that were."""
        before = len(self._waiting) + len(self._later)
        self._waiting = deque(item for item in self._waiting if item[0] != worker_id)
        self._later = [item for item in self._later if item[1] != worker_id]
        if self._in_hand_of == worker_id:
            self._in_hand_of = None  # the statement on its way may yet write them down; nothing is tried again
        self._note_emptiness()
        return before - len(self._waiting) - len(self._later)

    def items(self) -> list[_T]:
        """All that is in hand."""
        return [item for _, item in self._waiting] + [item for *_, item in self._later] + self._in_hand

    async def drained(self) -> None:
        """Returns when everything taken over has been written down or dropped."""
        await self._empty.wait()

    # The loop

    async def run(self) -> None:
        """Writes until cancelled."""
        pause = 0.0
        while True:
            await self._work_to_do()
            if pause:
                await asyncio.sleep(pause)
            if self._waiting and not self._may_write(self._waiting[0][0]):
                # The row's time is up, as after a stall of the event loop: in a moment what belongs to it is forgotten.
                await asyncio.sleep(LOCKED_PAUSE)
                continue
            try:
                await self._write_batch()
                pause = 0.0
                self._share = min(self._share * 2, 1.0)
            except DatabaseUnavailable as error:
                self._on_error(error)
                if not error.refuses_all:
                    self._share = max(self._share / 4, 1 / 512)
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
            self._waiting.extend((worker_id, item) for _, worker_id, item in due)

    async def _write_batch(self) -> None:
        if not self._waiting:
            return  # the row was lost meanwhile
        worker_id, batch = self._next_batch()
        again, first = batch, False
        self._in_hand, self._in_hand_of = batch, worker_id
        try:
            locked = await self._write(worker_id, batch)
            again = []
            for item in locked:
                self._put_off(self._locked_pause(item), worker_id, item)
        except StatementFailed as error:
            self._on_error(error)
            again, first = self._split_up(worker_id, batch, error), True
        finally:
            if self._in_hand_of is not None and first:
                self._waiting.extendleft((worker_id, item) for item in reversed(again))
            elif self._in_hand_of is not None:
                # Behind the others: one that takes longer than a statement may must not keep them all.
                self._waiting.extend((worker_id, item) for item in again)
            self._in_hand, self._in_hand_of = [], None
            self._note_emptiness()

    def _next_batch(self) -> tuple[int, list[_T]]:
        worker_id, first = self._waiting.popleft()
        batch = [first]
        if self._singly:
            self._singly -= 1
            return worker_id, batch
        size = self._size(first)
        while self._waiting and self._waiting[0][0] == worker_id:
            size += self._size(self._waiting[0][1])
            if size > self._most * self._share:
                break
            batch.append(self._waiting.popleft()[1])
        return worker_id, batch

    def _split_up(self, worker_id: int, batch: list[_T], error: StatementFailed) -> list[_T]:
        """Some of a batch is refused: all of it is tried again, one by one. A single one is put aside for a while."""
        if len(batch) > 1:
            self._singly = len(batch)
            return batch
        seconds = self._refused(batch[0], error)
        if seconds is not None:
            self._put_off(seconds, worker_id, batch[0])
        return []

    def _put_off(self, seconds: float, worker_id: int, item: _T) -> None:
        if self._in_hand_of is None:
            return  # the row was lost meanwhile
        self._later.append((asyncio.get_running_loop().time() + seconds, worker_id, item))

    def _note_emptiness(self) -> None:
        if not self._waiting and not self._later and not self._in_hand:
            self._empty.set()
