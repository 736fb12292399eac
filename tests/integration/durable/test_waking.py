"""Waits of many real runs, and cancelling one in the middle of a long step."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from tests.integration.durable.conftest import App, registered, send, start_daemon
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.support.daemon import Daemons

RUNS = 1000


async def test_a_thousand_waits_for_events_sent_before_during_and_after(
    daemons: Daemons, connection: asyncpg.Connection, connect: Connect, app: App
) -> None:
    """Every run wakes, none twice, whenever its event comes: with the run, while it goes to wait, when it waits."""
    await start_daemon(daemons, app, lease=15)
    await app.start()
    await registered(connection)
    third = RUNS // 3
    before = [
        {"event": event, "data": {"order": order}}
        for order in range(third)
        for event in ("durable/waiter", "durable/paid")
    ]
    await connection.execute("select slayq.send_many($1)", json.dumps(before))
    sender = await connect()
    for order in range(third, RUNS):
        await send(connection, "durable/waiter", order)
        if order < 2 * third:
            await send(sender, "durable/paid", order)
    waiting = "select count(*) from slayq.step where state = 'pending'"
    await wait_until(lambda: _equals(connection, waiting, RUNS - 2 * third), 60, "the last third waiting")
    for order in range(2 * third, RUNS):
        await send(sender, "durable/paid", order)
    await wait_until(lambda: len(app.log("woken")) >= RUNS, 60, "all being woken")
    await wait_until(lambda: _equals(connection, "select count(*) from slayq.job", 0), 30, "all being done")
    woken = app.log("woken")
    assert sorted(range(RUNS)) == sorted(line["order"] for line in woken)
    assert all(line["paid"] for line in woken)


async def _equals(connection: asyncpg.Connection, query: str, number: int) -> bool:
    return bool(number == await connection.fetchval(query))


async def test_a_run_is_cancelled_in_the_middle_of_a_step(
    daemons: Daemons, connection: asyncpg.Connection, app: App
) -> None:
    """The app's task is cancelled, long before the step's minute is over, and nothing of the run comes back."""
    await start_daemon(daemons, app)
    await app.start()
    await registered(connection)
    run = await send(connection, "durable/slow")
    await wait_until(lambda: app.log("step", run=run), 20)
    begun = time.monotonic()
    assert await connection.fetchval("select slayq.cancel($1)", run)
    await wait_until(lambda: app.log("cancelled", run=run), 20)
    await wait_until(lambda: _equals(connection, "select count(*) from slayq.job", 0), 20)
    print(f"cancelled {app.log('cancelled', run=run)[0]['at'] - begun:.3f} s after the call")
    assert [] == app.log("finished", run=run)
    assert 0 == await connection.fetchval("select count(*) from slayq.dead_letter")


async def test_cancelled_where_nothing_listens(daemons: Daemons, connection: asyncpg.Connection, app: App) -> None:
    """The same with poll_only: the daemon looks by itself while runs are in flight."""
    await start_daemon(daemons, app, database={"poll_only": True})
    await app.start()
    await registered(connection)
    run = await send(connection, "durable/slow")
    await wait_until(lambda: app.log("step", run=run), 20)
    await connection.execute("select slayq.cancel($1)", run)
    await wait_until(lambda: app.log("cancelled", run=run), 20)
    await asyncio.sleep(0)
    await wait_until(lambda: _equals(connection, "select count(*) from slayq.job", 0), 20)


async def test_a_step_takes_longer_than_the_time_out_of_its_queue(
    daemons: Daemons, connection: asyncpg.Connection, app: App
) -> None:
    """The app says often enough that it is alive: the step of four seconds runs once, under a time-out of three."""
    await start_daemon(daemons, app, timeout="3s")
    await app.start()
    await registered(connection)
    run = await send(connection, "durable/long", 4)
    await wait_until(lambda: app.log("finished", run=run), 30, "the run's end")
    await wait_until(lambda: _equals(connection, "select count(*) from slayq.job", 0), 30, "the job being done")
    assert 1 == len(app.log("step", run=run))
