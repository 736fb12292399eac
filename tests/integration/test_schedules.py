"""Cron ticks on a real Postgres: each once in the cluster, missed ones by the schedule's catch_up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from slayq_server.clock import SystemClock
from slayq_server.db.pool import Pool
from slayq_server.db.schedules import Schedules
from slayq_server.engine.crontab import Crontab
from slayq_server.engine.scheduler import Scheduler, ticks_to_fire
from slayq_server.model import ScheduleRow
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.support.daemon import Daemons
    from tests.support.endpoint import Endpoint

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def hourly(**changes: object) -> ScheduleRow:
    """A schedule that fires every hour."""
    row = ScheduleRow(
        id="hourly",
        cron="0 * * * *",
        queue="mail",
        event="test/hourly",
        url="http://127.0.0.1:1/slayq",
        data='{"a": 1}',
        priority=3,
        max_attempts=2,
        job_key=None,
        kind="config",
        catch_up="last",
        catch_up_window=3 * 3600.0,
        next_at=NOON,
        last_at=None,
        now=NOON,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def fires(**changes: object) -> list[int]:
    """The hours whose ticks fire."""
    return [tick.hour for tick in ticks_to_fire(hourly(**changes), Crontab.parse("0 * * * *"))]


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("none", []), ("last", [22]), ("all", [20, 21, 22])], ids=["none", "last", "all"]
)
def test_missed_ticks_are_caught_up_as_the_schedule_says(catch_up: str, expected: list[int]) -> None:
    """R2, R3: down from noon to half past ten at night: none gives 0, last gives 1, all each within its window."""
    assert expected == fires(catch_up=catch_up, now=NOON + timedelta(hours=10, minutes=30))


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_a_tick_that_is_a_little_late_is_on_time(catch_up: str) -> None:
    """A tick noticed half a minute late fires whatever catch_up says."""
    assert [12] == fires(catch_up=catch_up, now=NOON + timedelta(seconds=30))


def test_none_still_fires_the_tick_that_is_on_time_after_missed_ones() -> None:
    """Down for hours and back just at a tick: that tick fires, the missed ones do not."""
    assert [15] == fires(catch_up="none", now=NOON + timedelta(hours=3, seconds=5))


def test_a_month_of_minutes_is_caught_up_whole() -> None:
    """all within a window of 31 days, every minute: not one is left out, and the last is the last."""
    now = NOON + timedelta(days=31)
    row = hourly(cron="* * * * *", catch_up="all", catch_up_window=31 * 86400.0, now=now)
    ticks = ticks_to_fire(row, Crontab.parse("* * * * *"))
    assert (31 * 24 * 60 + 1, NOON, now) == (len(ticks), ticks[0], ticks[-1])


@asynccontextmanager
async def schedulers(url: str, schedule: ScheduleRow, number: int) -> AsyncIterator[list[Scheduler]]:
    """Some schedulers on one database, each with connections of its own, all of them with this schedule."""
    errors: list[Exception] = []
    async with asyncio.TaskGroup() as group:
        pools = [Pool(url, size=2) for _ in range(number)]
        made = []
        for pool in pools:
            await pool.open()
            scheduler = Scheduler(
                Schedules(pool),
                SystemClock(),
                on_fired=lambda *_: None,
                on_times=lambda _: None,
                on_error=errors.append,
            )
            scheduler.replace([schedule])
            made.append(scheduler)
        tasks = [group.create_task(scheduler.run()) for scheduler in made]
        yield made
        for task in tasks:
            task.cancel()
    for pool in pools:
        await pool.close()
    assert [] == errors


async def registered(connection: asyncpg.Connection) -> None:
    """Waits until the schedule is in the database."""
    await wait_until(lambda: connection.fetchval("select exists (select from slayq.schedule)"))


async def tick_now(connection: asyncpg.Connection, made: list[Scheduler], ago: float = 0.0) -> None:
    """Makes the schedule due so many seconds ago, and every scheduler look."""
    await connection.execute(
        "update slayq.schedule set next_at = clock_timestamp() - make_interval(secs => $1)", float(ago)
    )
    for scheduler in made:
        scheduler.look()


async def moved_on(connection: asyncpg.Connection) -> bool:
    """Whether the schedule's next tick is in the future."""
    return bool(await connection.fetchval("select next_at > clock_timestamp() from slayq.schedule"))


async def test_the_first_sight_of_a_schedule_fires_nothing(database_url: str, connection: asyncpg.Connection) -> None:
    """R1: a new schedule starts with its next tick by the database's clock; nothing is back-filled."""
    async with schedulers(database_url, hourly(next_at=NOON - timedelta(days=900)), 1):
        await registered(connection)
        row = await connection.fetchrow("select next_at, last_at, now() as now from slayq.schedule")
    assert row["now"] < row["next_at"] <= row["now"] + timedelta(hours=1)
    assert None is row["last_at"]
    assert 0 == await connection.fetchval("select count(*) from slayq.job")


async def test_each_tick_fires_once_among_many(database_url: str, connection: asyncpg.Connection) -> None:
    """R8: eight schedulers, all looking at once, twenty ticks: twenty jobs, with the schedule's settings."""
    async with schedulers(database_url, hourly(), 8) as made:
        await registered(connection)
        for _ in range(20):
            await tick_now(connection, made)
            await wait_until(lambda: moved_on(connection))
    rows = await connection.fetch(
        "select queue, event, priority, max_attempts, payload::text as payload from slayq.job"
    )
    expected = ("mail", "test/hourly", 3, 2)
    assert [expected] * 20 == [(r["queue"], r["event"], r["priority"], r["max_attempts"]) for r in rows]
    payload = '{"url": "http://127.0.0.1:1/slayq", "retry": 0, "event": "test/hourly", "data": {"a": 1}}'
    assert {payload} == {row["payload"] for row in rows}


async def test_a_scheduler_that_dies_in_the_transaction_fires_nothing(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """R8: the job and the moved row are one transaction: cut off in between, the tick is still there for others."""
    pool = Pool(database_url)
    await pool.open()
    schedules = Schedules(pool)
    await schedules.register(hourly(next_at=NOON))

    async def cut_off() -> None:
        async with schedules.firing(["hourly"]) as firing:
            (due,) = firing.due
            assert await firing.add(due, '{"url": "http://127.0.0.1:1/", "event": "e"}', due.next_at)
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        await cut_off()
    assert 0 == await connection.fetchval("select count(*) from slayq.job")
    assert NOON == await connection.fetchval("select next_at from slayq.schedule")
    await pool.close()


async def test_another_transaction_that_fires_is_not_waited_for(database_url: str) -> None:
    """Two at once: the second sees nothing due, at once, and so cannot fire the same tick."""
    pool = Pool(database_url)
    await pool.open()
    schedules = Schedules(pool)
    await schedules.register(hourly(next_at=NOON))
    async with schedules.firing(["hourly"]) as first, schedules.firing(["hourly"]) as second:
        assert (1, 0) == (len(first.due), len(second.due))
    await pool.close()


async def test_a_clock_that_is_set_back_repeats_no_tick(database_url: str, connection: asyncpg.Connection) -> None:
    """R5, R6: the row's next tick lies ahead of a clock that was set back, so nothing fires until it is reached."""
    async with schedulers(database_url, hourly(), 2) as made:
        await registered(connection)
        await tick_now(connection, made)
        await wait_until(lambda: moved_on(connection))
        # As the rows look to a clock that was set back by two hours.
        await connection.execute("update slayq.schedule set next_at = next_at + interval '2 hours'")
        pool = Pool(database_url)
        await pool.open()
        async with Schedules(pool).firing(["hourly"]) as firing:
            assert [] == firing.due
        await pool.close()
    assert 1 == await connection.fetchval("select count(*) from slayq.job")


async def test_a_key_replaces_the_last_tick_that_still_waits(database_url: str, connection: asyncpg.Connection) -> None:
    """R7: with job_key and the last tick's job still waiting, the tick replaces it instead of piling up."""
    async with schedulers(database_url, hourly(job_key="the-hourly"), 1) as made:
        await registered(connection)
        for _ in range(5):
            await tick_now(connection, made)
            await wait_until(lambda: moved_on(connection))
    rows = await connection.fetch("select job_key, revision from slayq.job")
    assert [("the-hourly", 4)] == [tuple(row) for row in rows]


async def test_a_changed_cron_line_starts_anew_and_an_unchanged_one_goes_on(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """A restart keeps the next tick (so that a missed one is noticed); another line starts with its own next tick."""
    pool = Pool(database_url)
    await pool.open()
    schedules = Schedules(pool)
    await schedules.register(hourly(next_at=NOON))
    await schedules.register(hourly(next_at=NOON + timedelta(hours=9), queue="other"))
    assert (NOON, "other") == tuple(await connection.fetchrow("select next_at, queue from slayq.schedule"))
    await schedules.register(hourly(next_at=NOON + timedelta(hours=9), cron="5 * * * *"))
    assert NOON + timedelta(hours=9) == await connection.fetchval("select next_at from slayq.schedule")
    await pool.close()


async def test_two_daemons_deliver_each_minute_tick_once(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """R4, protocol v1 section 5: the tick is delivered as event cron, data {}, job_key cron; once for both daemons."""
    env = {"SLAY_Q_CRON_URL": endpoint.url}
    minute = "select date_trunc('minute', clock_timestamp())"
    begun = await connection.fetchval(minute)
    for _ in range(2):
        await daemons.start(env=env, worker={"lease": 3, "renew": 0.2})
    await registered(connection)
    for number in range(1, 6):
        await connection.execute("update slayq.schedule set next_at = clock_timestamp()")
        await endpoint.wait_for_finished(number)
        await wait_until(lambda: connection.fetchval("select not exists (select from slayq.job)"))
    expected = {"job_key": "cron", "retry": 1, "event": "cron", "data": {}}
    for callback in endpoint.received:
        assert callback.signature_valid
        assert expected == {name: value for name, value in callback.body.items() if name != "time"}
    turned = (await connection.fetchval(minute) - begun) // timedelta(minutes=1)  # a tick of its own each time
    assert 5 <= len(endpoint.received) <= 5 + turned


async def test_minute_ticks_do_not_pile_up(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """An app that is down, or says 404, finds one tick when it is back, and at most one dead letter of it."""
    endpoint.handler = lambda callback: 404 if callback.number % 2 else 500
    await daemons.start(env={"SLAY_Q_CRON_URL": endpoint.url}, worker={"lease": 3, "renew": 0.2})
    await registered(connection)
    for number in range(1, 7):
        await connection.execute("update slayq.schedule set next_at = clock_timestamp()")
        await endpoint.wait_for_finished(number)
        await wait_until(
            lambda: connection.fetchval("select not exists (select from slayq.job where state = 'leased')")
        )
    assert 1 >= await connection.fetchval("select count(*) from slayq.job")
    assert 1 == await connection.fetchval("select count(*) from slayq.dead_letter")


async def test_a_configured_schedule_fires_through_the_daemon(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """The cron section of slay-config.json: event, data and queue reach the app."""
    cron = [
        {"id": "nightly", "cron": "TZ=Europe/Paris 0 3 * * *", "event": "shop/nightly", "queue": "mail",
         "url": endpoint.url, "data": {"deep": True}}
    ]  # fmt: skip
    await daemons.start(cron=cron, worker={"lease": 3, "renew": 0.2})
    await registered(connection)
    await connection.execute("update slayq.schedule set next_at = clock_timestamp()")
    (callback,) = await endpoint.wait_for(1)
    assert ("shop/nightly", {"deep": True}) == (callback.event, callback.data)


async def test_a_schedule_that_cannot_fire_costs_no_other_its_ticks(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Rows that another release wrote: a cron text we cannot read, and a job that the database refuses."""
    entry = {"cron": "* * * * *", "event": "test/tick", "url": endpoint.url, "queue": "mail"}
    running = await daemons.start(cron=[{"id": name, **entry} for name in ("bad-cron", "bad-job", "good")])
    await wait_until(lambda: connection.fetchval("select count(*) = 3 from slayq.schedule"))
    await connection.execute(
        """update slayq.schedule set
            next_at = now() - interval '1 second',
            cron = case id when 'bad-cron' then 'every blue moon' else cron end,
            event = case id when 'bad-job' then repeat('x', 1000) else event end"""
    )
    (callback,) = await endpoint.wait_for(1)
    assert "test/tick" == callback.event
    await running.program.wait_for_output('"schedule_unusable"')
    await running.program.wait_for_output('"schedule_refused"')

    async def moved() -> bool:
        return bool(
            await connection.fetchval("select bool_and(next_at > now()) from slayq.schedule where id <> 'bad-cron'")
        )

    await wait_until(moved)
    await running.program.wait_until_answers(f"{running.url}/readyz", 200)
    assert 1 == len([line for line in running.program.events if line["event"] == "schedule_unusable"])
