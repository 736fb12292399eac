"""NOTIFY only when it is useful: commits that notify queue up behind one lock of the whole cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.daemon import Daemons, add, until_no_jobs
from tests.support.endpoint import Endpoint, Reply
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

SLOW_HEART = {"lease": 120, "renew": 5}
"""So that nothing in these tests is owed to a heartbeat."""


async def listen(connect: Connect) -> list[str]:
    """Every word from now on."""
    words: list[str] = []
    listener = await connect()
    await listener.add_listener("slayq", lambda *heard: words.append(str(heard[3])))
    return words


async def wanted(connection: asyncpg.Connection) -> list[str]:
    """What the one daemon wants words for."""
    names: list[str] = await connection.fetchval("select wants from slayq.worker")
    return names


async def heard_all(connection: asyncpg.Connection, words: list[str]) -> list[str]:
    """What was heard up to now, without the mark that makes sure of it."""
    await connection.execute("select pg_notify('slayq', 'mark')")
    await wait_until(lambda: "mark" in words)
    words.remove("mark")
    return list(words)


async def test_an_idle_daemon_is_woken_by_one_word_a_transaction(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """Ten jobs in one transaction: one notification with the queue's name, and all ten are delivered."""
    await daemons.start(worker=SLOW_HEART)
    await wait_until(lambda: wanted(connection))
    words = await listen(connect)
    async with connection.transaction():
        for number in range(10):
            await add(connection, endpoint.url, data={"n": number})
    await endpoint.wait_for(10)
    assert ["mail"] == await heard_all(connection, words)


async def test_nobody_is_told_when_nobody_serves_the_queue(connect: Connect, connection: asyncpg.Connection) -> None:
    """No daemon, or none for this queue: no notification."""
    words = await listen(connect)
    await add(connection, "http://127.0.0.1:1/")
    assert [] == await heard_all(connection, words)


async def test_a_saturated_daemon_is_left_in_peace(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """While no slot is free there are no notifications; when the backlog is done they are wanted again."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    await daemons.start(worker=SLOW_HEART, queues={"mail": {"concurrency": 1}})
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    await add(connection, endpoint.url)  # of no use: makes the daemon take its wish back

    async def no_wish() -> bool:
        return "mail" not in await wanted(connection)

    await wait_until(no_wish)
    words = await listen(connect)
    for _ in range(30):
        await add(connection, endpoint.url)
    assert [] == await heard_all(connection, words)
    hold.set()
    await endpoint.wait_for(32)
    await until_no_jobs(connection)

    async def wish() -> bool:
        return "mail" in await wanted(connection)

    await wait_until(wish)
    await add(connection, endpoint.url)
    await endpoint.wait_for(33)


async def test_a_job_committed_late_is_found(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """Added while the daemon was busy (so without a word), committed when it was idle: its second look finds it."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    await daemons.start(worker=SLOW_HEART, queues={"mail": {"concurrency": 1}})
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    await add(connection, endpoint.url)

    async def no_wish() -> bool:
        return "mail" not in await wanted(connection)

    await wait_until(no_wish)
    late = await connect()
    transaction = late.transaction()
    await transaction.start()
    await add(late, endpoint.url, data={"late": True})
    hold.set()
    await endpoint.wait_for(2)
    await until_no_jobs(connection)
    await transaction.commit()
    callbacks = await endpoint.wait_for(3)
    assert {"late": True} == callbacks[2].data


async def test_a_job_due_soon_moves_the_timer(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """A job due before the next heartbeat wakes the timer with a word; one due in an hour does not."""
    await daemons.start(worker=SLOW_HEART)
    await wait_until(lambda: wanted(connection))
    words = await listen(connect)
    await connection.execute(
        "select slayq.add_job('mail', $1, run_at => now() + interval '1 hour')",
        f'{{"url":"{endpoint.url}","event":"e"}}',
    )
    assert [] == await heard_all(connection, words)
    await connection.execute(
        "select slayq.add_job('mail', $1, run_at => now() + interval '0.2 seconds')",
        f'{{"url":"{endpoint.url}","event":"e"}}',
    )
    await endpoint.wait_for(1)
    assert "@timer" in await heard_all(connection, words)
