"""Leasing: at the first job, or where an earlier lease ended."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

import pytest

from slayq_server.engine.pools import Pool
from tests.support.leaser import Rig
from tests.support.virtual import in_virtual_time, now


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
