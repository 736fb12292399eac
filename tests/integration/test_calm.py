"""A daemon in trouble stays calm: it says what is wrong once, waits, and goes on by itself."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.support.daemon import Daemons, Running, add, metric, until_no_jobs
from tests.support.endpoint import Reply
from tests.support.ops_app import OpsApp, done, letter_of, output_of, send, step
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import asyncpg

    from tests.conftest import Connect
    from tests.support.endpoint import Endpoint
    from tests.support.ops_app import Request
    from tests.support.process import Program

QUICK: dict[str, Any] = {"worker": {"lease": 2, "renew": 0.4}}
QUIETLY = {"SLAY_Q_LOG_LEVEL": "info"}


def lines_of(program: Program, event: str) -> list[dict[str, Any]]:
    """The daemon's lines of one name."""
    return [line for line in program.events if line["event"] == event]


async def test_an_endpoint_that_fails_a_thousand_times_is_no_log_storm(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """The first failure is logged, then ever fewer with a count; the recovery once. Every dead letter has its line."""
    endpoint.handler = lambda callback: 404 if callback.data == "bad" else 500
    running = await daemons.start(env=QUIETLY)
    for number in range(50):
        await add(connection, endpoint.url, data={"n": number}, max_attempts=1000)
    await endpoint.wait_for(1000, timeout=30)
    for _ in range(3):
        await add(connection, endpoint.url, data="bad", priority=-1)
    await running.program.wait_for_output('"job_dead"')
    endpoint.handler = lambda callback: 404 if callback.data == "bad" else 200
    await until_no_jobs(connection)
    await running.program.wait_for_output('"endpoint_answers_again"')
    failures = lines_of(running.program, "job_retried")
    assert "left_out" not in failures[0]
    assert len(failures) < 30
    recoveries = lines_of(running.program, "endpoint_answers_again")
    assert {endpoint.origin.removeprefix("http://")} == {line["endpoint"] for line in recoveries}
    told = len(failures) + sum(line.get("left_out", 0) for line in [*failures, *recoveries])
    refused = sum(1 for callback in endpoint.received if callback.data != "bad") - 50
    # A failure that is on its way as the first success comes is told of with the next one.
    assert told in range(refused - 9, refused + 1)
    assert 3 == len(lines_of(running.program, "job_dead"))


async def test_a_read_only_postgres_is_waited_for(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, connect: Connect
) -> None:
    """After a failover all writes are refused: readiness says why, the outcome is kept, and written once it can be."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    running = await daemons.start()
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    await set_read_only(connection, True)
    writer = await connect(server_settings={"default_transaction_read_only": "off"})
    await add(writer, endpoint.url)
    hold.set()
    await running.program.wait_until_answers(f"{running.url}/readyz", 503)
    report = await until_detail(running, "read_only")
    assert not report["checks"]["database"]
    await running.program.wait_for_output('"database_lost"')
    assert 1 == len(endpoint.finished)
    await set_read_only(connection, False)
    await until_no_jobs(writer)
    await running.program.wait_until_answers(f"{running.url}/readyz", 200)
    await until_detail(running, "ok")
    # Each delivered once: the first one's outcome had been kept, and nothing was given up.
    assert [1, 1] == [callback.retry for callback in endpoint.received]
    assert [] == lines_of(running.program, "worker_lost")
    assert [] == lines_of(running.program, "statement_failed") + lines_of(running.program, "outcome_refused")
    assert 0 < await metric(running, 'slayq_db_errors_total{kind="read_only"}')
    assert 0 == await metric(running, 'slayq_db_errors_total{kind="statement"}')


async def test_a_daemon_starts_on_a_read_only_postgres_once_it_can(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, unused_port: int
) -> None:
    """It waits, says why, and goes to work."""
    await set_read_only(connection, True)
    program = daemons.launch(http={"port": unused_port})
    running = Running(program, unused_port)
    await program.wait_for_output('"database_unavailable"')
    await until_detail(running, "read_only")
    await set_read_only(connection, False)
    await program.wait_until_answers(f"{running.url}/readyz", 200)
    await add(connection, endpoint.url)
    await endpoint.wait_for_finished(1)
    await until_no_jobs(connection)


async def test_a_disk_without_room_is_waited_for(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Heartbeats go on and nothing else does: not ready, by name; the outcome is kept for as long as that takes."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(200, hold=hold)
    running = await daemons.start(worker={"lease": 5, "renew": 0.5})
    await add(connection, endpoint.url)
    await endpoint.wait_for(1)
    await connection.execute(
        "create function no_room() returns trigger language plpgsql as $$ begin"
        " raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;"
        "create trigger no_room before update or delete on slayq.job execute function no_room()"
    )
    hold.set()
    await endpoint.wait_for_finished(1)
    await until_detail(running, "disk_full")
    await running.program.wait_until_answers(f"{running.url}/readyz", 503)
    first = await renewed(connection)
    await wait_until(lambda: later_than(connection, first), 10, "the heartbeats going on past the first lease")
    await until_detail(running, "disk_full")
    await connection.execute("drop function no_room() cascade")
    await until_no_jobs(connection)
    await running.program.wait_until_answers(f"{running.url}/readyz", 200)
    assert [1] == [callback.retry for callback in endpoint.received]
    assert 0 < await metric(running, 'slayq_db_errors_total{kind="storage"}')


async def test_a_poison_job_ends_as_a_dead_letter(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A job that kills its daemon each time has its attempts and no more; the others go on."""
    hold = asyncio.Event()
    endpoint.handler = lambda callback: Reply(200, hold=hold if callback.job_key == "poison" else None)
    await add(connection, endpoint.url, job_key="poison", max_attempts=3)
    for deaths in range(1, 4):
        victim = await daemons.start(**QUICK)
        await endpoint.wait_for(deaths)
        victim.program.kill()
        await victim.program.wait()
    survivor = await daemons.start(**QUICK)
    await survivor.program.wait_for_output('"lease_expired"')
    letter = await wait_until(lambda: connection.fetchrow("select * from slayq.dead_letter"))
    assert ("poison", "lease-lost", 3, 3) == (
        letter["job_key"],
        letter["reason"],
        letter["attempts"],
        letter["max_attempts"],
    )
    await add(connection, endpoint.url, job_key="good")
    await until_no_jobs(connection)
    assert (3, 1) == (count_of(endpoint, "poison"), count_of(endpoint, "good"))
    assert 1 == await metric(survivor, 'slayq_job_attempts_total{outcome="dead",queue="mail"}')


async def test_a_poison_run_ends_as_a_dead_letter(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """A run that kills its daemon each time, though it gets a step further, ends with its budget of deliveries."""

    async def script(request: Request) -> AsyncIterator[Any]:
        yield step(f"step {len(request.steps)}")
        await asyncio.Event().wait()

    async with OpsApp() as app:
        app.script = script
        await app.register(connection, {"event": "poison"})
        run = await send(connection, "poison")
        await connection.execute("update slayq.job set delivery_failures = 23")  # of 25
        for deaths in (1, 2):
            victim = await daemons.start(**QUICK, callbacks={"allow": [app.origin]})
            await wait_until(partial(steps_recorded, connection, deaths), what=f"{deaths} steps being there")
            victim.program.kill()
            await victim.program.wait()
        await daemons.start(**QUICK, callbacks={"allow": [app.origin]})
        letter = await letter_of(connection, run)
        assert "lease-lost" == letter["reason"]
        assert 2 == len(app.requests)


async def steps_recorded(connection: asyncpg.Connection, number: int) -> bool:
    """Whether so many steps are written down, or more."""
    return bool(number <= await connection.fetchval("select count(*) from slayq.step"))


def count_of(endpoint: Endpoint, job_key: str) -> int:
    """How often a job was delivered."""
    return sum(1 for callback in endpoint.received if callback.job_key == job_key)


async def test_a_daemon_that_stalls_past_its_lease_gives_everything_up(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Nobody took its jobs meanwhile, and yet it settles nothing under the row whose time is up: all start anew."""
    holds = {"answered": asyncio.Event(), "held": asyncio.Event()}
    endpoint.handler = lambda callback: Reply(200, hold=holds[callback.job_key] if callback.retry == 1 else None)
    running = await daemons.start(**QUICK)
    for key in holds:
        await add(connection, endpoint.url, job_key=key)
    await endpoint.wait_for(2)
    await freeze(running, connection)
    holds["answered"].set()
    await endpoint.wait_for_finished(1)
    await thaw_once_expired(running, connection)
    await until_no_jobs(connection)
    for line in ("event_loop_stalled", "worker_lost", "leases_given_up"):
        await running.program.wait_for_output(f'"{line}"')
    assert [1, 1, 2, 2] == sorted(callback.retry for callback in endpoint.received)
    stall = lines_of(running.program, "event_loop_stalled")[0]
    assert stall["duration_seconds"] >= 1.0
    (given_up,) = lines_of(running.program, "leases_given_up")
    assert 2 == given_up["jobs"] == await metric(running, "slayq_leases_lost_total")
    assert [] == lines_of(running.program, "stale_write")
    await running.program.wait_until_answers(f"{running.url}/readyz", 200)


async def test_what_a_run_said_during_a_stall_is_not_written_down(
    daemons: Daemons, connection: asyncpg.Connection
) -> None:
    """A step that came in while the daemon was frozen past its lease runs again."""
    hold = asyncio.Event()

    async def script(request: Request) -> AsyncIterator[Any]:
        if len(app.requests) == 1:
            yield step("before")
            await hold.wait()
            yield step("during")
            said.set()
            await asyncio.Event().wait()
        yield done(sorted(request.steps))

    said = asyncio.Event()
    async with OpsApp() as app:
        app.script = script
        await app.register(connection, {"event": "e"})
        running = await daemons.start(**QUICK, callbacks={"allow": [app.origin]}, retention={"done": "1h"})
        run = await send(connection, "e")
        await wait_until(partial(steps_recorded, connection, 1), what="a step being there")
        await freeze(running, connection)
        hold.set()
        await said.wait()
        await thaw_once_expired(running, connection)
        assert ["before"] == await output_of(connection, run)
        assert 1 == await metric(running, "slayq_leases_lost_total")


async def freeze(running: Running, connection: asyncpg.Connection) -> None:
    """Stops the daemon, when it has nothing on its way to Postgres.

    One that is stopped in the middle of a transaction, or of a message, would stay there: it goes on to the end of it,
    and is stopped again.
    """

    async def stopped_in_between() -> bool:
        running.program.send_signal(signal.SIGSTOP)
        await wait_until(lambda: connection.fetchval(_NONE_WORKS))
        if await connection.fetchval(_ALL_IDLE):
            return True
        running.program.send_signal(signal.SIGCONT)
        await wait_until(lambda: connection.fetchval(_ALL_IDLE))
        return False

    await wait_until(stopped_in_between)


_SESSIONS = "pg_stat_activity where datname = current_database() and application_name = 'slayq-server'"
_NONE_WORKS = (
    f"select not exists (select from {_SESSIONS} and state = 'active' and wait_event is distinct from 'ClientRead')"
)
_ALL_IDLE = f"select not exists (select from {_SESSIONS} and state <> 'idle')"


async def thaw_once_expired(running: Running, connection: asyncpg.Connection) -> None:
    """Lets the daemon go on when the lease has run out by the database's clock, and a second more."""
    await wait_until(
        lambda: connection.fetchval("select clock_timestamp() > max(expires_at) + interval '1 s' from slayq.worker")
    )
    running.program.send_signal(signal.SIGCONT)


async def set_read_only(connection: asyncpg.Connection, on: bool) -> None:
    """As a failover does it: the sessions end, and new ones cannot write, or can again."""
    await connection.execute("set default_transaction_read_only = off")
    await connection.execute(
        "do $$ begin execute format('alter database %I set default_transaction_read_only = "
        + ("on" if on else "off")
        + "', current_database()); end $$"
    )
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name like 'slayq-server%'"
    )


async def until_detail(running: Running, database: str) -> dict[str, Any]:
    """Waits until readiness says that of the database; all that it says."""
    report: dict[str, Any] = {}

    async def said() -> bool:
        nonlocal report
        report = json.loads(await asyncio.to_thread(body_of, f"{running.url}/readyz"))
        return bool(report["detail"]["database"] == database)

    await wait_until(said, 20, f"readiness saying {database}")
    return report


def body_of(url: str) -> str:
    """The body, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError as error:
        return str(error.read(), "utf-8")


async def renewed(connection: asyncpg.Connection) -> datetime:
    """Until when the worker row is good."""
    until: datetime = await connection.fetchval("select max(expires_at) from slayq.worker")
    return until


async def later_than(connection: asyncpg.Connection, moment: datetime) -> bool:
    """Whether the database's clock has passed it, with the row renewed since."""
    return bool(
        await connection.fetchval("select clock_timestamp() > $1 and max(expires_at) > $1 from slayq.worker", moment)
    )
