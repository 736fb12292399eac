"""Jobs that are put off because their endpoint is away: unharmed, in order, and brought forward when it is back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.sql.support import QUEUE, Daemon, add, completed, failed, job, later, live, make_due, put_off, released

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store

APP = "https://app.example.com"
OTHER = "https://other.example.com"


def circuits(*endpoints: str) -> str:
    """What a daemon says of endpoints that it finds away."""
    return json.dumps(
        [
            {"endpoint": endpoint, "since": "2030-01-01T00:00:00+00:00", "failures": 3, "result": "503"}
            for endpoint in endpoints
        ]
    )


async def stranded(daemon: Daemon, *away: str) -> tuple[str, ...]:
    """What a heartbeat says is put off for nobody."""
    beat = await daemon.store.renew_worker(daemon.worker_id, 60.0, [QUEUE], circuits(*away))
    return beat.stranded


async def forward(daemon: Daemon, endpoint: str = APP, most: int = 100, queues: list[str] | None = None) -> int:
    """Brings forward; how many."""
    number, _ = await daemon.store.bring_forward(endpoint, most, queues)
    return number


async def test_a_job_that_is_put_off_is_unharmed(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """No attempt counted, no error; due later, and not before."""
    await add(connection, "k")
    leased = await daemon.lease_one()
    await daemon.settle(put_off(leased, delay=300.0))
    row = await live(connection, "k")
    assert ("scheduled", 0, None, APP) == (row["state"], row["attempts"], row["last_error"], row["put_off"])
    assert 290 < await connection.fetchval("select extract(epoch from run_at - now()) from slayq.job") < 310
    assert [] == await daemon.lease()
    await make_due(connection, leased.id)
    await daemon.store.promote(10)
    again = await daemon.lease_one()
    assert (1, leased.lease + 1) == (again.attempts, again.lease)


async def test_attempts_from_before_stay(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Those that did fail count."""
    await add(connection, "k")
    await daemon.settle(failed(await daemon.lease_one(), delay=0.0))
    await daemon.store.promote(10)
    await daemon.settle(put_off(await daemon.lease_one()))
    row = await live(connection, "k")
    assert (1, "500") == (row["attempts"], row["last_error"])


async def test_each_is_put_off_for_its_own_endpoint_and_time(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Of a batch, nothing is mixed up."""
    for number in range(6):
        await add(connection, f"k{number}")
    jobs = await daemon.lease(free=6)
    delays = {leased.id: 100.0 * place for place, leased in enumerate(reversed(jobs), start=1)}
    settled = await daemon.settle(
        *(put_off(leased, endpoint=f"https://{leased.job_key}.example.com", delay=delays[leased.id]) for leased in jobs)
    )
    assert {"settled"} == set(settled.verdicts.values())
    for row in await connection.fetch("select *, extract(epoch from run_at - now()) as wait from slayq.job"):
        assert f"https://{row['job_key']}.example.com" == row["put_off"]
        assert abs(float(row["wait"]) - delays[row["id"]]) < 10
        assert row["put_off_until"] == row["run_at"]


async def test_brought_forward_the_most_important_first(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """As many as are asked for, of that endpoint alone, and of the queues that are asked for."""
    for priority, key in ((5, "late"), (1, "first"), (2, "second")):
        await add(connection, key, priority=priority)
    await add(connection, "elsewhere")
    await add(connection, "other queue", queue="post", priority=-5)
    for leased in await daemon.lease(QUEUE, "post", free=5):
        await daemon.settle(put_off(leased, endpoint=OTHER if leased.job_key == "elsewhere" else APP))
    assert (1, {QUEUE}) == await daemon.store.bring_forward(APP, 1, [QUEUE])
    assert "first" == (await daemon.lease_one()).job_key
    assert (3, {QUEUE, "post"}) == await daemon.store.bring_forward(APP, 100, None)
    assert ["second", "late"] == [leased.job_key for leased in await daemon.lease(free=5)]
    row = await live(connection, "elsewhere")
    assert "scheduled" == row["state"]


async def test_whoever_sets_another_time_ends_it(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A job that was added again for next week, rescheduled, or tried and failed, is not brought forward."""
    for key in ("again", "rescheduled", "failed", "kept"):
        await add(connection, key)
    jobs = {leased.job_key: leased for leased in await daemon.lease(free=4)}
    await daemon.settle(*map(put_off, jobs.values()))
    await add(connection, "again", run_at=later(days=7))
    await connection.execute(
        "select slayq.reschedule_jobs(array[$1::bigint], run_at => now() + interval '7 days')", jobs["rescheduled"].id
    )
    await make_due(connection, jobs["failed"].id)
    await daemon.store.promote(10)
    await daemon.settle(failed(await daemon.lease_one()))
    assert 1 == await forward(daemon)
    assert "kept" == (await daemon.lease_one()).job_key
    assert () == await stranded(daemon)


async def test_a_cancelled_or_superseded_one_goes(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """As if it had been delivered: it is never tried again."""
    await add(connection, "k")
    leased = await daemon.lease_one()
    await connection.execute("update slayq.job set cancelled = true")
    assert {leased.id: "dropped"} == (await daemon.settle(put_off(leased))).verdicts
    assert await job(connection, leased.id) is None


async def test_a_serial_queues_head_stays_its_head(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """While it is put off, when it is due again and when it is brought forward; whatever has come in meanwhile."""
    await add(connection, "first", serial="s")
    await add(connection, "second", serial="s")
    await daemon.store.promote(10)
    head = await daemon.lease_one()
    assert "first" == head.job_key
    assert not (await daemon.settle(put_off(head))).ready
    await add(connection, "urgent", serial="s", priority=-10)
    await daemon.store.promote(10)
    await daemon.store.advance_headless_lanes(10)
    assert [] == await daemon.lease(free=5)
    for back in (lambda: forward(daemon), lambda: _let_come(daemon, connection, head.id)):
        await back()
        # Somebody looks after the lane: another job of it has become due.
        await connection.fetchval("select array_agg(q) from slayq._advance_lanes_1(array['s']) as q")
        (again,) = await daemon.lease(free=5)
        assert "first" == again.job_key
        await daemon.settle(put_off(again))
    await forward(daemon)
    await daemon.settle(completed((await daemon.lease(free=5))[0]))
    assert ["urgent"] == [leased.job_key for leased in await daemon.lease(free=5)]


async def _let_come(daemon: Daemon, connection: asyncpg.Connection, job_id: int) -> None:
    """The time comes until which it was put off."""
    await connection.execute(
        "update slayq.job set run_at = now() - interval '1 ms', put_off_until = now() - interval '1 ms' where id = $1",
        job_id,
    )
    await daemon.store.promote(10)


async def test_what_is_put_off_for_nobody_is_stranded(
    connection: asyncpg.Connection, daemon: Daemon, store: Store
) -> None:
    """Its daemon is gone, or finds the endpoint back and could not say so: any heartbeat tells."""
    await add(connection, "a")
    await add(connection, "b")
    first, second = await daemon.lease(free=2)
    assert () == await stranded(daemon)
    await daemon.settle(put_off(first), put_off(second, endpoint=OTHER))
    assert () == await stranded(daemon, APP, OTHER)
    watcher = await Daemon.register(store, "watcher")
    assert () == await stranded(watcher)
    assert (OTHER,) == await stranded(daemon, APP)
    assert (OTHER,) == await stranded(watcher)
    await daemon.expire(connection)
    assert (APP, OTHER) == await stranded(watcher)
    assert (1, 1) == (await forward(watcher, APP), await forward(watcher, OTHER))
    assert () == await stranded(watcher)


async def test_bringing_forward_waits_for_nobody(connection: asyncpg.Connection, daemon: Daemon, connect: Any) -> None:
    """A row that somebody else has locked stays put off; the others come."""
    await add(connection, "locked")
    await add(connection, "free")
    await daemon.settle(*map(put_off, await daemon.lease(free=2)))
    other = await connect()
    async with other.transaction():
        await other.execute("select from slayq.job where job_key = 'locked' for update")
        assert 1 == await forward(daemon)
    assert 1 == await forward(daemon)


async def test_given_back_it_is_put_off_no_more(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A probe that is cut off by a shutdown is ready, and stays so."""
    await add(connection, "k")
    await daemon.settle(put_off(await daemon.lease_one()))
    await forward(daemon)
    await daemon.settle(released(await daemon.lease_one()))
    assert "ready" == (await live(connection, "k"))["state"]
    assert () == await stranded(daemon)
