"""Serial queues: one job of a lane at a time, in order, whatever happens to its head (J8-J10, N7, N8)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import asyncpg
import pytest

from slayq_server.db.statements import query
from tests.sql.support import QUEUE, Daemon, add, blocked_by, completed, data_of, failed, later, live, make_due

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob
    from tests.conftest import Connect


async def fill(connection: asyncpg.Connection, store: Store, lane: str, *priorities: int) -> list[int]:
    """Adds a job of each priority to a lane and promotes them; their ids."""
    ids = [(await add(connection, f"{lane}{n}", n, serial=lane, priority=p))["id"] for n, p in enumerate(priorities)]
    await store.promote(1000)
    return ids


async def head(connection: asyncpg.Connection, lane: str) -> int | None:
    """The id of the job that holds a lane."""
    found: int | None = await connection.fetchval("select id from slayq.job where serial_queue = $1 and holds", lane)
    return found


async def test_five_lanes_run_side_by_side(connection: asyncpg.Connection, store: Store) -> None:
    """J8: five serial queues and five workers: each worker gets the head of a lane."""
    for lane in "abcde":
        await fill(connection, store, lane, 0, 0)
    leased = [await (await Daemon.register(store, name)).lease_one() for name in "12345"]
    assert sorted(each.serial_queue or "" for each in leased) == ["a", "b", "c", "d", "e"]


async def test_one_worker_drains_all_lanes(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J9: with one slot all jobs of all lanes run, each lane's in order."""
    for lane in "abc":
        await fill(connection, daemon.store, lane, 0, 0, 0)
    seen: list[tuple[str | None, int]] = []
    while batch := await daemon.lease():
        seen += [(each.serial_queue, data_of(each)) for each in batch]
        await daemon.complete(*batch)

    assert sorted(seen) == [(lane, n) for lane in "abc" for n in range(3)]
    assert [n for lane, n in seen if lane == "a"] == [0, 1, 2]


async def test_one_at_a_time_in_order(connection: asyncpg.Connection, store: Store) -> None:
    """J10: five jobs of one lane, three workers: nothing more can be leased until the one before has ended."""
    workers = [await Daemon.register(store, name) for name in "123"]
    ids = await fill(connection, store, "lane", 0, 0, 0, 0, 0)
    seen = []
    for n in range(5):
        each = workers[n % 3]
        leased = await each.lease_one()
        assert [await other.lease(free=9) for other in workers] == [[], [], []]
        seen.append(leased.id)
        await each.complete(leased)
    assert seen == ids


async def test_order_within_a_lane(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J10: priority, then run_at, then id, negative priorities first."""
    early, late = later(hours=-2), later(hours=-1)
    order = [(0, late), (5, early), (-5, late), (0, early), (0, late)]
    for n, (priority, run_at) in enumerate(order):
        await add(connection, f"{n}", n, serial="lane", priority=priority, run_at=run_at)
    await daemon.store.promote(100)
    seen = []
    while batch := await daemon.lease(free=9):
        seen += [data_of(each) for each in batch]
        await daemon.complete(*batch)
    assert seen == [2, 3, 0, 4, 1]


async def test_order_holds_under_batches(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """N7: leased and settled eight at once, no batch has two jobs of a lane, and each lane is in order."""
    generator = random.Random(7)
    expected: dict[str, list[int]] = {}
    for n in range(60):
        lane, priority = generator.choice("abcdefghij"), generator.randint(-2, 2)
        row = await add(connection, None, n, serial=lane, priority=priority, run_at=later(hours=-1))
        expected.setdefault(lane, []).append(row["id"])
    rows = await connection.fetch("select id, serial_queue as lane from slayq.job order by priority, run_at, id")
    await daemon.store.promote(1000)
    seen: dict[str, list[int]] = {}
    while batch := await daemon.lease(free=8):
        assert len({each.serial_queue for each in batch}) == len(batch)
        for each in batch:
            seen.setdefault(each.serial_queue or "", []).append(each.id)
        await daemon.complete(*batch)

    assert seen == {lane: [row["id"] for row in rows if row["lane"] == lane] for lane in expected}


@pytest.mark.parametrize("ending", ["complete", "fail", "bury"])
async def test_the_next_starts_when_the_one_before_ends(
    connection: asyncpg.Connection, daemon: Daemon, ending: str
) -> None:
    """N8: settling says which queues have a next job, which is ready in the same commit: no promoter, no poll."""
    first, second = await fill(connection, daemon.store, "lane", 0, 0)
    endings: dict[str, Callable[[LeasedJob], Awaitable[object]]] = {
        "complete": daemon.complete,
        "fail": daemon.fail,
        "bury": daemon.bury,
    }
    leased = await daemon.lease_one()
    assert leased.id == first
    settled = await endings[ending](leased)

    assert settled.ready == {QUEUE}  # type: ignore[attr-defined]
    assert (await daemon.lease_one()).id == second


async def test_settling_and_advancing_are_one_transaction(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """N8: nobody ever sees the lane without a head: until the commit the old one, then the next."""
    first, second = await fill(connection, daemon.store, "lane", 0, 0)
    leased = await daemon.lease_one()
    onlooker = await connect()
    async with connection.transaction():
        await connection.fetch(query("settle_completed"), daemon.worker_id, [leased.id], [leased.lease], False)
        assert await connection.fetchval(query("advance_lanes"), ["lane"]) == [QUEUE]
        assert await head(onlooker, "lane") == first
    assert await head(onlooker, "lane") == second


async def test_a_failed_job_lets_others_pass(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Not strict, the default: while one waits for its retry the others run; then it comes in its turn."""
    first, second, third = await fill(connection, daemon.store, "lane", 0, 0, 0)
    await daemon.fail(await daemon.lease_one())
    passing = await daemon.lease_one()
    assert passing.id == second
    await make_due(connection, first)
    await daemon.store.promote(10)
    assert (await live(connection, first))["state"] == "blocked"
    await daemon.complete(passing)
    # The retry's run_at is later than the third's.
    assert (await daemon.lease_one()).id == third


async def test_a_strict_lane_waits_for_the_retry(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Strict: the one that failed keeps its lane until it has ended; nothing else of the lane runs."""
    first, second = await fill(connection, daemon.store, "lane", 0, 0)
    settled = await daemon.fail(await daemon.lease_one(), strict=True)
    await daemon.store.advance_headless_lanes(10)
    urgent = await add(connection, serial="lane", priority=-9)
    await daemon.store.promote(10)

    assert (settled.ready, await head(connection, "lane")) == (set(), first)
    assert await daemon.lease(free=9) == []
    await make_due(connection, first)
    assert (await daemon.store.promote(10)).ready == (QUEUE,)
    again = await daemon.lease_one()
    assert (again.id, again.attempts) == (first, 2)
    await daemon.complete(again)
    assert [(await daemon.lease_one()).id] == [urgent["id"]]
    assert (await live(connection, second))["state"] == "blocked"


async def test_a_strict_lane_is_kept_when_the_retry_is_due(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Strict: while the retry waits for a free slot, no other job takes the lane, whatever comes before it by now."""
    first, second = await fill(connection, daemon.store, "lane", 0, 0)
    await daemon.settle(failed(await daemon.lease_one(), delay=0.0, strict=True))
    await daemon.store.promote(10)
    await add(connection, serial="lane", priority=-9)
    await daemon.store.promote(10)
    again = await daemon.lease_one()
    assert (first, 2) == (again.id, again.attempts)
    assert "blocked" == (await live(connection, second))["state"]


async def test_a_job_whose_lease_was_lost_keeps_its_lane(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """It may have been delivered in part: it is delivered again before any other of its lane."""
    (first,) = await fill(connection, daemon.store, "lane", 0)
    await daemon.lease_one()
    await daemon.expire(connection)
    await daemon.store.reap(10)
    await add(connection, serial="lane", priority=-9)
    await daemon.store.promote(10)
    other = await daemon.register(daemon.store, "other")
    assert first == (await other.lease_one()).id


async def test_a_strict_lane_goes_on_after_a_dead_letter(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Strict: a job that ends as a dead letter lets go of its lane."""
    _, second = await fill(connection, daemon.store, "lane", 0, 0)
    await daemon.settle(failed(await daemon.lease_one(), delay=0.0, strict=True))
    await daemon.store.promote(10)
    settled = await daemon.bury(await daemon.lease_one())
    assert (settled.ready, (await daemon.lease_one()).id) == ({QUEUE}, second)


async def test_a_more_urgent_job_takes_the_heads_place(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J10: a head that is merely ready steps back for one that comes before it; one being delivered does not."""
    (first,) = await fill(connection, daemon.store, "lane", 0)
    urgent = (await add(connection, serial="lane", priority=-1))["id"]
    await daemon.store.promote(10)
    assert (await head(connection, "lane"), (await live(connection, first))["state"]) == (urgent, "blocked")

    leased = await daemon.lease_one()
    await add(connection, serial="lane", priority=-2)
    await daemon.store.promote(10)
    assert (leased.id, await head(connection, "lane")) == (urgent, urgent)
    assert await daemon.lease(free=9) == []


async def test_nothing_of_a_lane_runs_before_the_promoter_saw_it(
    connection: asyncpg.Connection, daemon: Daemon
) -> None:
    """J10: a due job of a serial queue is not ready when added: only the promoter picks heads."""
    added = await add(connection, serial="lane")
    assert (added["state"], await daemon.lease(free=9)) == ("scheduled", [])
    promoted = await daemon.store.promote(10)
    assert (promoted.count, promoted.ready) == (1, (QUEUE,))
    assert (await daemon.lease_one()).id == added["id"]


REPLACED = {
    "removed": "select slayq.remove_job('lane0')",
    "cancelled": "select cancel_pending_tasks('shop/order', 'n', '0')",
    "completed by hand": "select slayq.complete_jobs(array[{head}::bigint])",
    "failed by hand": "select slayq.permanently_fail_jobs(array[{head}::bigint])",
    "put off": "select slayq.reschedule_jobs(array[{head}::bigint], run_at => now() + interval '1 hour')",
    "made less urgent": "select slayq.reschedule_jobs(array[{head}::bigint], priority => 9)",
    "added again for later": (
        "select add_worker_job('mail', (select payload from slayq.job where id = {head}), 'lane',"
        " now() + interval '1 hour', null, 'lane0')"
    ),
    "added again elsewhere": (
        "select add_worker_job('other', (select payload from slayq.job where id = {head}), null, null, null, 'lane0')"
    ),
}


@pytest.mark.parametrize("how", REPLACED)
async def test_a_lane_goes_on_without_its_head(connection: asyncpg.Connection, daemon: Daemon, how: str) -> None:
    """J10: a ready head that an app or an operator takes away leaves the lane to the next one."""
    ids = [
        (await add(connection, f"lane{n}", {"n": n}, serial="lane", run_at=later(hours=-1, minutes=n)))["id"]
        for n in range(3)
    ]
    await daemon.store.promote(10)
    assert await head(connection, "lane") == ids[0]
    await connection.execute(REPLACED[how].format(head=ids[0]))

    assert await head(connection, "lane") is None
    heartbeat = await daemon.store.renew_worker(daemon.worker_id, 600.0, [QUEUE])
    assert heartbeat.blocked
    assert await daemon.store.advance_headless_lanes(10) == (QUEUE,)
    await daemon.store.promote(10)
    assert (await daemon.lease_one()).id == ids[1]
    assert await daemon.store.advance_headless_lanes(10) == ()


async def test_a_head_that_is_delivered_stays_head(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J10: removed, cancelled or added again while delivered, it holds its lane until its delivery has ended."""
    for taking_away in ("removed", "cancelled", "added again elsewhere"):
        first, second = [(await add(connection, f"lane{n}", {"n": n}, serial="lane"))["id"] for n in range(2)]
        await daemon.store.promote(10)
        leased = await daemon.lease_one()
        await connection.execute(REPLACED[taking_away].format(head=first))
        assert await daemon.store.advance_headless_lanes(10) == ()
        assert await daemon.lease(free=9) == []
        assert (await daemon.fail(leased)).ready == {QUEUE}
        assert (await daemon.lease_one()).id == second
        await connection.execute("delete from slayq.job")


async def test_a_lane_may_change_queues(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J10: a lane's jobs may be of several queues: still one at a time, and the next one's queue is named."""
    await add(connection, serial="lane", queue="mail")
    await add(connection, serial="lane", queue="post")
    assert (await daemon.store.promote(10)).ready == ("mail",)
    leased = await daemon.lease_one("mail")
    assert await daemon.lease(free=9) == await daemon.lease("post") == []
    assert (await daemon.complete(leased)).ready == {"post"}
    await daemon.lease_one("post")


async def test_headless_lanes_are_all_found(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The net under it finds each lane that is blocked behind nothing, however they are named, a number at a time."""
    lanes = ["", "a", "a ", "A", "ä", "~", "\u2028", "zz"]
    for lane in lanes[1:]:
        await fill(connection, daemon.store, lane, 0, 0, 0)
    await connection.execute("delete from slayq.job where holds")
    found = await daemon.store.advance_headless_lanes(3)
    rest = await daemon.store.advance_headless_lanes(100)

    assert (found, rest, await daemon.store.advance_headless_lanes(100)) == ((QUEUE,), (QUEUE,), ())
    assert sorted(each.serial_queue or "" for each in await daemon.lease(free=99)) == sorted(lanes[1:])


async def test_the_index_forbids_two_heads(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J10: should any statement ever be wrong, the table refuses a second head."""
    _, second = await fill(connection, daemon.store, "lane", 0, 0)
    with pytest.raises(asyncpg.UniqueViolationError, match="job_serial_head"):
        await connection.execute("update slayq.job set holds = true, state = 'ready' where id = $1", second)


async def test_two_daemons_choose_a_head_at_once(
    connection: asyncpg.Connection, connect: Connect, store: Store
) -> None:
    """J10: the second waits for the first, sees its choice and makes none; if the first is undone, it makes its own."""
    for commits in (True, False):
        first, _ = await fill(connection, store, "lane", 0, 0)
        await connection.execute("update slayq.job set state = 'blocked', holds = false")
        one, two, onlooker = await connect(), await connect(), await connect()
        transaction = one.transaction()
        await transaction.start()
        assert await one.fetchval(query("advance_lanes"), ["lane"]) == [QUEUE]
        choosing = asyncio.ensure_future(two.fetchval(query("advance_lanes"), ["lane"]))
        await blocked_by(onlooker, one, two)
        await (transaction.commit() if commits else transaction.rollback())
        assert await choosing == ([] if commits else [QUEUE])
        assert await head(connection, "lane") == first
        await connection.execute("delete from slayq.job")


async def test_a_callers_open_transaction_does_not_hold_a_lane(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """Invariant E: while a caller's transaction holds a blocked job, the lane goes on with the others at once."""
    _, second, third = await fill(connection, daemon.store, "lane", 0, 0, 0)
    caller = await connect()
    transaction = caller.transaction()
    await transaction.start()
    await caller.execute("select slayq.remove_job('lane1')")
    await add(caller, serial="lane", priority=-1)

    async with asyncio.timeout(10):
        await daemon.complete(await daemon.lease_one())
        passing = await daemon.lease_one()
    assert passing.id == third
    await transaction.rollback()
    await daemon.complete(passing)
    assert (await daemon.lease_one()).id == second


async def test_never_two_of_a_lane_under_load(connect: Connect, store: Store) -> None:
    """J10, N7: with four workers, promoters, sweeps and callers at once, no lane ever has two jobs under delivery."""
    generator = random.Random(10)
    lanes = ["a", "b", "c"]
    busy: set[str | None] = set()
    ended = 0
    total = 400

    async def call(connection: asyncpg.Connection, number: int) -> None:
        for n in range(total // 4):
            key = f"{number}/{n % 20}" if generator.random() < 0.3 else None
            await add(connection, key, serial=generator.choice(lanes), priority=generator.randint(-2, 2))
            if generator.random() < 0.1:
                await connection.execute("select slayq.remove_job($1)", f"{number}/{generator.randrange(20)}")

    async def work(name: str, over: asyncio.Event, onlooker: asyncpg.Connection) -> None:
        nonlocal ended
        daemon = await Daemon.register(store, name)
        while True:
            last_round = over.is_set()
            await store.promote(20)
            await store.advance_headless_lanes(5)
            batch = await daemon.lease(free=3)
            names = {each.serial_queue for each in batch}
            assert len(names) == len(batch)
            assert not names & busy
            busy.update(names)
            outcomes = [
                failed(each, delay=0.0, strict=generator.random() < 0.5)
                if generator.random() < 0.3
                else completed(each)
                for each in batch
            ]
            await asyncio.sleep(0)
            while outcomes:
                # From the commit on others may have the lane: it is ours no more once the statement is on its way.
                busy.difference_update(names)
                verdicts = (await daemon.settle(*outcomes)).verdicts
                outcomes = [each for each in outcomes if verdicts[each.job_id] == "locked"]
            ended += len(batch)
            if last_round and not await onlooker.fetchval("select count(*) from slayq.job"):
                return

    over = asyncio.Event()
    onlookers = [await connect() for _ in range(4)]
    callers = [await connect() for _ in range(4)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as workers:
        for number, onlooker in enumerate(onlookers):
            workers.create_task(work(f"worker {number}", over, onlooker))
        await asyncio.gather(*(call(each, number) for number, each in enumerate(callers)))
        over.set()
    assert ended > total / 2
