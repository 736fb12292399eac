"""Taking over (protocol v1, section 6; G3): what comes along, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from slayq_server.db import takeover
from slayq_server.db.migrate import Order, carry_out, ensure, load, migrate
from slayq_server.db.takeover import TakenOver
from tests.integration.takeover.original import letters, our_jobs, snapshot
from tests.support.daemon import FAST_BACKOFF, until_no_jobs
from tests.support.wait import WAITS, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.conftest import Connect
    from tests.integration.takeover.original import Original
    from tests.support.cli import Cli
    from tests.support.daemon import Daemons
    from tests.support.endpoint import Endpoint

LATER = datetime(2100, 1, 2, 3, 4, 5, 678901, UTC)


async def take_over(url: str, **order: Any) -> TakenOver:
    """Runs a migration that must find something to take over."""
    done = await carry_out(url, Order(**order))
    assert done.taken_over is not None
    return done.taken_over


async def one(connection: asyncpg.Connection, query: str, *arguments: Any) -> dict[str, Any]:
    """The only row there is."""
    (row,) = await connection.fetch(query, *arguments)
    return dict(row)


async def test_every_pending_job_comes_along_as_it_was(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """Key, time, priority, attempts, limit, serial queue, flags, error, revision, creation; and payload to the byte."""
    await old.add()
    await old.add("messaging", run_at=LATER, priority=-5, max_attempts=3, flags=["b", "a"], queue_name="lane")
    for number in range(3):
        await old.add(job_key="again", data={"n": number})
    await old.add(
        payload='{ "event":"é\\u00e9", "url":"http://127.0.0.1:9/", "data":{"a":1.0, "a":1e999}, "cache":{"s":[]} }'
    )
    await old.add(payload=[{"url": "http://127.0.0.1:9/", "event": "batch", "data": n} for n in range(2)])
    retrying = await old.add(max_attempts=4, job_key="retrying")
    await old.set(retrying, attempts=2, last_error="503 from the app", run_at=LATER)
    await old.add(event="cron", data={"x": "\u2028"})
    before = await old.jobs()

    taken = await take_over(database_url)
    assert taken == TakenOver(due=5, later=2, retrying=1)
    after = await our_jobs(connection)
    assert [{**row, "id": None} for row in after] == [{**row, "id": None} for row in before]
    assert {row["revision"] for row in after} == {0, 2}
    states = dict(await connection.fetch("select state, count(*) from slayq.job group by state"))
    assert states == {"ready": 5, "scheduled": 2}
    assert await letters(connection) == []


async def test_what_is_looked_up_is_filled_in(old: Original, connection: asyncpg.Connection, database_url: str) -> None:
    """Event and match terms are those that adding the job here would have made; so cancelling finds it."""
    await old.add(event="shop/order", data={"id": 5, "note": "x", "deep": {}}, run_at=LATER, job_key="k")
    await take_over(database_url)
    taken = await one(connection, "select event, match_terms from slayq.job")
    await connection.execute("select slayq.add_job('mail', payload, run_at => run_at) from slayq.job")
    added = await one(connection, "select event, match_terms from slayq.job where job_key is null")
    assert taken == added
    assert len(taken["match_terms"]) == 2
    await connection.execute("select cancel_pending_tasks('shop/order', 'id', '5')")
    assert await our_jobs(connection) == []


async def test_a_due_job_of_a_serial_queue_waits_for_its_turn(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """Whatever its time, it goes through the promoter, which alone picks heads."""
    for _ in range(3):
        await old.add(queue_name="lane")
    await take_over(database_url)
    assert [row["state"] for row in await connection.fetch("select state from slayq.job")] == ["scheduled"] * 3


async def test_what_had_failed_for_good_is_a_dead_letter(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """With its attempts and last error; and it can be put back."""
    failed = await old.add(job_key="k", max_attempts=2, data={"n": 1})
    await old.set(failed, attempts=2, last_error="500 from the app")
    unusable = await old.add(payload="{}", max_attempts=1)
    await old.set(unusable, attempts=1, last_error="no task")

    assert await take_over(database_url) == TakenOver(failed=2)
    first, second = await letters(connection)
    names = ("reason", "attempts", "max_attempts", "job_key", "event", "last_error")
    assert [first[name] for name in names] == ["attempts-exhausted", 2, 2, "k", "a/b", "500 from the app"]
    assert [second[name] for name in names] == ["attempts-exhausted", 1, 1, None, "", "no task"]
    await connection.execute("select slayq._redrive_1($1)", [first["id"]])
    assert [row["key"] for row in await our_jobs(connection)] == ["k"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("{}", "no usable url"),
        ('{"url": "http://127.0.0.1:9/"}', "no usable event"),
        ('{"url": "ftp://x", "event": "e"}', "not an http or https address"),
        ('{"url": 5, "event": "e"}', "no usable url"),
        ('{"url": "http://a\\u0000b/", "event": "e"}', "a NUL"),
        ("[]", "a batch payload must"),
        ("17", "must be a JSON object"),
        (json.dumps({"url": "http://127.0.0.1:9/", "event": "e", "data": "x" * 4_200_000}), "more than the limit"),
    ],
    ids=["empty", "no event", "ftp", "number", "NUL", "empty batch", "scalar", "large"],
)
async def test_a_job_that_cannot_be_delivered_is_not_lost(
    old: Original, connection: asyncpg.Connection, database_url: str, payload: str, reason: str
) -> None:
    """It is a dead letter with its payload and the reason, and a job beside it comes along."""
    await old.add(payload=payload, job_key="k", run_at=LATER)
    await old.add()
    assert await take_over(database_url) == TakenOver(due=1, undeliverable=1)
    (letter,) = await letters(connection)
    assert (letter["reason"], letter["job_key"], letter["run_at"]) == ("undeliverable", "k", LATER)
    assert letter["payload"] == payload
    assert letter["last_error"].startswith("taken over, but ")
    assert reason in letter["last_error"]


async def test_names_that_cannot_be_here(old: Original, connection: asyncpg.Connection, database_url: str) -> None:
    """A queue's name that is one of our own words: a dead letter, which keeps the error it had."""
    bad = await old.add("@timer")
    await old.set(bad, attempts=1, last_error="before")
    assert await take_over(database_url) == TakenOver(undeliverable=1)
    (letter,) = await letters(connection)
    assert letter["queue"] == "@timer"
    assert letter["last_error"].endswith("must not begin with @; before: before")


async def test_times_without_end(old: Original, connection: asyncpg.Connection, database_url: str) -> None:
    """Graphile Worker takes "infinity" for a time; here it is the last, or the first, that there is."""
    for run_at in ("infinity", "-infinity"):
        added = await old.add()
        await connection.execute(
            "update graphile_worker._private_jobs set run_at = $2::text::timestamptz where id = $1", added, run_at
        )
    assert await take_over(database_url) == TakenOver(due=1, later=1)
    assert [row["run_at"].year for row in await our_jobs(connection)] == [9999, 1970]


async def test_jobs_that_an_old_server_had_locked(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """Due when the lock ends, four hours after it was taken; attempts count on. A stale lock holds up nothing."""
    fresh, stale, sleeping = await old.add(job_key="fresh"), await old.add(job_key="stale"), await old.add(run_at=LATER)
    await old.lock(fresh, "1 hour")
    await old.lock(stale, "5 hours")
    await old.lock(sleeping, "1 minute")
    locked_at = await connection.fetchval("select locked_at from graphile_worker.jobs where id = $1", fresh)

    assert await take_over(database_url) == TakenOver(due=1, later=2, locked=2)
    first, second, third = await our_jobs(connection)
    assert (first["run_at"], first["attempts"]) == (locked_at + timedelta(hours=4), 1)
    assert (second["run_at"] < datetime.now(UTC), second["attempts"]) == (True, 1)
    assert third["run_at"] == LATER


async def test_a_lock_on_the_last_attempt(old: Original, connection: asyncpg.Connection, database_url: str) -> None:
    """It must not run again by itself: nobody knows how it ended, or it was replaced under its key while it ran."""
    last = await old.add(max_attempts=1, job_key="last")
    await old.lock(last, "1 minute")
    replaced = await old.add(job_key="replaced", data={"n": 1})
    await old.lock(replaced, "1 minute")
    await old.add(job_key="replaced", data={"n": 2}, cache={}, run_at=LATER)

    assert await take_over(database_url) == TakenOver(later=1, lost=2)
    assert [(letter["reason"], letter["job_key"]) for letter in await letters(connection)] == [
        ("lease-lost", "last"),
        ("lease-lost", None),
    ]
    (job,) = await our_jobs(connection)
    assert (job["key"], json.loads(job["payload"])["data"]) == ("replaced", {"n": 2})


async def test_jobs_go_on_where_they_were(
    old: Original, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, database_url: str
) -> None:
    """The real daemon delivers them: retry counts on from the attempts made, to the same limit; lanes in order."""
    retrying = await old.add(url=endpoint.url, max_attempts=4, job_key="retrying", data={"answer": 500})
    await old.set(retrying, attempts=2, last_error="503 from the app")
    for number in range(3):
        await old.add(url=endpoint.url, queue_name="lane", data={"answer": 200, "n": number})
    endpoint.handler = lambda callback: callback.data["answer"]
    await migrate(database_url)
    await daemons.start()
    callbacks = await endpoint.wait_for_finished(5)
    await until_no_jobs(connection)

    assert all(callback.signature_valid for callback in callbacks)
    assert [each.retry for each in callbacks if each.body["job_key"] == "retrying"] == [3, 4]
    assert [each.data["n"] for each in callbacks if "n" in each.data] == [0, 1, 2]
    (letter,) = await letters(connection)
    assert (letter["reason"], letter["attempts"]) == ("attempts-exhausted", 4)


async def test_a_daemon_takes_over_at_its_first_start(
    old: Original, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Without a command; it says what it took, and a second one finds nothing to take."""
    await old.add(url=endpoint.url, data={"n": 1})
    first = await daemons.start()
    await endpoint.wait_for(1)
    (told,) = [event for event in first.program.events if event["event"] == "taken_over"]
    assert (told["due"], told["later"]) == (1, 0)
    second = await daemons.start()
    assert [] == [event for event in second.program.events if event["event"] == "taken_over"]
    await until_no_jobs(connection)
    assert len(endpoint.received) == 1


async def test_many_at_once(old: Original, connection: asyncpg.Connection, database_url: str) -> None:
    """Ten migrations at once take each job once."""
    for _ in range(20):
        await old.add()
    async with asyncio.timeout(60):
        done = await asyncio.gather(*(carry_out(database_url, Order()) for _ in range(10)))
    assert sum(each.taken_over.due for each in done if each.taken_over) == 20
    assert len(await our_jobs(connection)) == 20


async def test_a_second_run_changes_nothing(
    old: Original, cli: Cli, connection: asyncpg.Connection, database_url: str
) -> None:
    """Nor does a third; and nothing was dropped or deleted from Graphile Worker's tables."""
    for number in range(5):
        await old.add(job_key=f"k{number}", run_at=LATER)
    await connection.execute("select wait_for_worker_event('k1', 'e', 'k', 'v', 's')")
    await connection.execute("select wait_for_invocation('k2', 'callee', 's')")
    there = await old.jobs()
    waits = await connection.fetch("select * from slayq._private_waiting_on, slayq._private_invoker")
    assert (await cli.json("migrate"))["taken_over"]["later"] == 5
    before = await snapshot(connection)
    for _ in range(2):
        assert await cli.json("migrate") == {"applied": [], "schema": len(load())}
    assert await snapshot(connection) == before
    assert await old.jobs() == there
    assert await connection.fetch("select * from slayq._private_waiting_on, slayq._private_invoker") == waits


async def test_what_is_added_there_later_comes_along_later(
    old: Original, connection: asyncpg.Connection, database_url: str
) -> None:
    """A later run takes it, and nothing else. A key that was given again replaces, as in any add."""
    for key in ("replaced", "kept", "running"):
        await old.add(job_key=key, run_at=LATER, data={"n": 1})
    await migrate(database_url)
    await connection.execute(
        "insert into slayq.worker (name, version, queues, expires_at) values ('w', '1', '{}', 'infinity')"
    )
    await connection.execute("update slayq.job set state = 'leased', worker_id = 1 where job_key = 'running'")
    await old.add(job_key="replaced", data={"n": 2})
    await old.add(job_key="running", data={"n": 2})
    await old.add(data={"n": 3})

    assert await take_over(database_url) == TakenOver(due=3)
    rows = await connection.fetch(
        "select job_key, payload -> 'data' ->> 'n' as n, superseded from slayq.job order by job_key, n"
    )
    assert [tuple(row) for row in rows] == [
        ("kept", "1", False),
        ("replaced", "2", False),
        ("running", "2", False),
        (None, "1", True),
        (None, "3", False),
    ]


async def test_no_job_is_lost_that_is_added_meanwhile(
    connect: Connect, connection: asyncpg.Connection, database_url: str
) -> None:
    """Apps call the function without a pause while it is replaced: every call that did not fail has left one job."""
    stop = asyncio.Event()

    async def app(number: int) -> int:
        caller = await connect()
        added = 0
        while not stop.is_set():
            await caller.execute(
                'select add_worker_job($1, \'{"url": "http://127.0.0.1:9/", "event": "e"}\')', f"mail{number}"
            )
            added += 1
        return added

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        apps = [group.create_task(app(number)) for number in range(4)]

        async def added(least: int) -> bool:
            query = "select count(*) >= $1 from graphile_worker._private_jobs"
            return bool(await connection.fetchval(query, least))

        await wait_until(lambda: added(200))
        await migrate(database_url)
        here: int = await connection.fetchval("select count(*) from slayq.job")

        async def more() -> bool:
            return bool(await connection.fetchval("select count(*) >= $1 from slayq.job", here + 100))

        await wait_until(more)
        stop.set()
    total = sum(task.result() for task in apps)
    assert await connection.fetchval("select count(*) from slayq.job") == total


CALL = """select add_worker_job('mail', '{"url": "http://127.0.0.1:9/", "event": "e"}')"""
TAKING_WAITS = "select exists (select from pg_locks where not granted and mode = 'ShareRowExclusiveLock')"
REPLACED = "select exists (select from pg_proc where proname = 'add_worker_job' and prosrc like '%slayq.\\_%')"


async def test_a_call_that_waited_for_the_take_over_and_commits_late(
    connect: Connect, connection: asyncpg.Connection, database_url: str
) -> None:
    """It stood in line behind our lock, so it adds its job to the old table; we wait until its transaction is over."""
    second, taking = await call_behind_the_take_over(connect, connection, migrate(database_url))
    await until_only_the_call_holds_it_up(connection, taking)
    await second.execute("commit")
    await taking
    assert 22 == await connection.fetchval("select count(*) from slayq.job")


@pytest.mark.parametrize("by", ["text", "json", "daemon"])
async def test_a_call_that_commits_too_late(
    connect: Connect,
    connection: asyncpg.Connection,
    database_url: str,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """It is not waited for without end: who took over says whose it is and what to do, and that takes its job over."""
    monkeypatch.setattr(takeover, "_CALLERS_TIMEOUT", 0.1)
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "text": partial(cli.ok, "migrate"),
        "json": partial(cli.json, "migrate"),
        "daemon": partial(ensure, database_url),
    }
    with structlog.testing.capture_logs() as logs:
        second, taking = await call_behind_the_take_over(connect, connection, ways[by]())
        done = await taking
    pid = second.get_server_pid()
    if by == "text":
        assert f"Sessions with process id {pid} were at work before" in done.stdout
    elif by == "json":
        assert [pid] == done["late"]
    else:
        (line,) = [line for line in logs if line["event"] == "calls_of_the_original_still_open"]
        assert ((pid,), "run slayq-server migrate when they ended") == (line["pids"], line["hint"])
    await second.execute("commit")
    await migrate(database_url)
    assert 2 == await connection.fetchval("select count(*) from slayq.job")


async def call_behind_the_take_over(
    connect: Connect, connection: asyncpg.Connection, take_over: Awaitable[Any]
) -> tuple[asyncpg.Connection, asyncio.Future[Any]]:
    """Two calls of the original, one that was there before and one in an open transaction; and the take-over."""
    first, second = await connect(), await connect()
    await first.execute(f"begin; {CALL}")
    taking = asyncio.ensure_future(take_over)
    await wait_until(lambda: connection.fetchval(TAKING_WAITS), what="the take-over waiting for the open call")
    await second.execute("begin")
    calling = asyncio.ensure_future(second.execute(CALL))
    await wait_until(lambda: connection.fetchval(WAITS, second.get_server_pid()), what="the call in line")
    await first.execute("commit")
    await calling
    return second, taking


async def until_only_the_call_holds_it_up(connection: asyncpg.Connection, taking: asyncio.Future[Any]) -> None:
    """The functions are replaced, and the take-over is not over: it waits for the call. Adds 20 jobs meanwhile."""
    await wait_until(lambda: connection.fetchval(REPLACED), what="the functions replaced")
    # All that the take-over does of itself would be over long before this: a call that is made here is.
    for _ in range(20):
        await connection.execute(CALL)
    assert not taking.done()


async def test_a_call_that_had_begun_and_has_touched_nothing_yet(
    connect: Connect, connection: asyncpg.Connection, database_url: str
) -> None:
    """The old function runs on although it is replaced; and sessions that only lie open are not waited for."""
    gate, caller, idle = await connect(), await connect(), await connect()
    await connection.execute(
        """
        create function public.gate(identifier text) returns text language plpgsql volatile as $$
        begin perform pg_advisory_xact_lock(77); return identifier; end $$
        """
    )
    await idle.execute("begin; select 1")
    await gate.execute("select pg_advisory_lock(77)")
    # The function is looked up first, then its argument waits, then it runs.
    calling = asyncio.ensure_future(caller.execute(CALL.replace("'mail'", "public.gate('mail')")))
    await wait_until(lambda: connection.fetchval(WAITS, caller.get_server_pid()), what="the call at the gate")
    taking = asyncio.ensure_future(migrate(database_url))
    await until_only_the_call_holds_it_up(connection, taking)
    await gate.execute("select pg_advisory_unlock(77)")
    await calling
    await taking
    assert 21 == await connection.fetchval("select count(*) from slayq.job")
    await idle.execute("commit")


async def test_an_old_server_that_is_started_again_runs_nothing_twice(
    old: Original, old_server: Any, connection: asyncpg.Connection, database_url: str
) -> None:
    """The real Graphile Worker, with everything due: it runs only what has been added there since."""
    for number in range(5):
        await old.add(job_key=f"k{number}")
    failed = await old.add(max_attempts=1)
    await old.set(failed, attempts=1)
    await migrate(database_url)
    server = old_server("mail")
    await server.wait_for_output("working")
    added = await old.add(job_key="k1", data={"n": 2})
    await server.wait_for_output(f"running {added} attempt 1")
    assert server.stdout.count("running") == 1
    assert len(await our_jobs(connection)) == 5


async def test_the_pace_of_retries_is_the_queues(
    old: Original, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A taken over job that fails backs off by this server's rule and succeeds in the end."""
    await old.add(url=endpoint.url)
    endpoint.handler = lambda callback: 500 if callback.retry < 3 else 200
    await daemons.start(queues={"mail": {"concurrency": 1, "backoff": FAST_BACKOFF}})
    callbacks = await endpoint.wait_for_finished(3)
    await until_no_jobs(connection)
    assert [callback.retry for callback in callbacks] == [1, 2, 3]
