"""Leasing: what wakes it, and when it wants to be told."""

from __future__ import annotations

import asyncio

from slayq_server.engine.pools import Pool
from tests.support.leaser import ALWAYS, Rig
from tests.support.virtual import in_virtual_time


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
