"""When taking over is refused, and what a dry run tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.db.migrate import load, migrate
from slayq_server.errors import DatabaseUnavailable, SchemaError
from tests.integration.takeover.original import our_jobs, snapshot
from tests.integration.takeover.test_moving import LATER, take_over
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.dev.cluster import Cluster
    from tests.conftest import Connect
    from tests.integration.takeover.original import Original
    from tests.support.cli import Cli
    from tests.support.daemon import Daemons

NAMES = [migration.name for migration in load()]


async def test_a_dry_run_changes_nothing(old: Original, cli: Cli, connection: asyncpg.Connection) -> None:
    """It tells what would be applied and taken over, by state; not a row, function or right is another afterwards."""
    retrying = await old.add(run_at=LATER, job_key="k")
    await old.set(retrying, attempts=1, last_error="x")
    await connection.execute("select wait_for_worker_event('k', 'e', 'k', 'v', 's')")
    await connection.execute("select wait_for_invocation('k', 'callee', 's2')")
    locked, lost = await old.add(), await old.add(max_attempts=1)
    await old.lock(locked, "1 hour")
    await old.lock(lost, "1 hour")
    failed = await old.add(max_attempts=1)
    await old.set(failed, attempts=1)
    await old.add(payload="{}")
    await old.add()
    before = await snapshot(connection)
    said = (await cli.ok("migrate", "--dry-run")).stdout
    document = await cli.json("migrate", "--dry-run")
    assert await snapshot(connection) == before
    assert said.splitlines() == [
        *(f"Would apply {name}." for name in NAMES),
        "Would take over from the original:",
        "  jobs: 3 (1 due, 2 later; 1 have failed before)",
        "    locked by an old server: 1, due when its locks end, four hours after it took them",
        "  dead letters: 3 (1 had failed for good, 1 were on their last attempt, 1 cannot be delivered)",
        "  waits: 2 (1 for an event, 1 for a callee)",
    ]
    counts = {
        "due": 1, "later": 2, "retrying": 1, "locked": 1, "failed": 1, "lost": 1, "undeliverable": 1, "waits": 1,
        "invocations": 1,
    }  # fmt: skip
    assert document == {
        "applied": NAMES,
        "schema": len(NAMES),
        "dry_run": True,
        "taken_over": counts,
        "obstacles": [],
    }
    done = await cli.json("migrate")
    assert done == {"applied": NAMES, "schema": len(NAMES), "taken_over": counts, "obstacles": []}


async def test_a_dry_run_on_a_plain_database(cli: Cli, empty_database_url: str, connect: Connect) -> None:
    """The migrations that are pending, or that none is."""
    url = ("--database-url", empty_database_url)
    connection = await connect(empty_database_url)
    assert (await cli.ok("migrate", "--dry-run", *url)).stdout == "".join(f"Would apply {name}.\n" for name in NAMES)
    assert await connection.fetchval("select to_regnamespace('slayq')") is None
    await cli.ok("migrate", *url)
    assert await cli.json("migrate", "--dry-run", *url) == {"applied": [], "schema": len(NAMES), "dry_run": True}
    assert (await cli.ok("migrate", "--dry-run", *url)).stdout == f"The schema is at {len(NAMES)} already.\n"


@pytest.mark.parametrize("option", ["--sql", "--forward-graphile", "--no-forward-graphile"])
async def test_a_dry_run_of_something_else(cli: Cli, option: str) -> None:
    """Is a usage error."""
    finished = await cli("migrate", "--dry-run", option)
    assert (finished.code, "--dry-run goes with neither" in finished.stderr) == (2, True)


async def test_refused_while_an_old_server_is_connected(
    old: Original, old_server: Any, cli: Cli, daemons: Daemons, connection: asyncpg.Connection
) -> None:
    """The real Graphile Worker with a job under delivery: migrate and the daemon refuse, and change nothing; once it
    has stopped they do not."""
    await old.add("idle", data={"hang": True})
    server = old_server("mail", "idle")
    await server.wait_for_output("running")
    await wait_until(lambda: connection.fetchval("select count(*) = 2 from graphile_worker._private_tasks"))
    before = await snapshot(connection)

    finished = await cli("migrate")
    assert (finished.code, finished.stdout) == (78, "")
    assert "error: an old server is connected: Postgres has sessions that listen" in finished.stderr
    assert "Stop it first" in finished.stderr
    daemon = daemons.launch()
    assert await daemon.wait() == 78
    assert "error: an old server is connected" in daemon.stderr
    tried = (await cli.ok("migrate", "--dry-run")).stdout
    assert "Would refuse without --force: an old server is connected" in tried
    assert await snapshot(connection) == before

    server.kill()

    async def alone() -> bool:
        query = (
            "select not exists (select from pg_stat_activity where backend_type = 'client backend' "
            "and datname = current_database() and pid <> pg_backend_pid())"
        )
        return bool(await connection.fetchval(query))

    await wait_until(alone, what="the old server's sessions being gone")
    assert (await cli.json("migrate"))["obstacles"] == []


async def test_forced_while_an_old_server_is_connected(
    old: Original, old_server: Any, cli: Cli, connection: asyncpg.Connection
) -> None:
    """The job it is delivering is due when the lock ends; it leases nothing any more, but what is added there later."""
    await old.add("idle", data={"hang": True})
    server = old_server("mail", "idle")
    await server.wait_for_output("running")
    await wait_until(lambda: connection.fetchval("select count(*) = 2 from graphile_worker._private_tasks"))
    await old.add("idle", run_at=LATER)

    said = (await cli.ok("migrate", "--force")).stdout
    assert "Forced, although: an old server is connected" in said
    assert "locked by an old server: 1, due when its locks end" in said
    locked, waiting = await our_jobs(connection)
    assert (locked["attempts"], waiting["attempts"]) == (1, 0)
    in_hours: float = await connection.fetchval(
        "select extract(epoch from $1 - now())::float8 / 3600", locked["run_at"]
    )
    assert 3.9 < in_hours <= 4

    await connection.execute("update graphile_worker._private_jobs set run_at = now()")
    added = await old.add("mail")
    await server.wait_for_output(f"running {added}")
    assert server.stdout.count("running") == 2


async def test_a_later_run_with_nothing_to_take_does_not_mind_an_old_server(
    old_server: Any, cli: Cli, daemons: Daemons
) -> None:
    """Somebody may use Graphile Worker for other things: the daemon starts all the same."""
    await cli.ok("migrate")
    await old_server("other").wait_for_output("working")
    assert await cli.json("migrate") == {"applied": [], "schema": len(NAMES)}
    await daemons.start()


async def test_the_originals_functions_are_in_force_again(
    cli: Cli, daemons: Daemons, connection: asyncpg.Connection
) -> None:
    """Somebody has put one back: a daemon that may not migrate refuses, and the next migrate takes over again."""
    await cli.ok("migrate")
    await connection.execute("drop function cancel_pending_tasks")
    await connection.execute(
        await connection.fetchval(
            "select definition from slayq.replaced_function where definition like '%cancel_pend%'"
        )
    )
    daemon = daemons.launch("--skip-migrate")
    assert await daemon.wait() == 78
    assert "error: the schema lacks the take-over from the original. Run, as its owner" in daemon.stderr
    assert "taken_over" in await cli.json("migrate")
    await daemons.start("--skip-migrate")


async def test_something_that_depends_on_an_old_function(
    cli: Cli, connection: asyncpg.Connection, database_url: str
) -> None:
    """Named, and left alone."""
    await connection.execute(
        "create view app_view as select public.wait_for_invocation('a', 'b', 'c')::text as nothing"
    )
    before = await snapshot(connection)
    finished = await cli("migrate")
    assert finished.code == 78
    assert "view app_view depends on function wait_for_invocation" in finished.stderr
    assert await snapshot(connection) == before


async def test_a_database_of_an_older_release(connection: asyncpg.Connection, database_url: str) -> None:
    """With a part of the tables missing, but the functions in force: it must be brought up to date first."""
    await connection.execute("drop table slayq._private_invoker")
    with pytest.raises(SchemaError, match=r"but not slayq\._private_invoker: start the newest release"):
        await migrate(database_url)


async def test_what_the_original_left_behind_may_be_dropped(
    old: Original, cli: Cli, connection: asyncpg.Connection
) -> None:
    """After the take-over, as docs/from-slay-q.md says."""
    await old.add()
    await cli.ok("migrate")
    await connection.execute(
        "drop schema graphile_worker cascade; "
        "drop table slayq._migrations, slayq._private_waiting_on, slayq._private_invoker"
    )
    assert await cli.json("migrate") == {"applied": [], "schema": len(NAMES)}
    assert len(await our_jobs(connection)) == 1


async def test_a_role_that_sees_no_rows_is_refused(
    old: Original, cluster: Cluster, connection: asyncpg.Connection
) -> None:
    """Graphile Worker's tables have row-level security: who may not go past it must not take them for empty."""
    await old.add()
    database = await connection.fetchval("select current_database()")
    role = f"half_an_owner_{database}"
    await connection.execute(
        f"""
        create role {role} login password 'x';
        grant create on database {database} to {role};
        grant all on schema public, graphile_worker to {role};
        grant all on all tables in schema graphile_worker to {role};
        alter schema slayq owner to {role};
        alter table slayq._private_waiting_on owner to {role};
        alter table slayq._private_invoker owner to {role};
        """
    )
    for row in await connection.fetch(
        "select oid::regprocedure from pg_proc where pronamespace = 'public'::regnamespace"
    ):
        await connection.execute(f"alter function {row[0]} owner to {role}")
    url = cluster.url(database, role).replace(cluster.password, "x")
    with pytest.raises(SchemaError, match="row-level security"):
        await migrate(url)


async def test_somebody_holds_the_old_tables(
    old: Original, connect: Connect, connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app's transaction that has added a job and goes on and on: not waited for without end; nothing is changed."""
    await old.add()
    app = await connect()
    await app.execute("begin")
    await app.execute('select add_worker_job(\'mail\', \'{"url": "http://127.0.0.1:9/", "event": "e"}\')')
    monkeypatch.setattr("slayq_server.db.takeover._LOCK_TIMEOUT", "100ms")
    with pytest.raises(DatabaseUnavailable, match="lock timeout"):
        await migrate(database_url)
    assert await connection.fetchval("select to_regclass('slayq.migration')") is None
    await app.execute("commit")
    assert (await take_over(database_url)).due == 2
