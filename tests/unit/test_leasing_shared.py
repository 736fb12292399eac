"""Leasing where the limit of a queue counts for the whole cluster."""

from __future__ import annotations

import asyncio

from slayq_server.engine.pools import Pool
from tests.support.leaser import ALWAYS, Rig
from tests.support.virtual import in_virtual_time


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
