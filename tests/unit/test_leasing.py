"""Leasing: what it asks for, and how it gets over lost answers, lost rows, reloads and pauses."""

from __future__ import annotations

import asyncio
from time import monotonic

from slayq_server.engine.pools import Pool
from tests.support.leaser import Rig
from tests.support.virtual import in_virtual_time


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
