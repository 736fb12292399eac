"""Two connections and a run: each order of what may happen at once, with the locks in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from tests.sql.runs import CANCELLED, PAID, PLACED, RunsDaemon, Segment, make_steps_due, register, send
from tests.sql.support import blocked_by, count

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


@pytest.fixture
def runs(daemon: Daemon, connection: asyncpg.Connection) -> RunsDaemon:
    """A daemon that has just started."""
    return RunsDaemon(daemon, connection)


@pytest.fixture(autouse=True)
async def shop(connection: asyncpg.Connection) -> None:
    """The app whose functions run."""
    await register(connection)


async def leased(connection: asyncpg.Connection, runs: RunsDaemon) -> Segment:
    """A run of order 7 that is being delivered."""
    await send(connection, PLACED, {"order": 7})
    return await runs.lease_one()


# Matching against a wait


async def test_matching_waits_for_a_wait_that_is_being_added(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The wait looked back and found nothing, and is not committed; the event comes; matching sees the wait then."""
    segment = await leased(connection, runs)
    adding, matching = await connect(), await connect()
    transaction = adding.transaction()
    await transaction.start()
    await RunsDaemon(runs.daemon, adding).flush(segment.wait("payment").ends("suspended"))
    await send(connection, PAID, {"order": 7})
    matched = asyncio.ensure_future(RunsDaemon(runs.daemon, matching).match())
    await blocked_by(connection, adding, matching)
    await transaction.commit()
    assert 1 == (await matched)["matched"]


async def test_a_wait_that_comes_while_events_are_matched(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """It is put off until the matching is over, and then finds the event by looking back."""
    segment = await leased(connection, runs)
    await send(connection, PAID, {"order": 7})
    matching = await connect()
    async with matching.transaction():
        await RunsDaemon(runs.daemon, matching).match()
        assert ["locked"] == await runs.ended(segment.wait("payment").ends("suspended"))
    (row,) = await runs.flush(segment.wait("payment").ends("suspended"))
    assert "general" == row["ready"]


# Matching against the timer


@pytest.mark.parametrize("first", ["timer", "event"])
async def test_a_time_out_against_an_event(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon, first: str
) -> None:
    """Whoever has the row writes the one outcome; the other leaves it alone."""
    await runs.flush((await leased(connection, runs)).wait("payment").ends("suspended"))
    await make_steps_due(connection)
    await send(connection, PAID, {"order": 7})
    other = await connect()
    async with other.transaction():
        if first == "timer":
            await other.fetch(query("promote"), 10)
            assert (0, True) == tuple(await runs.match())[::3]
        else:
            await RunsDaemon(runs.daemon, other).match()
            assert 0 == (await runs.promote())["promoted"]
    await runs.match()
    await runs.promote()
    steps = (await runs.lease_one()).steps
    assert {"payment": "timed_out" if first == "timer" else ("done", {"order": 7})} == steps


# Cancelling against a flush


async def test_a_flush_against_a_cancel_that_is_not_committed(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The flush is put off; committed, the run is dropped; rolled back, it is written."""
    segment = await leased(connection, runs)
    other = await connect()
    for commits in (False, True):
        transaction = other.transaction()
        await transaction.start()
        await send(other, CANCELLED, {"order": 7})
        assert ["locked"] == await runs.ended(segment.step("a" if commits else "b"))
        await (transaction.commit() if commits else transaction.rollback())
        assert ["dropped" if commits else "ok"] == await runs.ended(segment.step("a"))


async def test_a_cancel_against_a_flush_that_is_not_committed(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """The cancel waits for the flush and then catches the run in its new state."""
    segment = await leased(connection, runs)
    flushing, cancelling = await connect(), await connect()
    transaction = flushing.transaction()
    await transaction.start()
    await RunsDaemon(runs.daemon, flushing).flush(segment.sleep("nap").ends("suspended"))
    cancelled = asyncio.ensure_future(cancelling.fetchval("select slayq.cancel($1)", segment.run["id"]))
    await blocked_by(connection, flushing, cancelling)
    await transaction.commit()
    assert await cancelled
    assert (0, 0) == (await count(connection), await count(connection, "step"))


# Registering against sending


@pytest.mark.parametrize("commits", [True, False])
async def test_a_send_while_an_app_registers(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """It goes by what was registered before, and waits for nobody."""
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await register(other, {"event": PLACED, "queue": "orders"})
    await send(connection, PLACED, {"order": 7})
    await (transaction.commit() if commits else transaction.rollback())
    await send(connection, PLACED, {"order": 8})
    queues = [row["queue"] for row in await connection.fetch("select queue from slayq.job order by id")]
    assert ["general", "orders" if commits else "general"] == queues


async def test_two_processes_of_an_app_register_at_once(connection: asyncpg.Connection, connect: Connect) -> None:
    """One after the other: the second waits, and changes nothing where it says the same."""
    one, other = await connect(), await connect()
    transaction = one.transaction()
    await transaction.start()
    await register(one, {"event": PLACED, "cron": "0 3 * * *"})
    second = asyncio.ensure_future(register(other, {"event": PLACED, "cron": "0 3 * * *"}))
    await blocked_by(connection, one, other)
    await transaction.commit()
    assert {"functions": 1, "warnings": []} == await second
    assert (1, 1) == (await count(connection, "function"), await count(connection, "schedule"))


# A callee's end against its invoker


async def test_a_callee_ends_while_its_invoker_is_still_leased(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """The invocation is written, the segment not yet over: the result is there as soon as it suspends."""
    segment = await leased(connection, runs)
    await runs.flush(segment.invoke("invoice"))
    await runs.flush((await runs.lease_one()).ends("done", output=5))
    assert (1, []) == tuple(await runs.match())[:2]
    (row,) = await runs.flush(segment.ends("suspended"))
    assert "general" == row["ready"]
    assert {"invoice": ("done", 5)} == (await runs.lease_one()).steps


async def test_no_wake_up_is_lost_in_any_order(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """300 runs, whose event is sent before, while and after the wait is added, all at once: each wakes, none twice."""
    number = 300
    for order in range(number):
        await send(connection, PLACED, {"order": order})
    segments = await runs.lease(number)
    senders = [await connect() for _ in range(3)]
    flusher, matcher = RunsDaemon(runs.daemon, await connect()), RunsDaemon(runs.daemon, await connect())
    over = asyncio.Event()

    async def send_all(sender: asyncpg.Connection, orders: range) -> None:
        for order in orders:
            await send(sender, PAID, {"order": order})

    async def wait_all() -> None:
        left = [segment.wait("payment", str(order)).ends("suspended") for order, segment in enumerate(segments)]
        while left:
            batch, left = left[:7], left[7:]
            said = [segment.ops for segment in batch]
            for segment, ops, row in zip(batch, said, await flusher.flush(*batch), strict=True):
                if row["verdict"] == "locked":
                    segment.ops = ops
                    left.append(segment)
                else:
                    assert "settled" == row["verdict"]

    async def match_all() -> None:
        while not over.is_set():
            await matcher.match(20)

    matching = asyncio.ensure_future(match_all())
    third = number // 3
    await asyncio.gather(
        wait_all(), *(send_all(sender, range(n * third, (n + 1) * third)) for n, sender in enumerate(senders))
    )
    over.set()
    await matching
    while (await matcher.match())["more"]:
        pass
    woken = await runs.lease(number + 1)
    assert number == len(woken)
    assert all(list(segment.steps) == ["payment"] and segment.steps["payment"][0] == "done" for segment in woken)
