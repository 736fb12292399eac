"""Leasing: what wakes it, what it asks for, when it wants to be told, and how it gets over lost answers."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.engine.leasing import OTHER_WORDS, Leaser
from slayq_server.engine.pools import Pool, Pools
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import LeasedJob
from tests.support.virtual import VirtualClock, in_virtual_time, now

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


@in_virtual_time
async def test_no_more_is_leased_than_is_free() -> None:
    """Two slots: two jobs; each slot that becomes free leads to one more, until nothing is left."""
    rig = Rig()
    rig.store.add("mail", 1, 2, 3, 4, 5)
    async with rig.runs():
        assert [1, 2] == list(rig.running)
        rig.end(1)
        await asyncio.sleep(0.01)
        assert [2, 3] == list(rig.running)
        rig.end(2, 3)
        await asyncio.sleep(0.01)
        rig.end(4, 5)
        await asyncio.sleep(0.01)
    assert 2 == rig.most
    assert not rig.running


@in_virtual_time
async def test_what_does_not_come_ahead_says_nothing_of_free_slots() -> None:
    """It may have been a last attempt that was not given: only a lease for a free slot finds that there is no more."""
    pool = Pool("mail", ("mail",), 2, rate=1e9, rated_at=monotonic())
    rig = Rig(pool)
    rig.store.add("mail", 1, 2, 3)
    rig.store.last = {3}
    async with rig.runs():
        await asyncio.sleep(0.05)
        assert ([1, 2], 0.0) == (list(rig.running), pool.rate)
        asked = len(rig.store.leases)
        await asyncio.sleep(0.04)
        assert asked == len(rig.store.leases)
        rig.end(1)
        await asyncio.sleep(0.01)
        assert [2, 3] == list(rig.running)


class QuickPool(Pool):
    """Many of its deliveries end each second, whatever that is by this machine's clock; none is leased ahead."""

    quick = True


async def work_off(rig: Rig, seconds: float) -> None:
    """Ends whatever runs, again and again."""
    until = now() + seconds
    while now() < until:
        rig.end(*rig.running)
        await asyncio.sleep(0.01)


async def until_leases_begin_elsewhere(rig: Rig) -> None:
    """Works off until one did not begin at the beginning."""
    while rig.store.starts[-1:] in ([], [None]):
        await work_off(rig, 0.01)


@in_virtual_time
async def test_slow_looks_from_the_beginning_are_rare() -> None:
    """They take 0.1 s, others a hundredth of that: for about 20 times as long, leases begin where the last one ended.

    What has become ready before that place is found by the next look from the beginning; sooner where somebody says so.
    """
    rig = Rig(QuickPool("mail", ("mail",), 2))
    rig.store.whole_takes = 0.1
    rig.store.add("mail", *range(1_000, 5_000))
    async with rig.runs():
        await work_off(rig, 10)
        assert 5 <= rig.store.starts.count(None) <= 8
        assert len(rig.store.starts) > 500
        looks = rig.store.starts.count(None)
        rig.store.ready["mail"].appendleft(7)
        while 7 not in rig.running:
            await work_off(rig, 0.01)
        assert looks + 1 == rig.store.starts.count(None)
        until = now() + 4
        while now() < until:
            rig.leaser.ready(["mail"])
            await work_off(rig, 0.1)
        assert 7 <= rig.store.starts.count(None) - looks - 1 <= 11


@in_virtual_time
async def test_leases_begin_where_the_last_one_ended_that_looked_from_the_beginning() -> None:
    """There stands its last job, and nothing that is done."""
    rig = Rig(QuickPool("mail", ("mail",), 2))
    rig.store.whole_takes = 0.1
    rig.store.add("mail", *range(1_000, 1_100))
    async with rig.runs():
        await until_leases_begin_elsewhere(rig)
        looks = rig.store.starts.count(None)
        assert {None, (0, 0, 1_000 + 2 * looks - 1)} == set(rig.store.starts)
        await work_off(rig, 0.1)
        assert looks == rig.store.starts.count(None)
        rig.leaser.look_everywhere()
        await work_off(rig, 0.2)
        assert looks + 1 == rig.store.starts.count(None)


@in_virtual_time
async def test_what_stands_before_where_leases_begin_is_found_once_they_run_dry() -> None:
    """A lease that fills not even the free slots is followed at once by one from the beginning."""
    rig = Rig(QuickPool("mail", ("mail",), 2), listens=False, poll_every=1000.0)
    rig.store.whole_takes = 0.1
    rig.store.add("mail", *range(1_000, 1_100))
    async with rig.runs():
        await until_leases_begin_elsewhere(rig)
        rig.store.ready["mail"] = deque([7])
        await work_off(rig, 0.02)
        await asyncio.sleep(0.15)
        assert [7] == list(rig.running)


@in_virtual_time
@pytest.mark.parametrize("pool", [QuickPool("mail", ("mail",), 1), Pool("mail", ("mail",), 2)], ids=["one", "slow"])
async def test_where_to_be_passed_over_would_cost_a_job_much_leases_begin_at_the_first(pool: Pool) -> None:
    """With a concurrency of one, or where the next slot may be long in coming."""
    rig = Rig(pool)
    rig.store.whole_takes = 0.1
    rig.store.add("mail", *range(1_000, 1_100))
    async with rig.runs():
        await work_off(rig, 2)
    assert len(rig.store.starts) > 10
    assert {None} == set(rig.store.starts)


@in_virtual_time
async def test_a_look_from_the_beginning_that_fails_is_not_made_again_at_once() -> None:
    """It takes longer than a statement may: leases go on where they were."""
    rig = Rig(QuickPool("mail", ("mail",), 2))
    rig.store.whole_takes = 0.1
    rig.store.add("mail", *range(1_000, 4_000))
    async with rig.runs():
        await until_leases_begin_elsewhere(rig)
        rig.store.whole_takes, rig.store.whole_fails = 15.0, True
        looks = rig.store.starts.count(None)
        while looks == rig.store.starts.count(None):
            await work_off(rig, 0.01)
        await work_off(rig, 19.0)
        assert looks + 1 == rig.store.starts.count(None)
        assert len(rig.store.ready["mail"]) < 2_900


@in_virtual_time
async def test_last_attempts_do_not_keep_leases_from_beginning_elsewhere() -> None:
    """They are not leased ahead, so that each lease brings less than it might, and yet what the free slots take."""
    pool = QuickPool("mail", ("mail",), 2)
    rig = Rig(pool)
    rig.store.whole_takes = 0.1
    rig.store.add("mail", *range(1_000, 1_400))
    rig.store.last = set(range(1_000, 1_400))
    async with rig.runs():
        for _ in range(150):
            pool.rate, pool.rated_at = 1e9, monotonic()
            await work_off(rig, 0.01)
        assert max(asked["mail"] for _, asked in rig.store.leases) > 100
        assert rig.store.starts.count(None) < 6
        assert len(rig.store.starts) > 50


@in_virtual_time
async def test_what_is_found_beside_a_look_from_the_beginning_says_nothing_of_the_time() -> None:
    """One pool's deliveries are slow, so that it always looks from the beginning; the other one gains all the same."""
    rig = Rig(QuickPool("mail", ("mail",), 2), Pool("post", ("post",), 2))
    rig.store.whole_takes = 0.1
    rig.store.add("post", *range(1_000, 2_000))
    rig.store.add("mail", *range(2_000, 3_000))
    async with rig.runs():
        await work_off(rig, 10)
    assert len(rig.store.starts) > 50
    assert rig.store.starts.count(None) < 10


@in_virtual_time
async def test_one_pool_that_looks_from_the_beginning_does_not_keep_another_busy() -> None:
    """One that has run dry has nothing to begin at: it looks from the beginning, and then waits."""
    mail, post = QuickPool("mail", ("mail",), 2), QuickPool("post", ("post",), 2)
    rig = Rig(post, mail)
    rig.store.whole_takes = 0.1
    rig.store.add("post", *range(1_000, 1_020))
    rig.store.add("mail", *range(2_000, 4_000))
    async with rig.runs():
        await work_off(rig, 5)
        asked = len(rig.store.leases)
        rig.store.add("post", 7)
        rig.leaser.ready(["post"])
        while 7 not in rig.running:
            await work_off(rig, 0.01)
        assert len(rig.store.leases) - asked < 50
        await asyncio.sleep(10)
        asked = len(rig.store.leases)
        await asyncio.sleep(10)
        assert asked == len(rig.store.leases)


@in_virtual_time
async def test_an_idle_pool_wants_words_and_asks_no_more() -> None:
    """It looks once more after its wish is written and twice a little later; then only a word, or anybody, wakes it."""
    rig = Rig()
    async with rig.runs():
        assert ALWAYS | {"mail"} == rig.store.wants[1]
        assert 4 == len(rig.store.leases)
        await asyncio.sleep(3600)
        assert 4 == len(rig.store.leases)
        rig.store.add("mail", 7)
        rig.leaser.word("mail")
        await asyncio.sleep(0.01)
        assert [7] == list(rig.running)


@in_virtual_time
async def test_a_job_that_comes_while_the_wish_is_being_written_is_found() -> None:
    """Nobody says a word for it, because the wish did not stand there yet."""
    rig = Rig()
    rig.store.while_wishing = lambda: rig.store.add("mail", 7)
    async with rig.runs():
        assert [7] == list(rig.running)


@in_virtual_time
async def test_a_job_that_comes_while_the_wish_cannot_be_written_is_found() -> None:
    """The look after the wish is after the wish, however long that takes to be written."""
    rig = Rig()
    rig.store.want_fails = 5  # for longer than all second looks
    rig.store.while_wishing = lambda: rig.store.add("mail", 7)
    async with rig.runs():
        assert [7] == list(rig.running)


@in_virtual_time
async def test_a_word_for_a_full_pool_takes_the_wish_back() -> None:
    """It was useless and cost the committer: no more words until the pool runs dry again."""
    rig = Rig()
    async with rig.runs():
        rig.store.add("mail", 1, 2, 3)
        rig.leaser.word("mail")
        await asyncio.sleep(0.01)
        assert [1, 2] == list(rig.running)
        rig.leaser.word("mail")
        await asyncio.sleep(0.01)
        assert ALWAYS == rig.store.wants[1]
        rig.end(1, 2)
        await asyncio.sleep(2)
        assert [3] == list(rig.running)
        assert ALWAYS | {"mail"} == rig.store.wants[1]


@in_virtual_time
async def test_a_word_during_a_lease_is_not_useless() -> None:
    """All free slots are reserved for the lease on its way, and free all the same: the wish stays."""
    rig = Rig()
    async with rig.runs():
        rig.store.takes = 0.1
        wishes = rig.store.wishes
        rig.leaser.word("mail")
        await asyncio.sleep(0.05)
        rig.store.add("mail", 1)
        rig.leaser.word("mail")
        await asyncio.sleep(1)
        assert [1] == list(rig.running)
        assert wishes == rig.store.wishes


@in_virtual_time
async def test_words_that_come_too_fast_are_turned_off_for_a_poll() -> None:
    """A pool that is told hundreds of times a second polls instead, and goes back to words when nothing more comes."""
    rig = Rig(Pool("mail", ("mail",), 1000))
    async with rig.runs():
        for number in range(100):
            rig.store.add("mail", number)
            if "mail" in rig.store.wants[1]:
                rig.leaser.word("mail")
            await asyncio.sleep(0.003)
        assert ALWAYS == rig.store.wants[1]
        assert 95 <= len(rig.running)
        rig.store.add("mail", 1000)
        await asyncio.sleep(0.02)  # nobody says a word
        assert 1000 in rig.running
        await asyncio.sleep(5)
        assert ALWAYS | {"mail"} == rig.store.wants[1]
        asked = len(rig.store.leases)
        await asyncio.sleep(3600)
        assert asked == len(rig.store.leases)


@in_virtual_time
async def test_a_new_row_is_told_the_wishes_although_the_old_one_was_being_told() -> None:
    """The row is lost and made anew while a wish is on its way to the old one."""
    rig = Rig()
    rig.store.want_takes = 1.0
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.leaser.run())
        rig.leaser.look_everywhere()
        await asyncio.sleep(0.5)
        rig.worker.id = 2
        rig.leaser.look_everywhere()
        await asyncio.sleep(10)
        assert ALWAYS | {"mail"} == rig.store.wants.get(2)
        await rig.leaser.stop()
        task.cancel()


@in_virtual_time
async def test_what_a_lost_answer_leased_is_given_back() -> None:
    """At once, and again at growing distances, because the statement may still be on its way; what is known is kept."""
    rig = Rig()
    rig.store.add("mail", 1)
    async with rig.runs():
        assert [1] == list(rig.running)
        rig.store.add("mail", 2)
        rig.store.fails = 1
        rig.leaser.word("mail")
        await asyncio.sleep(30)
        assert [[1]] * 4 == [known for _, known in rig.store.unknown]
        first = rig.store.unknown[0][0]
        assert [0, 1, 5, 20] == [round(at - first) for at, _ in rig.store.unknown]
        assert 1 == len(rig.errors)


@in_virtual_time
async def test_what_takes_too_long_is_leased_in_smaller_batches() -> None:
    """Runs may have megabytes of outputs, and a statement has a time limit: it must not be the same one again."""
    rig = Rig(Pool("mail", ("mail",), 40))
    rig.store.can = 5
    rig.store.add("mail", *range(40))
    async with rig.runs():
        await asyncio.sleep(60)
        assert 40 == len(rig.running)
        rig.store.can = 1000
        rig.end(*range(40))
        rig.store.add("mail", *range(100, 140))
        rig.leaser.word("mail")
        await asyncio.sleep(5)
        assert 40 == len(rig.running)


@in_virtual_time
async def test_doubts_wait_for_a_row_that_is_trusted() -> None:
    """The database went away in the middle of a lease, for longer than the row is trusted: nothing spins meanwhile."""
    rig = Rig()
    async with rig.runs():
        rig.store.fails = 10**9
        rig.leaser.word("mail")
        await asyncio.sleep(1)
        rig.worker.trusted = False
        await asyncio.sleep(3600)
        rig.store.fails = 0
        rig.worker.id, rig.worker.trusted = 2, True
        rig.store.add("mail", 1)
        rig.leaser.look_everywhere()
        await asyncio.sleep(10)
        assert [1] == list(rig.running)


@in_virtual_time
async def test_nothing_is_leased_without_trust() -> None:
    """Not until there is a row that is trusted."""
    rig = Rig()
    rig.worker.trusted = False
    rig.store.add("mail", 1)
    async with rig.runs():
        assert [] == rig.store.leases
        rig.worker.trusted = True
        rig.leaser.look_everywhere()
        await asyncio.sleep(0.01)
        assert [1] == list(rig.running)


@in_virtual_time
async def test_an_answer_that_comes_after_the_row_was_lost_starts_nothing() -> None:
    """Its jobs are those of a row that is gone; the new row leases for itself."""
    rig = Rig()
    rig.store.add("mail", 1)

    def lost() -> None:
        rig.worker.id = 2
        rig.leaser.look_everywhere()
        rig.store.before_answer = lambda: None
        rig.store.add("mail", 9)

    rig.store.before_answer = lost
    async with rig.runs():
        assert [9] == list(rig.running)


@in_virtual_time
async def test_a_reload_may_take_a_queue_away_while_its_jobs_are_being_leased() -> None:
    """They are delivered all the same: they were leased for a pool that there was."""
    rig = Rig(Pool("mail", ("mail", "post"), 2))
    rig.store.add("post", 1)

    def reloaded() -> None:
        rig.pools.replace([Pool("other", ("other",), 2)])
        rig.store.before_answer = lambda: None

    rig.store.before_answer = reloaded
    async with rig.runs():
        assert [1] == list(rig.running)
        assert 1 == rig.pools.in_flight
        rig.end(1)


@in_virtual_time
async def test_a_paused_pool_leases_nothing_until_resumed() -> None:
    """Words and all notwithstanding."""
    rig = Rig()
    async with rig.runs():
        rig.pools.set_paused(frozenset({"mail"}))
        rig.store.add("mail", 1)
        rig.leaser.word("mail")
        await asyncio.sleep(10)
        assert not rig.running
        resumed = rig.pools.set_paused(frozenset())
        rig.leaser.ready(name for pool in resumed for name in pool.names)
        await asyncio.sleep(0.01)
        assert [1] == list(rig.running)


@in_virtual_time
async def test_behind_a_pooler_it_polls() -> None:
    """Nothing listens: a look each second, no wishes but the first, empty one."""
    rig = Rig(listens=False, poll_every=1.0)
    async with rig.runs():
        rig.store.add("mail", 1)
        await asyncio.sleep(1.1)
        assert [1] == list(rig.running)
        assert {1: set()} == rig.store.wants


@in_virtual_time
async def test_stopping_waits_for_the_lease_on_its_way() -> None:
    """What it brings is handed out before the stop returns; after that nothing is."""
    rig = Rig()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.leaser.run())
        rig.store.takes = 1.0
        rig.store.add("mail", 1)
        rig.leaser.look_everywhere()
        await asyncio.sleep(0.5)
        await rig.leaser.stop()
        assert [1] == list(rig.running)
        rig.store.add("mail", 2)
        rig.leaser.word("mail")
        await asyncio.sleep(10)
        assert [1] == list(rig.running)
        assert task.done()


# The limit of a cluster


def shared(limit: int = 2, name: str = "mail") -> Pool:
    """A pool whose limit counts for the cluster."""
    return Pool(name, (name,), limit, cluster=True)


@in_virtual_time
async def test_slots_are_taken_for_jobs_and_given_back_when_idle() -> None:
    """No job runs without a slot; with nothing to do, no slot is held."""
    rig = Rig(shared())
    rig.store.free_slots = 2
    rig.store.add("mail", 1, 2, 3)
    async with rig.runs():
        assert [1, 2] == list(rig.running)
        assert 0 == rig.store.free_slots
        rig.end(1)
        await asyncio.sleep(1)
        rig.end(2)
        await asyncio.sleep(5)
        assert (1, ["mail"]) == (rig.store.free_slots, rig.store.said[:1])
        rig.end(3)
        await asyncio.sleep(5)
        assert 2 == rig.store.free_slots


@in_virtual_time
async def test_a_daemon_with_a_backlog_goes_on_with_the_slots_it_has() -> None:
    """Others hold the rest of the slots. Each of its own that becomes free is used at once, without asking around."""
    rig = Rig(shared(5))
    rig.store.free_slots = 1
    rig.store.add("mail", *range(1, 11))
    async with rig.runs():
        for number in range(1, 10):
            assert [number] == list(rig.running)
            rig.end(number)
            await asyncio.sleep(0.005)
        assert [] == rig.store.said
        assert 1 == rig.most


@in_virtual_time
async def test_a_full_house_does_not_end_the_hunger() -> None:
    """Other pools' leases pass by a pool that runs all of its slots: it goes on as soon as one is free."""
    rig = Rig(shared(1), Pool("other", ("other",), 1))
    rig.store.free_slots = 1
    rig.store.add("mail", 1, 2)
    async with rig.runs():
        rig.store.add("other", 100)
        rig.leaser.word("other")
        await asyncio.sleep(0.01)
        assert [1, 100] == list(rig.running)
        rig.end(1)
        await asyncio.sleep(0.005)
        assert [100, 2] == list(rig.running)
        assert [] == rig.store.said


@in_virtual_time
async def test_a_starved_pool_takes_a_slot_when_told_that_one_is_free() -> None:
    """Another daemon gives one back and says so; without the word a look each second finds it."""
    for told in (True, False):
        rig = Rig(shared())
        rig.store.add("mail", 1)
        async with rig.runs():
            assert ALWAYS | {"mail"} == rig.store.wants[1]
            assert not rig.running
            assert len(rig.store.acquired) < 10
            rig.store.free_slots = 1
            if told:
                rig.leaser.word("mail")
            await asyncio.sleep(0.01 if told else 1.1)
            assert [1] == list(rig.running)


@in_virtual_time
async def test_slots_of_a_row_that_was_lost_are_not_used() -> None:
    """The row is lost while slots are being taken under it: they are not the new row's."""
    rig = Rig(shared())
    rig.store.free_slots = 2
    rig.store.add("mail", 1, 2)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.leaser.run())
        rig.leaser.look_everywhere()
        while not rig.store.acquired:
            await asyncio.sleep(0)
        rig.worker.id = 2
        for pool in rig.pools.all:
            pool.slots = 0
        rig.leaser.look_everywhere()
        await asyncio.sleep(5)
        assert not rig.running  # all slots are still those of row 1
        await rig.leaser.stop()
        task.cancel()


@in_virtual_time
async def test_a_queue_that_a_reload_takes_away_gives_its_slots_back() -> None:
    """So that the daemons which go on serving it may use them: the idle ones at once, the others as deliveries end."""
    rig = Rig(shared(3), Pool("other", ("other",), 1))
    rig.store.free_slots = 3
    rig.store.add("mail", 1, 2, 3, 4)
    async with rig.runs():
        assert 0 == rig.store.free_slots
        rig.end(1, 2)  # it is hungry: these two slots would be filled next
        rig.store.ready.clear()
        rig.pools.replace([Pool("other", ("other",), 1)])
        rig.leaser.look_everywhere()
        await asyncio.sleep(1)
        assert 2 == rig.store.free_slots
        rig.end(*list(rig.running))
        await asyncio.sleep(1)
        assert 3 == rig.store.free_slots


@in_virtual_time
async def test_a_limit_that_stops_counting_for_the_cluster_gives_its_slots_back() -> None:
    """From scope cluster to scope daemon."""
    rig = Rig(shared(2))
    rig.store.free_slots = 2
    rig.store.add("mail", 1, 2, 3)
    async with rig.runs():
        rig.pools.replace([Pool("mail", ("mail",), 2)])
        rig.leaser.look_everywhere()
        rig.end(1, 2)
        await asyncio.sleep(1)
        assert [3] == list(rig.running)
        rig.end(3)
        await asyncio.sleep(1)
        assert 2 == rig.store.free_slots


@in_virtual_time
async def test_a_pause_ends_when_the_database_answers_somebody() -> None:
    """It asks every two seconds once it has had no answer for long; a heartbeat with an answer ends such a pause."""
    rig = Rig()
    async with rig.runs():
        rig.store.fails = 10**9
        rig.leaser.word("mail")
        await asyncio.sleep(3600)
        await wait_for_a_lease(rig)
        rig.store.fails = 0
        rig.store.add("mail", 1)
        await asyncio.sleep(0.1)
        assert not rig.running
        rig.leaser.database_answers()
        await asyncio.sleep(0.1)
        assert [1] == list(rig.running)


async def wait_for_a_lease(rig: Rig) -> None:
    """Returns right after the next lease was sent."""
    sent = len(rig.store.leases)
    while len(rig.store.leases) == sent:
        await asyncio.sleep(0.01)
