"""RPC over HTTP (protocol v1, section 4) to the real daemon: the six tasks, what they wake, and rotated secrets."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from slayq.protocol import Task
from tests.support.daemon import Daemons, Running, add, metric, until_no_jobs
from tests.support.endpoint import SECRET, Endpoint, Received, Reply
from tests.support.rpc import HEADER, Said, call, post, sign
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.conftest import Connect

SLOW_HEART = {"lease": 120, "renew": 5}
"""So that nothing in these tests is owed to a heartbeat."""


def job(endpoint: Endpoint, key: str = "k", *, queue: str = "mail", data: Any = None, **more: Any) -> dict[str, Any]:
    """The body that adds a job; `cache` goes into the payload."""
    payload = {"url": endpoint.url, "retry": 0, "event": "test/event", "data": {} if data is None else data}
    if "cache" in more:
        payload["cache"] = more.pop("cache")
    return {"identifier": queue, "job_key": key, "payload": payload, **more}


def in_an_hour() -> str:
    """As JavaScript prints it."""
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def carried_out(base: str, task: Task, body: Any) -> None:
    said = await call(base, task, body)
    assert said.ok, said


async def listen(connect: Connect) -> list[str]:
    """Every word from now on."""
    words: list[str] = []
    listener = await connect()
    await listener.add_listener("slayq", lambda *heard: words.append(str(heard[3])))
    return words


async def heard_all(connection: asyncpg.Connection, words: list[str]) -> list[str]:
    """What was heard up to now, without the mark that makes sure of it."""
    await connection.execute("select pg_notify('slayq', 'mark')")
    await wait_until(lambda: "mark" in words)
    words.remove("mark")
    return list(words)


async def until_wanted(connection: asyncpg.Connection, word: str = "mail") -> None:
    """Until all daemons are idle, and want to be told."""

    async def wanted() -> bool:
        return bool(
            await connection.fetchval(
                "select bool_and($1 = any (wants)) from slayq.worker where queues @> '{mail}'", word
            )
        )

    await wait_until(wanted)


# The tasks


async def test_add_worker_job(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """A job is added as the SQL function would, its payload to the character, and delivered."""
    running = await daemons.start()
    data = '{"b" : 1.0, "a":12345678901234567890, "2":"\\u00e9\\/", "1":-0, "b":1e5}'
    payload = f'{{ "url":"{endpoint.url}" ,"event":"shop/order","data":{data}}}'
    body = f'{{"identifier":"nobody","job_key":"k","payload":{payload}}}'.encode()
    await carried_out(running.url, Task.ADD_WORKER_JOB, body)
    assert payload == await connection.fetchval("select payload from slayq.job")
    await carried_out(running.url, Task.ADD_WORKER_JOB, body.replace(b"nobody", b"mail"))
    (callback,) = await endpoint.wait_for(1)
    assert callback.signature_valid
    assert callback.raw.endswith(
        ',"event":"shop/order","data":{"1":0,"2":"é/","b":100000,"a":12345678901234567000}}'.encode()
    )
    await until_no_jobs(connection)
    assert 2.0 == await metric(running, 'slayq_rpc_requests_total{code="200",task="add-worker-job"}')


async def test_add_worker_job_with_all_fields(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Each field of the body is the SQL function's argument of the same name."""
    running = await daemons.start()
    first = job(
        endpoint,
        queue_name="lane",
        run_at="2050-01-02T03:04:05.678Z",
        max_attempts=7,
        priority=-5,
        flags=["big", "gpu"],
        job_key_mode="replace",
    )
    await carried_out(running.url, Task.ADD_WORKER_JOB, first)
    fields = "queue, serial_queue, run_at, max_attempts, priority, flags, job_key, revision"
    run_at = datetime(2050, 1, 2, 3, 4, 5, 678_000, UTC)
    row = await connection.fetchrow(f"select {fields} from slayq.job")
    assert ("mail", "lane", run_at, 7, -5, ["big", "gpu"], "k", 0) == tuple(row)
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, job_key_mode="unsafe_dedupe", priority=3))
    row = await connection.fetchrow(f"select {fields} from slayq.job")
    assert ("mail", "lane", run_at, 7, -5, ["big", "gpu"], "k", 1) == tuple(row)
    nulls = dict.fromkeys(["queue_name", "run_at", "max_attempts", "priority", "flags", "job_key_mode"])
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, "plain", queue="nobody", **nulls))
    row = await connection.fetchrow(f"select {fields} from slayq.job where job_key = 'plain'")
    assert (None, 25, 0, None) == (row["serial_queue"], row["max_attempts"], row["priority"], row["flags"])


async def test_wait_for_worker_event_and_trigger_waiting_workers(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """waitForEvent, from inside the callback as the stock client does it: the event wakes the job, without a NOTIFY."""
    running = await daemons.start(worker=SLOW_HEART)
    step = "wait, {for}.\"it\" 'now' é"

    async def handler(callback: Received) -> int:
        if "cache" not in callback.body:
            again = job(endpoint, callback.job_key, data=callback.data, cache={step: False}, run_at=in_an_hour())
            await carried_out(running.url, Task.ADD_WORKER_JOB, again)
            wait = {
                "jobKey": callback.job_key,
                "event": "paid",
                "matchKey": "order",
                "matchValue": 5,
                "stepName": step,
                "expiresAt": in_an_hour(),
            }
            await carried_out(running.url, Task.WAIT_FOR_WORKER_EVENT, wait)
        return 200

    endpoint.handler = handler
    await until_wanted(connection)
    words = await listen(connect)
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, data={"order": 5}))
    await endpoint.wait_for_finished(1)
    for value in ("50", 6, None):  # others' orders
        await carried_out(
            running.url, Task.TRIGGER_WAITING_WORKERS, {"event": "paid", "match": "order", "matchVal": value}
        )
    await carried_out(running.url, Task.TRIGGER_WAITING_WORKERS, {"event": "paid", "match": "order", "matchVal": "5"})
    _, second = await endpoint.wait_for(2)
    assert (1, {step: True}) == (second.retry, second.body["cache"])
    await until_no_jobs(connection)
    assert [] == await heard_all(connection, words)


@pytest.mark.parametrize(
    ("result", "given"),
    [
        ('"result":{"b":[1.50,null],"a":"\\u00e9"}', '{"b":[1.50,null],"a":"\\u00e9"}'),
        ('"result":null', "null"),
        ("", "null"),
    ],
    ids=["a result", "null", "none"],
)
async def test_wait_for_invocation_and_trigger_waiting_invoker(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, result: str, given: str
) -> None:
    """invoke: the callee's end hands its result to the invoker, null where it returns nothing."""
    running = await daemons.start(worker=SLOW_HEART)

    async def handler(callback: Received) -> int:
        if callback.job_key == "callee":
            body = '{"jobKey":"callee"' + (f",{result}" if result else "") + "}"
            await carried_out(running.url, Task.TRIGGER_WAITING_INVOKER, body.encode())
        elif "cache" not in callback.body:
            again = job(endpoint, callback.job_key, cache={"call": False}, run_at=in_an_hour())
            await carried_out(running.url, Task.ADD_WORKER_JOB, again)
            wait = {"invokerJobKey": callback.job_key, "targetJobKey": "callee", "stepName": "call"}
            await carried_out(running.url, Task.WAIT_FOR_INVOCATION, wait)
            await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, "callee"))
        return 200

    endpoint.handler = handler
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, "invoker"))
    callbacks = await endpoint.wait_for(3)
    assert ["invoker", "callee", "invoker"] == [callback.job_key for callback in callbacks]
    assert {"call": json.loads(given)} == callbacks[2].body["cache"]
    await until_no_jobs(connection)
    assert given == await connection.fetchval("select result from slayq.trigger where kind = 'invocation'")


async def test_cancel_pending_tasks(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """Pending jobs of the event with that value go, others stay; a value is compared as JavaScript prints it."""
    running = await daemons.start()
    for key, order in [("a", 5), ("b", "5"), ("c", 6), ("d", True)]:
        await carried_out(
            running.url, Task.ADD_WORKER_JOB, job(endpoint, key, data={"order": order}, run_at=in_an_hour())
        )
    for value in (5, True, None):
        body = {"event": "test/event", "matchKey": "order", "matchVal": value}
        await carried_out(running.url, Task.CANCEL_PENDING_TASKS, body)
    assert ["c"] == [row["job_key"] for row in await connection.fetch("select job_key from slayq.job")]


UNKNOWN_KEY = [
    (
        Task.WAIT_FOR_WORKER_EVENT,
        {
            "jobKey": "gone",
            "event": "e",
            "matchKey": "k",
            "matchValue": "v",
            "stepName": "s",
            "expiresAt": in_an_hour(),
        },
    ),
    (Task.WAIT_FOR_INVOCATION, {"invokerJobKey": "gone", "targetJobKey": "gone too", "stepName": "s"}),
    (Task.TRIGGER_WAITING_INVOKER, {"jobKey": "gone", "result": 1}),
]


async def test_a_job_key_that_does_not_exist(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Nothing waits and nothing is woken: no error, and no work is lost by it."""
    running = await daemons.start()
    for task, body in UNKNOWN_KEY:
        await carried_out(running.url, task, body)
    assert 0 == await connection.fetchval("select count(*) from slayq.wait")
    assert [] == endpoint.received


async def test_a_time_in_the_past_is_due_at_once(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Whatever time that was, as text or in milliseconds."""
    running = await daemons.start()
    for number, run_at in enumerate(["1970-01-01T00:00:00.000Z", "-000001-01-01T00:00:00.000Z", 0, -1e15]):
        await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, f"k{number}", run_at=run_at))
    await endpoint.wait_for(4)
    await until_no_jobs(connection)


async def test_the_year_9999_waits(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """The last moment that there is; the moment after it is refused."""
    running = await daemons.start()
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, run_at="9999-12-31T23:59:59.999Z"))
    assert ("scheduled", 9999) == tuple(
        await connection.fetchrow("select state, extract(year from run_at at time zone 'utc')::int from slayq.job")
    )
    said = await call(running.url, Task.ADD_WORKER_JOB, job(endpoint, run_at="+010000-01-01T00:00:00.000Z"))
    assert (400, "run_at: must be a time before the year 10000") == (said.status, said.error)


async def test_two_megabytes(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """A body of 2 MB is taken, and delivered as it is."""
    running = await daemons.start()
    text = "é" * 10**6
    body = json.dumps(job(endpoint, data={"text": text}), ensure_ascii=False).encode()
    assert len(body) > 2 * 10**6
    await carried_out(running.url, Task.ADD_WORKER_JOB, body)
    (callback,) = await endpoint.wait_for(1)
    assert {"text": text} == callback.data
    await until_no_jobs(connection)


async def test_a_failed_step_is_a_failed_attempt(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """The own key again, with a cache and without a time: over HTTP, too, attempts go on and end as a dead letter."""
    running = await daemons.start()

    async def handler(callback: Received) -> int:
        again = job(endpoint, callback.job_key, cache={"done": callback.retry}, max_attempts=3)
        await carried_out(running.url, Task.ADD_WORKER_JOB, again)
        return 200

    endpoint.handler = handler
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, max_attempts=3))
    callbacks = await endpoint.wait_for_finished(3)
    await until_no_jobs(connection)
    assert [1, 2, 3] == [callback.retry for callback in callbacks]
    letter = await connection.fetchrow(
        "select reason, attempts, payload -> 'cache' ->> 'done' as done from slayq.dead_letter"
    )
    assert ("attempts-exhausted", 3, "3") == tuple(letter)


# What it wakes


async def test_an_added_job_wakes_the_daemon_without_notify(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """Idle, and wanting to be told: the daemon that was asked starts the job, and nobody who listens hears a word."""
    running = await daemons.start(worker=SLOW_HEART)
    await until_wanted(connection)
    words = await listen(connect)
    for number in range(20):
        await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, f"k{number}"))
        await endpoint.wait_for(number + 1)
    await asyncio.gather(*(carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, f"m{n}")) for n in range(5)))
    await endpoint.wait_for(25)
    await until_no_jobs(connection)
    assert [] == await heard_all(connection, words)
    assert 25.0 == await metric(running, 'slayq_wakeups_total{source="rpc"}')
    await add(connection, endpoint.url)
    await endpoint.wait_for(26)
    assert ["mail"] == await heard_all(connection, words)


async def test_a_job_due_soon_moves_the_timer_without_notify(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """A job due before the next heartbeat, and one of a serial queue: both go by way of the timer."""
    running = await daemons.start(worker=SLOW_HEART)
    await until_wanted(connection)
    words = await listen(connect)
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, "soon", run_at=soon))
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, "serial", queue_name="lane"))
    await endpoint.wait_for(2)
    assert "@timer" not in await heard_all(connection, words)


async def test_a_cancelled_head_lets_its_serial_queue_go_on_without_notify(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """The head of a serial queue is cancelled: whoever picks heads hears of it here, and the next job runs."""
    hold = asyncio.Event()
    endpoint.handler = lambda callback: Reply(200, hold=hold if callback.job_key == "busy" else None)
    running = await daemons.start(worker=SLOW_HEART, queues={"mail": {"concurrency": 1}})
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint, "busy"))
    await endpoint.wait_for(1)
    for key in ("head", "next"):
        body = job(endpoint, key, queue_name="lane", data={"key": key})
        await carried_out(running.url, Task.ADD_WORKER_JOB, body)

    async def waiting() -> bool:
        rows = await connection.fetch("select state from slayq.job where serial_queue = 'lane' order by id")
        return ["ready", "blocked"] == [row["state"] for row in rows]

    await wait_until(waiting)
    words = await listen(connect)
    await carried_out(
        running.url, Task.CANCEL_PENDING_TASKS, {"event": "test/event", "matchKey": "key", "matchVal": "head"}
    )

    async def advanced() -> bool:
        return "ready" == await connection.fetchval("select state from slayq.job where job_key = 'next'")

    await wait_until(advanced)
    assert "@lanes" not in await heard_all(connection, words)
    hold.set()
    await endpoint.wait_for(2)
    assert ["busy", "next"] == [callback.job_key for callback in endpoint.received]


async def test_a_queue_of_another_daemon_is_notified(
    daemons: Daemons, endpoint: Endpoint, connect: Connect, connection: asyncpg.Connection
) -> None:
    """The daemon that is asked does not serve the queue: the one that does is told by NOTIFY."""
    asked = await daemons.start(worker=SLOW_HEART, queues={"other": {"concurrency": 1}})
    await daemons.start(worker=SLOW_HEART)
    await until_wanted(connection)
    words = await listen(connect)
    await carried_out(asked.url, Task.ADD_WORKER_JOB, job(endpoint))
    await endpoint.wait_for(1)
    assert ["mail"] == await heard_all(connection, words)
    assert 0.0 == await metric(asked, 'slayq_wakeups_total{source="rpc"}')


async def test_a_daemon_without_a_free_slot_has_others_notified(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """All slots of the daemon that is asked are taken: an idle one gets the job at once."""
    hold = asyncio.Event()
    endpoint.handler = lambda callback: Reply(200, hold=hold if callback.job_key == "busy" else None)
    queues = {"mail": {"concurrency": 1}}
    full = await daemons.start(worker=SLOW_HEART, queues=queues)
    await carried_out(full.url, Task.ADD_WORKER_JOB, job(endpoint, "busy"))
    await endpoint.wait_for(1)
    idle = await daemons.start(worker=SLOW_HEART, queues=queues)

    async def wanted() -> bool:
        hears = 1.0 == await metric(idle, "slayq_listener_connected")
        newest = "select 'mail' = any (wants) from slayq.worker order by id desc limit 1"
        return hears and bool(await connection.fetchval(newest))

    await wait_until(wanted)
    await carried_out(full.url, Task.ADD_WORKER_JOB, job(endpoint, "second"))
    await endpoint.wait_for(2)

    async def told() -> bool:
        return 1.0 == await metric(idle, 'slayq_wakeups_total{source="notify"}')

    await wait_until(told)
    hold.set()
    await until_no_jobs(connection)


async def test_a_daemon_that_drains_still_answers(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Its last deliveries add their continuations through it; another daemon goes on with them."""
    hold = asyncio.Event()
    running = await daemons.start(worker=SLOW_HEART)

    async def handler(callback: Received) -> int:
        if "cache" not in callback.body:
            await hold.wait()
            again = job(endpoint, callback.job_key, cache={"a": 1}, run_at=datetime.now(UTC).isoformat())
            await carried_out(running.url, Task.ADD_WORKER_JOB, again)
        return 200

    endpoint.handler = handler
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint))
    await endpoint.wait_for(1)
    running.program.terminate()
    await running.program.wait_for_output('"draining"')
    hold.set()
    assert 0 == await running.program.wait(15)
    assert 1 == len(endpoint.finished)
    await daemons.start()
    _, second = await endpoint.wait_for(2)
    assert {"a": 1} == second.body["cache"]


# The database


async def test_while_the_database_is_away(daemons: Daemons, endpoint: Endpoint, unused_port: int) -> None:
    """503, and when to try again; what is wrong with a request is told all the same."""
    program = daemons.launch(
        env={"SLAY_Q_DATABASE_URL": "postgresql://nobody:s3cret@127.0.0.1:1/none"}, http={"port": unused_port}
    )
    base = f"http://127.0.0.1:{unused_port}"
    await program.wait_until_answers(f"{base}/livez")
    said = await call(base, Task.ADD_WORKER_JOB, job(endpoint))
    assert (503, "5") == (said.status, said.headers["Retry-After"])
    assert said.error.startswith("Postgres cannot be reached")
    assert "s3cret" not in said.error
    assert 400 == (await call(base, Task.ADD_WORKER_JOB, {})).status
    assert 401 == (await call(base, Task.ADD_WORKER_JOB, {}, secret="wrong")).status


async def test_behind_a_transaction_pooler(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """poll_only: the settings of a call stay in its transaction, and the job starts before the next poll."""
    running = await daemons.start(database={"poll_only": True, "poll_interval": 60}, worker=SLOW_HEART)
    await carried_out(running.url, Task.ADD_WORKER_JOB, job(endpoint))
    await endpoint.wait_for(1)
    await until_no_jobs(connection)


# Secrets


async def accepted(base: str, secret: str) -> bool:
    said = await call(base, Task.TRIGGER_WAITING_INVOKER, {"jobKey": "nobody"}, secret=secret)
    assert said.status in (200, 401)
    return said.ok


async def signed_with(running: Running, endpoint: Endpoint, connection: asyncpg.Connection, secret: str) -> bool:
    """Whether the next callback is signed with this secret."""
    count = len(endpoint.received) + 1
    await add(connection, endpoint.url)
    callback = (await endpoint.wait_for(count))[-1]
    return sign(callback.raw, secret) == callback.headers[HEADER]


async def reload(running: Running, event: str = "reloaded") -> None:
    def times() -> int:
        return sum(line["event"] == event for line in running.program.events)

    before = times()
    running.program.send_signal(signal.SIGHUP)
    await wait_until(lambda: times() > before)


async def test_secrets_are_rotated_by_their_file(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """SIGHUP reads the file of secrets again: any of them is accepted, the newest signs; a bad file changes nothing."""
    path = tmp_path / "secrets"
    path.write_text("the old secret\n")
    running = await daemons.start(env={"SLAY_Q_SECRET": "", "SLAY_Q_SECRET_FILE": str(path)})
    assert [True, False] == [await accepted(running.url, s) for s in ("the old secret", "the new secret")]
    assert await signed_with(running, endpoint, connection, "the old secret")

    path.write_text("the new secret\nthe old secret\n")
    assert not await accepted(running.url, "the new secret")  # until it is told
    await reload(running)
    assert [True, True] == [await accepted(running.url, s) for s in ("the old secret", "the new secret")]
    assert await signed_with(running, endpoint, connection, "the new secret")

    path.write_text("")
    await reload(running, "reload_failed")
    assert await accepted(running.url, "the old secret")
    assert await signed_with(running, endpoint, connection, "the new secret")

    path.write_text("the new secret\n")
    await reload(running)
    assert [False, True] == [await accepted(running.url, s) for s in ("the old secret", "the new secret")]
    assert "the old secret" not in running.program.stdout + running.program.stderr
    assert "the new secret" not in running.program.stdout + running.program.stderr


async def test_secrets_are_rotated_by_env_file(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """SIGHUP reads .env again, too; what the process's environment sets counts more, and cannot change."""
    folder = daemons.folder / "program-1"
    folder.mkdir()
    (folder / ".env").write_text("SLAY_Q_SECRET='the old secret'\n")
    running = await daemons.start(env={"SLAY_Q_SECRET": ""})
    assert await accepted(running.url, "the old secret")
    (folder / ".env").write_text("""SLAY_Q_SECRET='["the new secret", "the old secret"]'\n""")
    await reload(running)
    assert [True, True] == [await accepted(running.url, s) for s in ("the old secret", "the new secret")]
    assert await signed_with(running, endpoint, connection, "the new secret")


async def test_several_secrets_in_one_variable(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A JSON array, newest first: the newest signs, any is accepted, no other."""
    running = await daemons.start(env={"SLAY_Q_SECRET": json.dumps(["newest", "older", "oldest"])})
    accepts = [await accepted(running.url, secret) for secret in ("newest", "older", "oldest", "other", SECRET)]
    assert [True, True, True, False, False] == accepts
    assert await signed_with(running, endpoint, connection, "newest")


# What it says


async def test_what_is_refused_is_counted_and_logged_without_a_word_of_it(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Metrics tell tasks, statuses and why a signature was refused; the log has no payload, key, value or signature."""
    running = await daemons.start()
    marked = job(endpoint, "s3cret-key", data={"s3cret-name": "s3cret-value"}, queue_name="s3cret-lane")
    answers: list[Said] = [
        await call(running.url, Task.ADD_WORKER_JOB, marked),
        await call(running.url, Task.ADD_WORKER_JOB, {**marked, "run_at": "s3cret-time"}),
        await call(running.url, Task.ADD_WORKER_JOB, {**marked, "job_key_mode": "s3cret-mode"}),
        await call(running.url, Task.ADD_WORKER_JOB, b'{"identifier":"s3cret'),
        await call(running.url, Task.ADD_WORKER_JOB, marked, secret="s3cret-secret"),
        await post(running.url, Task.ADD_WORKER_JOB, b"s3cret-body"),
    ]
    assert [200, 400, 400, 400, 401, 401] == [said.status for said in answers]
    await endpoint.wait_for(1)
    series = 'slayq_rpc_requests_total{code="%s",task="add-worker-job"}'
    assert [1.0, 3.0, 2.0] == [await metric(running, series % code) for code in (200, 400, 401)]
    series = 'slayq_auth_failures_total{reason="%s",surface="rpc"}'
    assert [1.0, 1.0] == [await metric(running, series % reason) for reason in ("missing", "invalid")]
    printed = running.program.stdout + running.program.stderr
    assert "s3cret" not in printed.replace("s3cret-key", "")  # deliveries are logged with their keys
    events = [line["event"] for line in running.program.events if line["event"].startswith("rpc_")]
    assert ["rpc_refused"] * 3 + ["rpc_unauthorized"] * 2 == events
