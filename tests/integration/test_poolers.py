"""The daemon behind PgBouncer: everything in transaction mode, LISTEN past it, and session mode.

The poolers in transaction mode hand out their sessions in turn, and have fewer than the daemons have connections: two
statements of one connection hardly ever meet in one session.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import pytest

from slayq_server.db import listener
from slayq_server.db.listener import Listener
from slayq_server.db.migrate import ensure
from slayq_server.db.pool import Pool
from slayq_server.db.pooler import shares_sessions
from slayq_server.db.store import Store
from slayq_server.errors import DatabaseUnavailable
from tests.support.daemon import Daemons, Running, add, metric, metrics, until_no_jobs
from tests.support.endpoint import Endpoint, Received, Reply
from tests.support.pgbouncer import Mode, PgBouncer
from tests.support.process import run_program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slayq_server.dev.cluster import Cluster
    from tests.conftest import StartProgram

POLL = {"poll_only": True, "poll_interval": 0.1}
QUICK_HEART = {"lease": 2, "renew": 0.2}


class StartPooler(Protocol):
    """Starts a PgBouncer in front of the tests' server, for the length of the test."""

    def __call__(self, mode: Mode, **settings: object) -> PgBouncer: ...


@pytest.fixture
def start_pooler(cluster: Cluster) -> Iterator[StartPooler]:
    """Starts poolers."""
    with ExitStack() as stack:
        yield lambda mode, **settings: stack.enter_context(PgBouncer(cluster, mode, **settings))


@pytest.fixture
def pooler(start_pooler: StartPooler) -> PgBouncer:
    """A pooler in transaction mode."""
    return start_pooler("transaction", default_pool_size=3, server_round_robin=1)


@pytest.fixture
def pooled(
    pooler: PgBouncer, start_program: StartProgram, database_url: str, endpoint: Endpoint, tmp_path: Path
) -> Daemons:
    """Starts daemons on the test's database, by way of the pooler in transaction mode."""
    return Daemons(start_program, pooler.url(database_url), endpoint.origin, tmp_path)


async def listens(running: Running) -> float | None:
    """What the metric says of LISTEN."""
    return (await metrics(running)).get("slayq_listener_connected")


async def words_heard(running: Running) -> float:
    """How often a notification has woken the daemon."""
    return await metric(running, 'slayq_wakeups_total{source="notify"}')


class TestTransactionMode:
    """`poll_only` behind a pooler in transaction mode: all that works on a direct connection."""

    async def test_migrations(self, pooler: PgBouncer, empty_database_url: str, tmp_path: Path) -> None:
        """Ten at once, by the command line and by daemons: one applies everything, the others find it done."""
        url = pooler.url(empty_database_url)
        async with asyncio.TaskGroup() as group:
            commands = [
                group.create_task(run_program(tmp_path / name, "migrate", "--database-url", url)) for name in "ab"
            ]
            starts = [group.create_task(ensure(url)) for _ in range(8)]
        assert [0, 0] == [command.result().code for command in commands]
        assert 1 == len({start.result() for start in starts})

    async def test_delivery(self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
        """A hundred jobs: each delivered once, signed; nothing listens, and no notification is asked for."""
        running = await pooled.start(database=POLL)
        for number in range(100):
            await add(connection, endpoint.url, data={"n": number})
        callbacks = await endpoint.wait_for_finished(100, 30)
        await until_no_jobs(connection)
        assert list(range(100)) == sorted(callback.data["n"] for callback in callbacks)
        assert all(callback.signature_valid for callback in callbacks)
        assert [] == await connection.fetchval("select wants from slayq.worker")
        assert None is await listens(running)

    async def test_retries_and_dead_letters(
        self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
    ) -> None:
        """Failures are counted and written down, to the last one."""
        endpoint.handler = lambda _: 500
        await pooled.start(database=POLL, worker=QUICK_HEART)
        await add(connection, endpoint.url, max_attempts=3)
        callbacks = await endpoint.wait_for(3, 20)
        await until_no_jobs(connection)
        assert [1, 2, 3] == [callback.retry for callback in callbacks]
        assert "attempts-exhausted" == await connection.fetchval("select reason from slayq.dead_letter")

    async def test_serial_queues(self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
        """One at a time of each, in order, the next one at once."""
        running: set[str] = set()

        async def handler(callback: Received) -> int:
            lane = callback.data["lane"]
            assert lane not in running
            running.add(lane)
            await asyncio.sleep(0)
            running.remove(lane)
            return 200

        endpoint.handler = handler
        await pooled.start(database=POLL, worker=QUICK_HEART)
        for number in range(10):
            for lane in "abc":
                await add(connection, endpoint.url, queue_name=lane, data={"lane": lane, "n": number})
        callbacks = await endpoint.wait_for_finished(30, 20)
        for lane in "abc":
            assert list(range(10)) == [c.data["n"] for c in callbacks if c.data["lane"] == lane]

    async def test_a_delayed_job(self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
        """Not before its time, and found by the heartbeat though nobody could say so."""
        await pooled.start(database=POLL, worker=QUICK_HEART)
        due = await connection.fetchval("select clock_timestamp() + interval '700 milliseconds'")
        await add(connection, endpoint.url, run_at=due)
        await endpoint.wait_for(1)
        assert await connection.fetchval("select clock_timestamp() >= $1", due)

    async def test_a_schedule(self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
        """Its tick becomes one job."""
        cron = [{"id": "c", "cron": "0 0 1 1 *", "event": "test/tick", "url": endpoint.url, "queue": "mail"}]
        await pooled.start(database=POLL, worker=QUICK_HEART, cron=cron)
        await wait_until(lambda: connection.fetchval("select exists (select from slayq.schedule)"))
        await connection.execute("update slayq.schedule set next_at = clock_timestamp()")
        (callback,) = await endpoint.wait_for(1)
        assert "test/tick" == callback.event
        assert await connection.fetchval("select next_at > clock_timestamp() from slayq.schedule")

    async def test_commands_and_a_pause(
        self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, tmp_path: Path
    ) -> None:
        """The command line goes through the pooler, too; a paused queue waits, and goes on when it is resumed."""
        await pooled.start(database=POLL, worker=QUICK_HEART)

        async def command(*arguments: str) -> str:
            folder = tmp_path / "-".join(arguments[:2])
            finished = await run_program(folder, *arguments, "--database-url", pooled.database_url)
            assert (0, "") == (finished.code, finished.stderr)
            return finished.stdout

        await command("queues", "pause", "mail")
        job = ("send", "test/event", "--queue", "mail", "--url", endpoint.url, "--data", '{"n": 1}')
        await command(*job)
        assert "test/event" in await command("jobs", "list")
        await command("queues", "resume", "mail")
        (callback,) = await endpoint.wait_for(1)
        assert {"n": 1} == callback.data

    async def test_the_drain(self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
        """SIGTERM: what runs may end and is written down, the rest stays, the worker row is given up."""
        hold = asyncio.Event()
        endpoint.handler = lambda _: Reply(200, hold=hold)
        running = await pooled.start(database=POLL, queues={"mail": {"concurrency": 1}})
        for _ in range(2):
            await add(connection, endpoint.url)
        await endpoint.wait_for(1)
        running.program.terminate()
        await running.program.wait_for_output('"draining"')
        hold.set()
        assert 0 == await running.program.wait()
        assert ["ready"] == [row["state"] for row in await connection.fetch("select state from slayq.job")]
        assert not await connection.fetchval("select exists (select from slayq.worker where expires_at > now())")

    async def test_the_worker_row(self, pooled: Daemons, connection: asyncpg.Connection) -> None:
        """It is renewed all the time, and stays the same one."""
        heart = {"lease": 5, "renew": 0.2}
        await pooled.start(database=POLL, worker=heart)
        row = "select id, renewed_at from slayq.worker"
        first = await wait_until(lambda: connection.fetchrow(row))

        async def renewed() -> bool:
            now = await connection.fetchrow(row)
            return bool((now["renewed_at"] - first["renewed_at"]).total_seconds() > heart["lease"])

        await wait_until(renewed, 20)
        assert [first["id"]] == [each["id"] for each in await connection.fetch(row)]

    async def test_two_daemons_of_which_one_is_killed(
        self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
    ) -> None:
        """kill -9: what it held goes to the other within the lease."""
        hold = asyncio.Event()
        endpoint.handler = lambda callback: Reply(200, hold=hold if callback.retry == 1 else None)
        first = await pooled.start(database=POLL, worker=QUICK_HEART)
        for number in range(4):
            await add(connection, endpoint.url, data={"n": number})
        await endpoint.wait_for(4)
        await pooled.start(database=POLL, worker=QUICK_HEART)
        first.program.kill()
        callbacks = await endpoint.wait_for_finished(8, 20)
        await until_no_jobs(connection)
        assert [1, 1, 1, 1, 2, 2, 2, 2] == sorted(callback.retry for callback in callbacks)

    async def test_a_pooler_that_dies_and_comes_back(
        self, pooled: Daemons, pooler: PgBouncer, endpoint: Endpoint, connection: asyncpg.Connection
    ) -> None:
        """All connections are gone at once; the daemon goes on as soon as the pooler is back."""
        running = await pooled.start(database=POLL, worker=QUICK_HEART)
        pooler.kill()
        await running.program.wait_until_answers(f"{running.url}/readyz", 503)
        await add(connection, endpoint.url)
        pooler.start()
        await endpoint.wait_for(1, 20)
        await until_no_jobs(connection)

    async def test_a_frozen_daemon_holds_no_locks(
        self, start_pooler: StartPooler, database_url: str, connection: asyncpg.Connection
    ) -> None:
        """A transaction that is left open ends by the server's own limit, also through a pooler."""
        pool = Pool(start_pooler("transaction").url(database_url), size=1, pooled=True, timeout=2.0)
        await pool.open()

        async def freeze() -> None:
            async with pool.transaction() as frozen:
                await frozen.execute("select pg_advisory_xact_lock(1)")
                assert await locked()
                await wait_until(freed)

        async def locked() -> bool:
            return bool(
                await connection.fetchval(
                    "select exists (select from pg_locks where locktype = 'advisory' and database ="
                    " (select oid from pg_database where datname = current_database()))"
                )
            )

        async def freed() -> bool:
            return not await locked()

        with pytest.raises(DatabaseUnavailable):
            await freeze()
        await pool.close()

    async def test_nothing_stays_in_the_sessions(
        self,
        start_pooler: StartPooler,
        start_program: StartProgram,
        database_url: str,
        endpoint: Endpoint,
        connection: asyncpg.Connection,
        tmp_path: Path,
    ) -> None:
        """They are lent to others next: no prepared statement, no setting, no LISTEN of ours is left in them."""
        url = start_pooler("transaction", default_pool_size=1).url(database_url)
        running = await Daemons(start_program, url, endpoint.origin, tmp_path).start(database=POLL, worker=QUICK_HEART)
        await add(connection, endpoint.url)
        await endpoint.wait_for(1)
        await until_no_jobs(connection)
        running.program.terminate()
        await running.program.wait()
        other = await asyncpg.connect(url, statement_cache_size=0)
        ours = await other.fetchval(
            "select array(select name from pg_prepared_statements)"
            " || array(select pg_listening_channels())"
            " || array(select name from pg_settings where source = 'session' and setting <> reset_val"
            " and name <> 'application_name')"  # which PgBouncer keeps in step with whom it serves
        )
        await other.close()
        assert [] == ours

    async def test_an_app_adds_jobs(self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
        """An app on asyncpg, through the pooler: rows of our types come back whole, however sessions change."""
        await pooled.start(database=POLL)

        async def app(number: int) -> str:
            client = await asyncpg.connect(pooled.database_url, statement_cache_size=0)
            payload = f'{{"url": "{endpoint.url}", "event": "e", "data": {number}}}'
            job = await client.fetchval("select slayq.add_job('mail', $1, job_key => $2)", payload, f"k{number}")
            await client.execute("select public.add_worker_job('mail', $1)", payload)
            await client.close()
            return str(job["key"])

        async with asyncio.TaskGroup() as group:
            apps = [group.create_task(app(number)) for number in range(10)]
        assert [f"k{number}" for number in range(10)] == [each.result() for each in apps]
        callbacks = await endpoint.wait_for(20)
        assert sorted([*range(10), *range(10)]) == sorted(callback.data for callback in callbacks)


class TestListeningPastThePooler:
    """`poll_only` with a `listen_url`: statements through the pooler, LISTEN on a direct connection."""

    async def test_words_are_heard(
        self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, database_url: str
    ) -> None:
        """Nothing polls but the safety net, and notifications wake the daemon."""
        running = await pooled.start(
            database={"poll_only": True, "poll_interval": "1h"}, env={"SLAY_Q_LISTEN_URL": database_url}
        )

        async def wanted() -> bool:
            return await listens(running) == 1 and "mail" in await connection.fetchval("select wants from slayq.worker")

        await wait_until(wanted)
        before = await words_heard(running)
        await add(connection, endpoint.url)
        await endpoint.wait_for(1)
        assert before + 1 == await words_heard(running)

    async def test_an_address_through_the_pooler_is_noticed(
        self, pooled: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
    ) -> None:
        """LISTEN that hears nothing: said by the log, with what to do, and by the metric; jobs are delivered."""
        running = await pooled.start(
            database={"poll_only": True}, env={"SLAY_Q_LISTEN_URL": pooled.database_url}, worker=QUICK_HEART
        )
        await running.program.wait_for_output('"listener_hears_nothing"')
        (warning,) = [line for line in running.program.events if line["event"] == "listener_hears_nothing"]
        assert "SLAY_Q_LISTEN_URL" in warning["advice"]
        assert 0 == await listens(running)
        await add(connection, endpoint.url)
        await endpoint.wait_for(1)


class TestSessionMode:
    """A pooler in session mode is as good as none, with the defaults of both."""

    async def test_the_daemon_as_it_is(
        self,
        start_pooler: StartPooler,
        start_program: StartProgram,
        database_url: str,
        endpoint: Endpoint,
        connection: asyncpg.Connection,
        tmp_path: Path,
    ) -> None:
        """No setting is needed: notifications are heard, and wake the daemon."""
        url = start_pooler("session").url(database_url)
        running = await Daemons(start_program, url, endpoint.origin, tmp_path).start()

        async def wanted() -> bool:
            return await listens(running) == 1 and "mail" in await connection.fetchval("select wants from slayq.worker")

        await wait_until(wanted)
        before = await words_heard(running)
        await add(connection, endpoint.url)
        await endpoint.wait_for(1)
        await until_no_jobs(connection)
        assert before + 1 == await words_heard(running)
        running.program.send_signal(signal.SIGTERM)
        assert 0 == await running.program.wait()

    async def test_settings_hold(self, start_pooler: StartPooler, database_url: str) -> None:
        """The server's time limits and the planner's settings are in force on every connection."""
        pool = Pool(start_pooler("session").url(database_url), size=2)
        await pool.open()
        async with pool.connection() as one, pool.connection(urgent=True) as another:
            for each in (one, another):
                assert ("15s", "off") == (
                    await each.fetchval("show statement_timeout"),
                    await each.fetchval("show enable_seqscan"),
                )
        await pool.close()


class TestRecognition:
    """Which address leads where."""

    @pytest.mark.parametrize(
        ("mode", "settings", "expected"),
        [
            ("session", {}, False),
            ("session", {"server_round_robin": 1}, False),
            ("transaction", {}, True),
            ("transaction", {"server_round_robin": 1, "min_pool_size": 5}, True),
            ("transaction", {"default_pool_size": 1}, True),
        ],
    )
    async def test_poolers(
        self, start_pooler: StartPooler, database_url: str, mode: Mode, settings: dict[str, Any], expected: bool
    ) -> None:
        """A pooler in transaction mode is one, however it chooses among its sessions."""
        assert expected == await shares_sessions(start_pooler(mode, **settings).url(database_url))

    async def test_no_pooler(self, database_url: str) -> None:
        """Sessions of a direct connection are its own."""
        assert not await shares_sessions(database_url)

    async def test_a_daemon_that_was_not_told(self, pooled: Daemons) -> None:
        """In place of statements that fail now and then and a LISTEN that hears nothing: exit 78, and what to do."""
        program = pooled.launch()
        assert 78 == await program.wait()
        assert "leads to a pooler in transaction mode: set database.poll_only" in program.stderr

    @pytest.mark.parametrize("deaf", [False, True])
    async def test_a_listener_on_another_database(
        self, database_url: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, deaf: bool
    ) -> None:
        """It hears nothing there, and finds out; on the right one it says that it listens."""
        monkeypatch.setattr(listener, "_HEARS_WITHIN", 0.2)
        monkeypatch.setattr(listener, "_PING_EVERY", 0.05)
        pool = Pool(database_url)
        await pool.open()
        store = Store(pool)
        changes: list[bool] = []
        words: list[str] = []
        knocks: list[str] = []

        async def knock(channel: str) -> None:
            knocks.append(channel)
            await store.knock(channel)

        ears = Listener(empty_database_url if deaf else database_url, words.append, changes.append, knock=knock)
        task = asyncio.create_task(ears.run())
        await wait_until((lambda: len(knocks) >= 3) if deaf else (lambda: changes))
        task.cancel()
        await asyncio.wait([task])
        assert ([False] if deaf else [True, False]) == changes
        assert [] == words
        assert 1 == len(set(knocks))
        await pool.close()
