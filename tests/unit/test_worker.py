"""The worker row: how long this daemon may trust itself, and what it does when it no longer may."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from slayq_server.engine.worker import Worker
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import Heartbeat
from tests.support.virtual import VirtualClock, in_virtual_time, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

LEASE = 10.0
RENEW = 3.0
TRUST = 8.0
"""Seconds after the sending of a renewal for which it is trusted: the lease less a fifth."""


def heartbeat(held: bool = True) -> Heartbeat:
    """A renewal that brings nothing but itself."""
    return Heartbeat(held, (), None, None, False, False, frozenset())


class FakeStore:
    """Rows are numbered from 1; `renew` decides about each renewal."""

    def __init__(self) -> None:
        self.registered = 0
        self.retired: list[int] = []
        self.renewals: list[float] = []
        self.renew: Callable[[], Coroutine[object, object, Heartbeat]] = self.held
        self.retire_takes = 0.0
        self.register_takes = 0.0

    async def held(self) -> Heartbeat:
        return heartbeat()

    async def register_worker(self, name: str, version: str, queues: Sequence[str], lease_seconds: float) -> int:
        await asyncio.sleep(self.register_takes)
        self.registered += 1
        return self.registered

    async def renew_worker(
        self, worker_id: int, lease_seconds: float, queues: Sequence[str], circuits: str
    ) -> Heartbeat:
        assert worker_id == self.registered
        self.renewals.append(now())
        return await self.renew()

    async def retire_worker(self, worker_id: int) -> None:
        await asyncio.sleep(self.retire_takes)
        self.retired.append(worker_id)


class Life:
    """A worker and what it told."""

    def __init__(self, store: FakeStore, lease: float = LEASE, renew: float = RENEW) -> None:
        self.events: list[tuple[str, int, float]] = []
        self.changed = asyncio.Event()
        self.worker = Worker(
            store,
            VirtualClock(),
            name="w",
            version="1",
            queues=["mail"],
            lease=lease,
            renew_every=renew,
            on_start=lambda worker: self._note("start", worker),
            on_heartbeat=lambda _: None,
            on_lost=lambda worker: self._note("lost", worker),
        )

    def _note(self, what: str, worker: int) -> None:
        self.events.append((what, worker, now()))
        self.changed.set()

    async def until(self, what: str) -> float:
        """When that happens next."""
        while True:
            self.changed.clear()
            await self.changed.wait()
            if self.events[-1][0] == what:
                return self.events[-1][2]


@asynccontextmanager
async def living(store: FakeStore, lease: float = LEASE, renew: float = RENEW) -> AsyncIterator[Life]:
    """A worker that runs."""
    life = Life(store, lease, renew)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(life.worker.run())
        await life.until("start")
        yield life
        task.cancel()


@in_virtual_time
async def test_a_row_that_is_renewed_is_trusted() -> None:
    """The first renewal comes at once, the next ones at their pace, and trust never ends."""
    store = FakeStore()
    async with living(store) as life:
        assert (1, True) == (life.worker.id, life.worker.trusted)
        await asyncio.sleep(100)
        assert (1, True) == (life.worker.id, life.worker.trusted)
        assert [0.0, 3.0, 6.0] == store.renewals[:3]
        assert [("start", 1, 0.0)] == life.events


@in_virtual_time
async def test_one_that_is_asked_to_look_renews_at_once() -> None:
    """So that a queue that is resumed goes on then; asked while a renewal is on its way, it renews once more."""
    store = FakeStore()

    async def slow() -> Heartbeat:
        await asyncio.sleep(0.5)
        return heartbeat()

    async with living(store) as life:
        await asyncio.sleep(1)
        store.renew = slow
        life.worker.look()
        await asyncio.sleep(0.25)
        life.worker.look()
        life.worker.look()
        await asyncio.sleep(4)
        assert [0.0, 1.0, 1.5, 4.5] == store.renewals


@in_virtual_time
async def test_trust_ends_a_fifth_of_the_lease_early_without_an_answer() -> None:
    """A renewal that never comes back does not hold up the end, which counts from when the last good one was sent."""
    store = FakeStore()

    async def silent() -> Heartbeat:
        await asyncio.Event().wait()
        raise AssertionError

    async with living(store) as life:
        await asyncio.sleep(2)  # renewed at 0
        store.renew = silent
        assert TRUST == await life.until("lost")
        assert not life.worker.trusted


@in_virtual_time
async def test_failed_renewals_are_repeated_until_one_succeeds() -> None:
    """An outage shorter than the trust costs nothing."""
    store = FakeStore()

    async def away() -> Heartbeat:
        raise DatabaseUnavailable("away")

    async with living(store) as life:
        await asyncio.sleep(2)
        store.renew = away
        await asyncio.sleep(4.5)
        assert life.worker.trusted
        store.renew = store.held
        await asyncio.sleep(30)
        assert [("start", 1, 0.0)] == life.events
        assert [0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0] == store.renewals[:7]


@in_virtual_time
async def test_of_a_short_lease_a_failed_renewal_is_repeated_sooner() -> None:
    """So that a short outage leaves time for one before it is over."""
    store = FakeStore()

    async def away() -> Heartbeat:
        raise DatabaseUnavailable("away")

    async with living(store, lease=3.0, renew=0.75) as life:
        await asyncio.sleep(0.8)
        store.renew = away
        await asyncio.sleep(1.1)
        store.renew = store.held
        await asyncio.sleep(10)
        assert [("start", 1, 0.0)] == life.events
        assert [0.0, 0.75, 1.5, 1.75, 2.0, 2.75] == store.renewals[:6]


@in_virtual_time
async def test_after_an_outage_there_is_a_new_row() -> None:
    """The old row is lost at the deadline, told before anything else is tried, and a new one is made."""
    store = FakeStore()

    async def away() -> Heartbeat:
        raise DatabaseUnavailable("away")

    async with living(store) as life:
        store.renew = away
        store.retire_takes = 3600.0  # the database does not even answer the retirement
        assert TRUST == await life.until("lost")
        store.renew = store.held
        again = await life.until("start")
        assert TRUST < again <= TRUST + 5
        assert (2, True) == (life.worker.id, life.worker.trusted)


@in_virtual_time
async def test_a_row_that_was_taken_is_lost_at_once() -> None:
    """The database says that the row's time was up (this process was frozen, say): nothing is trusted any more."""
    store = FakeStore()

    async def taken() -> Heartbeat:
        return heartbeat(held=False)

    async with living(store) as life:
        await asyncio.sleep(1)
        store.renew = taken
        assert RENEW == await life.until("lost")
        store.renew = store.held
        await life.until("start")
        assert [1] == store.retired


@in_virtual_time
async def test_trust_that_has_ended_never_comes_back_for_the_same_row() -> None:
    """An answer that is read after the deadline changes nothing: who saw the row untrusted has given its jobs up."""
    store = FakeStore()
    loop = asyncio.get_running_loop()

    async def late() -> Heartbeat:
        # The answer is there before the deadline; a busy event loop comes to read it only after.
        loop._now += TRUST - 2  # type: ignore[attr-defined]
        seen.append(life.worker.trusted)
        store.renew = store.held
        return heartbeat()

    seen: list[bool] = []
    async with living(store) as life:
        await asyncio.sleep(1)
        store.renew = late
        await life.until("lost")
        assert [False] == seen
        await life.until("start")
        assert 2 == life.worker.id


@in_virtual_time
async def test_a_slow_registration_counts_from_when_it_was_sent() -> None:
    """The row lives by the database's clock from somewhere within the statement: the earliest moment is assumed."""
    store = FakeStore()
    store.register_takes = 5.0

    async def away() -> Heartbeat:
        raise DatabaseUnavailable("away")

    store.renew = away
    async with living(store) as life:
        assert TRUST == await life.until("lost")


@in_virtual_time
async def test_a_retirement_while_a_renewal_is_on_its_way_is_no_loss() -> None:
    """At shutdown the row is ended on purpose: the renewal that finds it gone is no error, and makes no new row."""
    store = FakeStore()

    async def slow() -> Heartbeat:
        await asyncio.sleep(1)
        return heartbeat(held=not store.retired)

    life = Life(store)
    async with asyncio.TaskGroup() as group:
        group.create_task(life.worker.run())
        await life.until("start")
        await asyncio.sleep(1)
        store.renew = slow
        await asyncio.sleep(RENEW - 0.5)  # a renewal is on its way
        await life.worker.retire()
        assert not life.worker.trusted
    # The group has ended: so has the loop, by itself.
    assert ([("start", 1, 0.0)], [1], 1) == (life.events, store.retired, store.registered)


@in_virtual_time
async def test_a_renewal_that_falls_due_during_a_slow_retirement_is_left_out() -> None:
    """The row is as good as gone from the moment it is being ended."""
    store = FakeStore()
    store.retire_takes = 2 * RENEW
    life = Life(store)
    async with asyncio.TaskGroup() as group:
        group.create_task(life.worker.run())
        await life.until("start")
        await life.worker.retire()
    assert [("start", 1, 0.0)] == life.events
    assert len(store.renewals) <= 1
