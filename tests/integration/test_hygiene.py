"""A daemon that has been through much holds on to no more than one that has just begun."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from tests.support.daemon import FAST_BACKOFF, Daemons, Running, metric, until_no_jobs
from tests.support.endpoint import Reply

if TYPE_CHECKING:
    import asyncpg

    from tests.support.endpoint import Endpoint, Received

ROUNDS, JOBS, AT_ONCE = 4, 400, 10
QUIET = 1.5
"""Seconds: longer than from one count of the tasks to the next."""
MOST_CONNECTIONS = 5
"""To the database: the pool's four, and the listener."""


@dataclass(frozen=True)
class Held:
    """What a daemon holds while it has nothing to do."""

    tasks: int
    files: int
    """But for its connections."""
    idle_in_transaction: int
    unknown_connections: int
    """Those that lead neither to the database nor to the endpoint, nor to its own HTTP server."""
    to_database: bool
    """As many as Postgres knows of, and no more than it may have."""
    to_endpoint: bool
    """No more than it may have deliveries in flight."""


async def held(running: Running, endpoint: Endpoint, connection: asyncpg.Connection, database_url: str) -> Held:
    """What it holds now."""
    process = psutil.Process(running.program.pid)
    ports = {"database": urlsplit(database_url).port, "endpoint": urlsplit(endpoint.url).port}
    sockets = process.net_connections(kind="inet")
    leading_to = {
        name: sum(bool(each.raddr) and each.raddr.port == port for each in sockets) for name, port in ports.items()
    }
    ours = [each for each in sockets if each.laddr.port == running.port]
    sessions = await connection.fetchrow(_SESSIONS)
    assert sessions is not None
    return Held(
        tasks=int(await metric(running, "slayq_event_loop_tasks")),
        files=process.num_fds() - len(sockets),
        idle_in_transaction=sessions["idle_in_transaction"],
        unknown_connections=len(sockets) - sum(leading_to.values()) - len(ours),
        to_database=sessions["all"] == leading_to["database"] <= MOST_CONNECTIONS,
        to_endpoint=leading_to["endpoint"] <= AT_ONCE,
    )


def clumsy(callback: Received) -> Reply:
    """Of ten jobs one fails at first; of fifty another is not answered in time."""
    number, first = callback.data["n"], callback.retry == 1
    if first and number % 50 == 2:
        return Reply(200, hold=asyncio.Event())
    return Reply(500 if first and number % 10 == 1 else 200)


async def _round(connection: asyncpg.Connection, endpoint: Endpoint) -> None:
    """So many jobs, and in the middle of them all of the daemon's sessions are ended."""
    before = len(endpoint.received)
    await connection.execute(_ADD, endpoint.url, JOBS)
    await endpoint.wait_for(before + JOBS // 4, timeout=60)
    await connection.execute(_TERMINATE)
    await until_no_jobs(connection, timeout=60)


async def test_thousands_of_jobs_and_some_faults_leave_nothing_behind(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """As many tasks and open files as after the first round, no stray connection, no transaction left open."""
    endpoint.handler = clumsy
    mail = {"concurrency": AT_ONCE, "backoff": FAST_BACKOFF, "timeout": 0.5}
    running = await daemons.start(env={"SLAY_Q_LOG_LEVEL": "info"}, queues={"mail": mail})
    await _round(connection, endpoint)
    before = await at_rest(running, endpoint, connection, daemons.database_url)
    assert Held(before.tasks, before.files, 0, 0, True, True) == before
    for _ in range(ROUNDS):
        await _round(connection, endpoint)
    # A task may just be at its end, or be held while the daemon waits to hear from the database again: what is lost for
    # good is lost in every round.
    for _ in range(5):
        after = await at_rest(running, endpoint, connection, daemons.database_url)
        if after == before:
            break
    assert (after.tasks < before.tasks + ROUNDS, replace(after, tasks=0)) == (True, replace(before, tasks=0))


async def at_rest(running: Running, endpoint: Endpoint, connection: asyncpg.Connection, database_url: str) -> Held:
    """What it holds once that is the same twice in a row."""
    last = None
    async with asyncio.timeout(60):
        while True:
            # Answering us takes tasks, too. The event loop's watch counts them each second: let it do so undisturbed.
            await asyncio.sleep(QUIET)
            found = await held(running, endpoint, connection, database_url)
            if found == last:
                return found
            last = found


_ADD = """
select count(*) from slayq.add_jobs(array(
    select row('mail', json_build_object('url', $1::text, 'event', 'test/event', 'data', json_build_object('n', n)),
        null, null, null, null, null, null)::slayq.job_spec
    from generate_series(1, $2::integer) as n
))
"""
_OURS = "datname = current_database() and application_name like 'slayq-server%'"
_TERMINATE = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {_OURS}"
_SESSIONS = f"""
select count(*) as all, count(*) filter (where state like 'idle in transaction%') as idle_in_transaction
from pg_stat_activity where {_OURS}
"""
