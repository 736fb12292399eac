"""The real daemon on a real Postgres, delivering to a real endpoint."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from tests.support.daemon import FAST_BACKOFF, Daemons, add, metric, until_no_jobs
from tests.support.endpoint import Endpoint, Received, Reply
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect


async def test_a_job_is_delivered_signed_and_gone(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """J1, J2: a due job is posted once, signed, with attempts counted, and leaves the hot table."""
    await daemons.start()
    await add(connection, endpoint.url, job_key="k1", data={"n": 1})
    (callback,) = await endpoint.wait_for(1)
    await until_no_jobs(connection)
    assert callback.signature_valid
    expected = {"job_key": "k1", "retry": 1, "event": "test/event", "data": {"n": 1}}
    assert expected == {name: value for name, value in callback.body.items() if name != "time"}
    assert ["job_key", "retry", "time", "event", "data"] == list(callback.body)
    assert 1 == len(endpoint.received)


async def test_jobs_that_waited_before_the_start_are_delivered(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A backlog is drained, each job exactly once, never more at a time than the queue allows."""
    for number in range(60):
        await add(connection, endpoint.url, data={"n": number})
    await daemons.start(queues={"mail": {"concurrency": 4}})
    callbacks = await endpoint.wait_for_finished(60)
    await until_no_jobs(connection)
    assert sorted(range(60)) == sorted(callback.data["n"] for callback in callbacks)
    assert endpoint.most_at_once <= 4


async def test_one_slot_delivers_in_order_of_priority(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """J11: priority ascending, negative ones first, then run_at, then id."""
    priorities = [5, 0, -3, 0, 10, -3]
    for number, priority in enumerate(priorities):
        await add(connection, endpoint.url, priority=priority, data={"n": number})
    await daemons.start(queues={"mail": {"concurrency": 1}})
    callbacks = await endpoint.wait_for(len(priorities))
    assert [2, 5, 1, 3, 0, 4] == [callback.data["n"] for callback in callbacks]


async def test_a_failing_job_is_retried_and_then_a_dead_letter(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """J3, J5: each failure counts on; after max_attempts the job is kept as a dead letter with its last error."""
    endpoint.handler = lambda _: 500
    await daemons.start()
    await add(connection, endpoint.url, max_attempts=3, job_key="k")
    callbacks = await endpoint.wait_for(3)
    await until_no_jobs(connection)
    assert [1, 2, 3] == [callback.retry for callback in callbacks]
    letter = await connection.fetchrow("select * from slayq.dead_letter")
    assert ("attempts-exhausted", 3, "k") == (letter["reason"], letter["attempts"], letter["job_key"])
    assert "500" in letter["last_error"]


async def test_a_future_job_runs_when_due(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """J4, J6: not before its time, and by a timer: far sooner than the next heartbeat would find it."""
    await daemons.start(worker={"lease": 120, "renew": 5})
    await asyncio.to_thread(lambda: None)
    due = await connection.fetchval("select clock_timestamp() + interval '600 milliseconds'")
    await add(connection, endpoint.url, run_at=due)
    await endpoint.wait_for(1)
    late = await connection.fetchval("select extract(epoch from clock_timestamp() - $1::timestamptz)", due)
    assert late >= 0


async def test_a_retry_asked_for_later_waits(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """429 with Retry-After: the next attempt is not before that time."""
    endpoint.handler = lambda _: Reply(429, headers={"Retry-After": "3600"})
    await daemons.start()
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)

    async def scheduled() -> float | None:
        return await connection.fetchval(
            "select extract(epoch from run_at - now())::float8 from slayq.job where state = 'scheduled'"
        )

    assert 3500 < await wait_until(scheduled) <= 3600


async def test_no_retry_and_not_found_are_dead_letters_at_once(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """666 and 404 are tried once and kept with their reasons."""
    endpoint.handler = lambda callback: callback.data["answer"]
    await daemons.start()
    for answer in (666, 404, 410):
        await add(connection, endpoint.url, data={"answer": answer})
    await endpoint.wait_for(3)
    await until_no_jobs(connection)
    rows = await connection.fetch("select payload ->> 'data' as data, reason from slayq.dead_letter order by id")
    expected = [('{"answer": 666}', "no-retry"), ('{"answer": 404}', "not-found"), ('{"answer": 410}', "not-found")]
    assert expected == [(row["data"], row["reason"]) for row in rows]


async def test_serial_queues_run_one_at_a_time_and_side_by_side(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """J8, J10, N7, N8: jobs of one serial queue one after the other in order; different ones at the same time."""
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    async def handler(callback: Received) -> int:
        lane = callback.data["lane"]
        running[lane] = running.get(lane, 0) + 1
        most[lane] = max(most.get(lane, 0), running[lane])
        await asyncio.sleep(0)
        running[lane] -= 1
        return 200

    endpoint.handler = handler
    await daemons.start()
    lanes = ["a", "b", "c", "d", "e"]
    for number, lane in itertools.product(range(6), lanes):
        await add(connection, endpoint.url, queue_name=lane, data={"lane": lane, "n": number})
    callbacks = await endpoint.wait_for_finished(30)
    assert dict.fromkeys(lanes, 1) == most
    for lane in lanes:
        assert [0, 1, 2, 3, 4, 5] == [c.data["n"] for c in callbacks if c.data["lane"] == lane]


async def test_five_serial_queues_run_in_parallel(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """J8: one job of each of five serial queues, all in flight at once."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    await daemons.start()
    for lane in "abcde":
        await add(connection, endpoint.url, queue_name=lane)
    await endpoint.wait_for(5)
    assert 5 == endpoint.running
    hold.set()
    await until_no_jobs(connection)


async def test_aliases_share_the_concurrency(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """An alias is a further name of the same pool: the limit counts for all names together."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    await daemons.start(queues={"messaging": {"concurrency": 3, "alias": ["dispatch", "ready"]}})
    for number in range(9):
        await add(connection, endpoint.url, queue=["messaging", "dispatch", "ready"][number % 3])
    await endpoint.wait_for(3)
    leased = await connection.fetchval("select count(*) from slayq.job where state = 'leased'")
    assert 3 == leased
    hold.set()
    await endpoint.wait_for_finished(9)
    assert 3 == endpoint.most_at_once


async def test_a_queue_nobody_serves_waits_and_is_seen(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Limbo: never lost, never run elsewhere, visible in the metrics, the log and the health detail."""
    await add(connection, endpoint.url, queue="nobody")
    running = await daemons.start()
    await running.program.wait_for_output('"jobs_unserved"')

    assert 1.0 == await metric(running, "slayq_jobs_unserved")
    assert "ready" == await connection.fetchval("select state from slayq.job")
    assert [] == endpoint.received


async def test_a_paused_queue_waits_until_it_is_resumed(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Pause is honoured by the very next lease; resuming lets the jobs run."""
    await daemons.start(worker={"lease": 1.5, "renew": 0.2})
    await connection.execute("update slayq.queue set paused = true where name = 'mail'")
    await add(connection, endpoint.url, data={"n": 1})
    worker = "select max(renewed_at) from slayq.worker"
    before = await connection.fetchval(worker)

    async def renewed_twice() -> bool:
        return (await connection.fetchval(worker) - before).total_seconds() > 0.4

    await wait_until(renewed_twice)
    assert [] == endpoint.received
    await connection.execute("update slayq.queue set paused = false where name = 'mail'")
    await endpoint.wait_for(1)


async def test_forbidden_flags_are_left_alone(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """F1 to F3: a server with forbidden flags leaves such jobs alone and runs the rest."""
    await daemons.start(forbidden_flags=["gpu"])
    await add(connection, endpoint.url, flags=["gpu", "big"], data={"n": 1})
    await add(connection, endpoint.url, flags=["big"], data={"n": 2})
    await add(connection, endpoint.url, data={"n": 3})
    callbacks = await endpoint.wait_for(2)
    assert [2, 3] == sorted(callback.data["n"] for callback in callbacks)
    await daemons.start()
    callbacks = await endpoint.wait_for(3)
    assert 1 == callbacks[2].data["n"]


async def test_a_batch_job_is_retried_with_the_elements_that_failed(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """An array payload whose callback answers with failed indexes goes on with just those."""
    endpoint.handler = lambda c: Reply(200, '{"failed": [1, 2]}' if c.retry == 1 else "{}")
    await daemons.start()
    url = endpoint.url
    await connection.execute(
        "select slayq.add_job('mail', (select json_agg(json_build_object('url', $1::text, 'event', 'b', 'data', i))"
        " from generate_series(0, 3) i))",
        url,
    )
    first, second = await endpoint.wait_for(2)
    await until_no_jobs(connection)
    assert ([0, 1, 2, 3], [1, 2]) == (first.data, second.data)


async def test_a_key_added_again_while_it_is_delivered_runs_again(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """K3: the delivery in flight loses the key; both run, in order, and the first one's failure is not retried."""
    hold = asyncio.Event()
    endpoint.handler = lambda c: Reply(500, hold=hold) if c.data["n"] == 1 else 200
    await daemons.start()
    await add(connection, endpoint.url, job_key="k", data={"n": 1})
    await endpoint.wait_for(1)
    await add(connection, endpoint.url, job_key="k", data={"n": 2})
    await endpoint.wait_for(2)
    hold.set()
    await until_no_jobs(connection)
    assert [1, 2] == [callback.data["n"] for callback in endpoint.received]
    assert 0 == await connection.fetchval("select count(*) from slayq.dead_letter")


async def test_a_cluster_limit_counts_for_all_daemons(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """scope cluster: two daemons together never deliver more than the limit, and use all of it."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    queues = {"mail": {"concurrency": 3, "scope": "cluster"}}
    await daemons.start(queues=queues)
    await daemons.start(queues=queues)
    for number in range(12):
        await add(connection, endpoint.url, data={"n": number})
    await endpoint.wait_for(3)
    leased = await connection.fetchval("select count(*) from slayq.job where state = 'leased'")
    assert 3 == leased
    hold.set()
    callbacks = await endpoint.wait_for_finished(12)
    assert 3 >= endpoint.most_at_once
    assert list(range(12)) == sorted(callback.data["n"] for callback in callbacks)


async def test_history_is_kept_where_asked_for(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """retention.done: completed jobs are kept as history; without it nothing is."""
    await daemons.start(retention={"done": "1 day"})
    job_id = await add(connection, endpoint.url, job_key="k")
    await endpoint.wait_for(1)
    await until_no_jobs(connection)
    assert [(job_id, "k")] == [tuple(row) for row in await connection.fetch("select id, job_key from slayq.done_job")]


async def test_poll_only_needs_no_notifications(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """poll_only: no LISTEN, no wish for words; jobs are found by polling."""
    running = await daemons.start(database={"poll_only": True, "poll_interval": 0.1})
    await add(connection, endpoint.url)
    await add(connection, endpoint.url, queue_name="lane")
    await endpoint.wait_for(2)
    assert [] == await connection.fetchval("select wants from slayq.worker")
    listening = await connection.fetchval(
        "select count(*) from pg_stat_activity where application_name like 'slayq-server listener'"
        " and datname = current_database()"
    )
    assert 0 == listening
    assert running.program.code is None


async def test_a_lost_listener_comes_back(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """The listening connection is killed: it is made again, and words wake the daemon as before."""
    await daemons.start(worker={"lease": 120, "renew": 5})
    listeners = (
        "select {} from pg_stat_activity where application_name = 'slayq-server listener'"
        " and datname = current_database()"
    )

    async def listener() -> int | None:
        return await connection.fetchval(listeners.format("pid"))

    first = await wait_until(listener)
    await connection.execute("select pg_terminate_backend($1)", first)

    async def another() -> bool:
        return (await listener()) not in (None, first)

    await wait_until(another)
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)


async def test_every_connection_may_be_killed(daemons: Daemons, endpoint: Endpoint, connect: Connect) -> None:
    """All of the daemon's connections are terminated over and over while it works: nothing is lost, and it goes on."""
    connection = await connect()
    killer = await connect()
    await daemons.start()
    for number in range(200):
        await add(connection, endpoint.url, data={"n": number})
        if number % 20 == 0:
            await killer.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'slayq-server%' and datname = current_database()"
            )
    await until_no_jobs(connection, 30)
    assert set(range(200)) == {callback.data["n"] for callback in endpoint.received}
    assert FAST_BACKOFF["base"] > 0
