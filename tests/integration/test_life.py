"""Starting, stopping, and being killed."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.dev.cluster import temporary_cluster
from tests.conftest import chosen_installation
from tests.support.daemon import Daemons, Running, add, metric, until_no_jobs
from tests.support.endpoint import Endpoint, Received, Reply
from tests.support.wait import wait_until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Connect, StartProgram


async def test_sigterm_lets_deliveries_end_and_leases_nothing_new(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """The drain: what runs may end and is written down; what waits stays for others; exit code 0; no worker is left."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    running = await daemons.start(queues={"mail": {"concurrency": 2}})
    for number in range(5):
        await add(connection, endpoint.url, data={"n": number})
    await endpoint.wait_for(2)
    running.program.terminate()
    await running.program.wait_until_answers(f"{running.url}/readyz", 503)
    await running.program.wait_until_answers(f"{running.url}/livez", 200)
    hold.set()
    assert 0 == await running.program.wait()
    assert [("ready", 3)] == [
        tuple(row) for row in await connection.fetch("select state, count(*) from slayq.job group by state")
    ]
    assert 2 == len(endpoint.received)
    assert not await connection.fetchval("select exists (select from slayq.worker where expires_at > now())")


async def test_after_the_grace_jobs_are_given_back_uncounted(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A delivery that outlasts the grace is cut off; its job is ready again at once, the attempt not counted."""
    endpoint.handler = lambda _: Reply(200, hold=asyncio.Event())
    running = await daemons.start(grace=0.2)
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    running.program.terminate()
    assert 0 == await running.program.wait()
    row = await connection.fetchrow("select state, attempts, lease from slayq.job")
    assert ("ready", 0, 1) == tuple(row)
    await wait_until(lambda: endpoint.received[0].abandoned)


async def test_a_second_signal_hurries(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """Two signals: the grace is over at once."""
    endpoint.handler = lambda _: Reply(200, hold=asyncio.Event())
    running = await daemons.start(grace=3600)
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    running.program.terminate()
    await running.program.wait_for_output('"draining"')
    running.program.terminate()
    assert 0 == await running.program.wait()
    assert "ready" == await connection.fetchval("select state from slayq.job")


async def test_a_signal_in_the_middle_of_the_start_ends_it(daemons: Daemons, unused_port: int) -> None:
    """SIGTERM while the database is awaited: exit 0, promptly, without a traceback."""
    program = daemons.launch(env={"SLAY_Q_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{unused_port}/none"})
    await program.wait_for_output('"database_unavailable"')
    program.terminate()
    assert 0 == await program.wait()
    assert "Traceback" not in program.stdout + program.stderr


async def test_an_unreachable_database_is_waited_for(
    start_program: StartProgram, endpoint: Endpoint, daemons: Daemons, unused_port: int, tmp_path: Path
) -> None:
    """The database is down at start: a clear line, retries, /livez up, /readyz down; it comes up and work begins."""
    with temporary_cluster(chosen_installation()) as cluster:
        url = cluster.url()
        cluster.stop()
        program = daemons.launch(
            env={"SLAY_Q_DATABASE_URL": url}, http={"port": unused_port}, worker={"lease": 3, "renew": 0.5}
        )
        await program.wait_until_answers(f"http://127.0.0.1:{unused_port}/livez", 200)
        await program.wait_until_answers(f"http://127.0.0.1:{unused_port}/readyz", 503)
        await program.wait_for_output('"database_unavailable"')
        cluster.start()
        # The cluster may have come up on another port: the daemon was told the first one.
        assert url == cluster.url()
        await program.wait_until_answers(f"http://127.0.0.1:{unused_port}/readyz", 200)
        connection = await asyncpg.connect(url)
        await add(connection, endpoint.url)
        await endpoint.wait_for(1)
        await until_no_jobs(connection)

        # And away again while it works, for longer than the worker row is trusted.
        cluster.stop("immediate")
        await program.wait_until_answers(f"http://127.0.0.1:{unused_port}/readyz", 503)
        await program.wait_for_output('"worker_lost"')
        cluster.start()
        await program.wait_until_answers(f"http://127.0.0.1:{unused_port}/readyz", 200)
        connection = await asyncpg.connect(url)
        await add(connection, endpoint.url)
        await endpoint.wait_for(2)
        await connection.close()
        program.terminate()
        assert 0 == await program.wait()
        assert "Traceback" not in program.stdout + program.stderr


async def test_a_port_in_use_is_a_clear_error(daemons: Daemons) -> None:
    """Exit 78 and one line that says which port and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        program = daemons.launch(http={"port": port})
        assert 78 == await program.wait()
    assert f"{port} is in use" in program.stderr
    assert "Traceback" not in program.stderr


async def test_two_daemons_lose_nothing_when_one_is_killed(
    daemons: Daemons, endpoint: Endpoint, connect: Connect
) -> None:
    """kill -9 of either of two daemons under load, twice: every job ends; nothing runs twice while a lease holds."""
    connection = await connect()
    options = {"worker": {"lease": 5, "renew": 0.4}, "queues": {"mail": {"concurrency": 5}}}

    async def slow(_: object) -> int:
        await asyncio.sleep(0)
        return 200

    endpoint.handler = slow
    first, second = await daemons.start(**options), await daemons.start(**options)
    lease_ends: list[float] = []

    async def kill(victim: Running) -> None:
        victim.program.kill()
        now = time.monotonic()
        remaining = await connection.fetchval(
            "select extract(epoch from expires_at - clock_timestamp())::float8 from slayq.worker where name like $1",
            f"%:{victim.program.pid}",
        )
        lease_ends.append(now + remaining)

    for number in range(600):
        await add(connection, endpoint.url, job_key=f"k{number}", data={"n": number})
        if number == 150:
            await kill(first)
            first = await daemons.start(**options)
        elif number == 400:
            await kill(second)
    await until_no_jobs(connection, 30)
    by_job: dict[int, list[Received]] = {}
    for callback in endpoint.received:
        by_job.setdefault(callback.data["n"], []).append(callback)
    assert set(range(600)) == set(by_job)
    # Delivered twice is only what a killed daemon held, and not before its lease had run out.
    for first_delivery, *again in by_job.values():
        assert len(again) <= 1
        for second_delivery in again:
            assert any(first_delivery.started < end <= second_delivery.started for end in lease_ends)
    assert 0 == await connection.fetchval("select count(*) from slayq.dead_letter")


async def test_a_frozen_daemon_writes_nothing_stale(daemons: Daemons, endpoint: Endpoint, connect: Connect) -> None:
    """SIGSTOP past the lease, then SIGCONT: another daemon has its job by then, and the first one's word is void."""
    connection = await connect()
    hold = asyncio.Event()
    endpoint.handler = lambda callback: Reply(200, hold=hold if callback.retry == 1 else None)
    options = {"worker": {"lease": 2, "renew": 0.4}}
    frozen = await daemons.start(**options)
    await add(connection, endpoint.url, job_key="k")
    await endpoint.wait_for(1)
    frozen.program.send_signal(signal.SIGSTOP)
    await daemons.start(**options)
    callbacks = await endpoint.wait_for_finished(1)
    assert [1, 2] == [callback.retry for callback in endpoint.received]
    assert 2 == callbacks[0].retry
    hold.set()
    frozen.program.send_signal(signal.SIGCONT)
    await frozen.program.wait_for_output('"worker_lost"')
    await until_no_jobs(connection)
    assert 2 == len(endpoint.received)
    await frozen.program.wait_until_answers(f"{frozen.url}/readyz", 200)


async def test_reload_takes_a_good_file_and_refuses_a_bad_one(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """SIGHUP: a new queue is served without a restart; a file with a mistake changes nothing and says so."""
    running = await daemons.start()
    path = next(daemons.folder.glob("slay-config-0.json"))
    await add(connection, endpoint.url, queue="later", data={"n": 1})
    path.write_text(json.dumps(daemons.config(queues={"mail": {"concurrency": 0}})))
    running.program.send_signal(signal.SIGHUP)
    await running.program.wait_for_output('"reload_failed"')
    assert [] == endpoint.received
    path.write_text(json.dumps(daemons.config(queues={"mail": {"concurrency": 1}, "later": {"concurrency": 1}})))
    running.program.send_signal(signal.SIGHUP)
    await running.program.wait_for_output('"reloaded"')
    await endpoint.wait_for(1)
    await add(connection, endpoint.url, data={"n": 2})
    await endpoint.wait_for(2)


async def test_four_daemons_start_at_once_on_an_empty_database(
    daemons: Daemons, empty_database_url: str, endpoint: Endpoint
) -> None:
    """G2, with whole daemons (four of them, to spare the machine): the schema is made once and all of them serve."""
    env = {"SLAY_Q_DATABASE_URL": empty_database_url}
    programs = [daemons.launch(env=env) for _ in range(4)]
    for program in programs:
        await program.wait_for_output('"event":"ready"')
    connection = await asyncpg.connect(empty_database_url)
    await wait_until(lambda: connection.fetchval("select count(*) = 4 from slayq.worker"))
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    await connection.close()


async def test_a_silent_database_does_not_hold_up_the_end(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, database_url: str
) -> None:
    """The wire to Postgres falls silent in the middle of a lease: the grace is the grace all the same."""
    async with Wire(database_url) as wire:
        running = await daemons.start(
            env={"SLAY_Q_DATABASE_URL": wire.url},
            worker={"lease": 120, "renew": 5},
            database={"listen_url": database_url},
            grace=0.1,
        )
        await wait_until(lambda: connection.fetchval("select 'mail' = any (wants) from slayq.worker"))

        async def reads(series: str) -> bool:
            return await metric(running, series) > 0

        await wait_until(partial(reads, "slayq_listener_connected"))
        wire.silence()
        await add(connection, endpoint.url)  # the word comes through, the lease does not
        await wait_until(partial(reads, 'slayq_wakeups_total{source="notify"}'))
        running.program.terminate()
        # Far less than the time limits of statements add up to.
        assert 0 == await running.program.wait(14)
        assert "Traceback" not in running.program.stdout + running.program.stderr


async def test_a_database_away_for_good_is_no_traceback(
    daemons: Daemons, endpoint: Endpoint, database_url: str, connection: asyncpg.Connection
) -> None:
    """It goes while a delivery runs and does not come back: the daemon stops with what it cannot write down."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    async with Wire(database_url) as wire:
        running = await daemons.start(env={"SLAY_Q_DATABASE_URL": wire.url}, grace=0.1)
        await add(connection, endpoint.url)
        await endpoint.wait_for(1)
        wire.silence()
        hold.set()
        await endpoint.wait_for_finished(1)
        running.program.terminate()
        assert 0 == await running.program.wait(19)
        assert "stopped_without_settling" in running.program.stdout + running.program.stderr
        assert "Traceback" not in running.program.stdout + running.program.stderr
