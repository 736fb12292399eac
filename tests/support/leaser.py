"""A leaser on fakes: a worker row, and a database of ready jobs, wishes and a cluster's slots."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from slayq_server.engine.leasing import OTHER_WORDS, Leaser
from slayq_server.engine.pools import Pool, Pools
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import LeasedJob
from tests.support.virtual import VirtualClock, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from slayq_server.model import LeaseRequest, Place

ALWAYS = set(OTHER_WORDS)


class FakeWorker:
    """A worker row, trusted until told otherwise."""

    def __init__(self) -> None:
        self.id: int | None = 1
        self.trusted = True


class FakeStore:
    """A database of ready jobs by queue, of wishes by worker, and of one cluster's slots."""

    def __init__(self) -> None:
        self.ready: dict[str, deque[int]] = {}
        self.leases: list[tuple[float, dict[str, int]]] = []
        """When each lease was sent, and how much it asked for by the pool's first name."""
        self.wants: dict[int, set[str]] = {}
        self.wishes = 0
        self.before_answer: Callable[[], Any] = lambda: None
        """Called while a lease is on its way, after the database has carried it out."""
        self.while_wishing: Callable[[], Any] = lambda: None
        """Called once, while a wish for a queue's words is being written."""
        self.last: set[int] = set()
        """Jobs that are not leased ahead."""
        self.starts: list[Place | None] = []
        """Where each lease for a single pool began."""
        self.takes = 0.001
        self.whole_takes = 0.0
        """How much longer a lease takes that begins at the first job."""
        self.whole_fails = False
        self.want_takes = 0.001
        self.can = 1000
        self.fails = 0
        self.want_fails = 0
        self.unknown: list[tuple[float, list[int]]] = []
        self.free_slots = 0
        self.held_slots: dict[tuple[int, str], int] = {}
        self.acquired: list[float] = []
        self.said: list[str] = []

    def add(self, queue: str, *ids: int) -> None:
        self.ready.setdefault(queue, deque()).extend(ids)

    async def lease(
        self, worker_id: int, requests: Sequence[LeaseRequest], forbidden_flags: Sequence[str] = ()
    ) -> list[LeasedJob]:
        self.leases.append((now(), {request.names[0]: request.most for request in requests}))
        jobs = []
        for request in requests:
            assert request.most > 0
            left = request.most
            for name in request.names:
                waiting = self.ready.get(name, deque())
                begin = request.start[2] if request.start else 0
                found = [number for number in waiting if number >= begin]
                while found and left and (left > request.ahead or found[0] not in self.last):
                    waiting.remove(found[0])
                    jobs.append(job(found.pop(0), name))
                    left -= 1
        if sum(request.most for request in requests) > self.can:
            for each in reversed(jobs):
                self.ready[each.queue].appendleft(each.id)
            raise DatabaseUnavailable("canceling statement due to statement timeout")
        self.before_answer()
        self.starts.append(requests[0].start)
        whole = any(request.start is None for request in requests)
        await asyncio.sleep(self.takes + self.whole_takes if whole else self.takes)
        if whole and self.whole_fails:
            for each in reversed(jobs):
                self.ready[each.queue].appendleft(each.id)
            raise DatabaseUnavailable("canceling statement due to statement timeout")
        if self.fails:
            self.fails -= 1
            raise DatabaseUnavailable("the answer was lost")
        return jobs

    async def release_unknown(self, worker_id: int, known: Sequence[int]) -> tuple[str, ...]:
        self.unknown.append((now(), list(known)))
        return ("mail",)

    async def want(self, worker_id: int, words: Iterable[str]) -> None:
        if self.want_fails:
            self.want_fails -= 1
            raise DatabaseUnavailable("away")
        words = set(words)
        if words > ALWAYS:
            self.while_wishing()
            self.while_wishing = lambda: None
        await asyncio.sleep(self.want_takes)
        self.wants[worker_id] = words
        self.wishes += 1

    async def acquire_slots(self, worker_id: int, queue: str, wanted: int, limit: int) -> int:
        held = self.held_slots.get((worker_id, queue), 0)
        taken = min(max(0, wanted - held), self.free_slots)
        self.free_slots -= taken
        self.held_slots[worker_id, queue] = held + taken
        self.acquired.append(now())
        await asyncio.sleep(0.001)
        return held + taken

    async def release_slots(self, worker_id: int, queue: str, number: int) -> None:
        await asyncio.sleep(0.001)
        self.held_slots[worker_id, queue] -= number
        self.free_slots += number

    async def notify(self, words: Iterable[str]) -> None:
        self.said.extend(words)


def job(number: int, queue: str = "mail") -> LeasedJob:
    """A leased job of that id."""
    return LeasedJob(number, 1, queue, None, 1, 25, "{}", None, None, 0.0, place=(0, 0, number))


class Rig:
    """A leaser on fakes. Started jobs stay in flight until `end` is called."""

    def __init__(self, *pools: Pool, listens: bool = True, poll_every: float | None = None) -> None:
        self.store = FakeStore()
        self.worker = FakeWorker()
        self.pools = Pools(pools or [Pool("mail", ("mail",), 2)])
        self.running: dict[int, Pool] = {}
        self.most = 0
        self.errors: list[DatabaseUnavailable] = []
        self.leaser = Leaser(
            self.store,
            self.worker,  # type: ignore[arg-type]
            self.pools,
            VirtualClock(),
            start=self._start,
            held=lambda: list(self.running),
            on_batch=lambda *_: None,
            on_error=self.errors.append,
            listens=listens,
            poll_every=poll_every,
        )

    def _start(self, leased: LeasedJob, pool: Pool) -> None:
        assert leased.id not in self.running
        self.running[leased.id] = pool
        pool.in_flight += 1
        self.most = max(self.most, pool.in_flight)

    def end(self, *ids: int) -> None:
        """These deliveries end."""
        for number in ids:
            pool = self.running.pop(number)
            pool.in_flight -= 1
            self.leaser.slot_freed(pool)

    @asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        """Runs the leaser, first until it has nothing more to do."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.leaser.run())
            self.leaser.look_everywhere()
            await asyncio.sleep(5)
            yield
            await self.leaser.stop()
            task.cancel()
