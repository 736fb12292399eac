"""--forward-graphile: Graphile Worker's functions act here, for apps that call them from triggers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.integration.takeover.original import our_jobs
from tests.integration.takeover.test_moving import LATER
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slayq_server.dev.cluster import Cluster
    from tests.conftest import Connect
    from tests.integration.takeover.original import Original
    from tests.support.cli import Cli

PAYLOAD = json.dumps({"url": "http://127.0.0.1:9/", "event": "e", "data": {"n": 1}})
FUNCTIONS = """
select p.oid::regprocedure::text, pg_get_functiondef(p.oid), proacl::text
from pg_proc p where pronamespace = 'graphile_worker'::regnamespace order by 1"""

FORWARDED = """
select exists (
    select from pg_proc
    where pronamespace = 'graphile_worker'::regnamespace and proname = 'add_job' and prosrc like '%slayq.add_job(%'
)"""


async def functions(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Graphile Worker's functions, as they are."""
    return [tuple(row) for row in await connection.fetch(FUNCTIONS)]


@pytest.fixture
async def forwarding(cli: Cli, connection: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database that was taken over and whose functions are forwarded."""
    await cli.ok("migrate", "--forward-graphile")
    return connection


async def test_add_job_adds_here(forwarding: asyncpg.Connection, old: Original) -> None:
    """With all of its arguments, by name and by place; it returns a row that says what was added."""
    row = await forwarding.fetchrow(
        "select * from graphile_worker.add_job('mail', $1, 'lane', $2, 3, 'k', -5, '{a,b}', 'preserve_run_at')",
        PAYLOAD,
        LATER,
    )
    assert row is not None
    expected = {
        "id": 1, "key": "k", "run_at": LATER, "max_attempts": 3, "attempts": 0, "priority": -5, "revision": 0,
        "flags": '{"a": true, "b": true}', "last_error": None, "locked_at": None, "task_id": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    await forwarding.execute("select graphile_worker.add_job(identifier := 'mail', payload := $1)", PAYLOAD)
    first, second = await our_jobs(forwarding)
    names = ("queue", "key", "serial", "run_at", "max_attempts", "priority", "flags", "payload")
    assert [first[name] for name in names] == ["mail", "k", "lane", LATER, 3, -5, ["a", "b"], PAYLOAD]
    assert (second["key"], second["max_attempts"]) == (None, 25)
    assert await old.jobs() == []


async def test_a_call_that_had_begun_before(cli: Cli, connection: asyncpg.Connection, connect: Connect) -> None:
    """Its job is in Graphile Worker's table when it commits, and is fetched from there."""
    await cli.ok("migrate")
    caller = await connect()
    await caller.execute("begin")
    await caller.execute("select graphile_worker.add_job('mail', $1)", PAYLOAD)
    forwarding = asyncio.ensure_future(cli.ok("migrate", "--forward-graphile"))
    await wait_until(lambda: connection.fetchval(FORWARDED), what="the functions forwarded")
    await connection.execute("select graphile_worker.add_job('mail', $1)", PAYLOAD)
    assert not forwarding.done()
    await caller.execute("commit")
    assert "Took over" in (await forwarding).stdout
    assert 2 == len(await our_jobs(connection))
    # Where they are forwarded already, nobody is waited for.
    await caller.execute("begin; lock table graphile_worker._private_jobs in row exclusive mode")
    assert "at work before" not in (await cli.ok("migrate", "--forward-graphile")).stdout


async def test_keys_and_modes(forwarding: asyncpg.Connection) -> None:
    """One job of a key, replaced or left, as by Graphile Worker; a mode that there is not is an error."""
    add = "select (graphile_worker.add_job('mail', $1, job_key => 'k', job_key_mode => $2)).revision"
    modes = ["replace", "preserve_run_at", "unsafe_dedupe", None]
    assert [await forwarding.fetchval(add, PAYLOAD, mode) for mode in modes] == [0, 1, 2, 3]
    with pytest.raises(asyncpg.PostgresError, match="job_key_mode must be"):
        await forwarding.fetchval(add, PAYLOAD, "merge")
    assert len(await our_jobs(forwarding)) == 1


async def test_add_jobs_adds_here(forwarding: asyncpg.Connection, old: Original) -> None:
    """An array of Graphile Worker's own type, in its order."""
    rows = await forwarding.fetch(
        """
        select id, key, flags from graphile_worker.add_jobs(array[
            ('mail', $1, 'lane', $2, 3, null, 7, '{x}')::graphile_worker.job_spec,
            ('mail', $1, null, null, null, 'k', null, null)::graphile_worker.job_spec
        ])
        """,
        PAYLOAD,
        LATER,
    )
    assert [tuple(row) for row in rows] == [(1, None, '{"x": true}'), (2, "k", None)]
    first, second = await our_jobs(forwarding)
    assert (first["serial"], first["run_at"], first["priority"], first["flags"]) == ("lane", LATER, 7, ["x"])
    assert (second["key"], second["priority"]) == ("k", 0)
    await forwarding.execute(
        "select graphile_worker.add_jobs("
        "array[('mail', $1, null, null, null, 'k', null, null)::graphile_worker.job_spec], true)",
        PAYLOAD,
    )
    assert [row["revision"] for row in await our_jobs(forwarding)] == [0, 1]
    assert await old.jobs() == []


async def test_remove_job_removes_here(forwarding: asyncpg.Connection) -> None:
    """What was taken over or added under a key, and null where there is none."""
    await forwarding.execute("select graphile_worker.add_job('mail', $1, job_key => 'k')", PAYLOAD)
    assert await forwarding.fetchval("select (graphile_worker.remove_job('k')).key") == "k"
    assert await forwarding.fetchval("select graphile_worker.remove_job('k') is null")
    assert await forwarding.fetchval("select graphile_worker.remove_job(null) is null")
    assert await our_jobs(forwarding) == []


async def test_a_trigger_adds_jobs_and_they_roll_back_with_its_row(forwarding: asyncpg.Connection) -> None:
    """What the forwarders are for."""
    await forwarding.execute(
        """
        create table orders (id integer);
        create function ordered() returns trigger language plpgsql as $$
        begin
            perform graphile_worker.add_job('mail', json_build_object(
                'url', 'http://127.0.0.1:9/', 'event', 'shop/order', 'data', json_build_object('id', new.id)));
            return new;
        end $$;
        create trigger ordered after insert on orders for each row execute function ordered();
        """
    )
    await forwarding.execute("insert into orders values (1)")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await forwarding.execute("insert into orders values (2), (1 / 0)")
    assert [json.loads(job["payload"])["data"] for job in await our_jobs(forwarding)] == [{"id": 1}]


async def test_a_payload_without_a_url_is_refused(forwarding: asyncpg.Connection) -> None:
    """With our own error, and not forgotten as in the original."""
    with pytest.raises(asyncpg.PostgresError, match="the payload has no usable url"):
        await forwarding.execute("select graphile_worker.add_job('mail', '{}')")


async def test_they_run_with_their_callers_rights(
    forwarding: asyncpg.Connection, cluster: Cluster, connect: Connect, cli: Cli
) -> None:
    """A role that could not add a job to Graphile Worker's tables cannot add one through them, until it is granted."""
    database = await forwarding.fetchval("select current_database()")
    role = f"trigger_role_{database}"
    await forwarding.execute(f"create role {role} login password 'x'; grant usage on schema graphile_worker to {role}")
    app = await connect(cluster.url(database, role).replace(cluster.password, "x"))
    add = "select graphile_worker.add_job('mail', $1)"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(add, PAYLOAD)
    await cli.ok("migrate", "--app-role", role)
    await app.execute(add, PAYLOAD)
    assert len(await our_jobs(forwarding)) == 1


async def test_they_are_put_back_as_they_were(cli: Cli, connection: asyncpg.Connection, old: Original) -> None:
    """However often they were set: to the letter, with their rights; a run without the option leaves them alone."""
    await connection.execute("grant execute on function graphile_worker.remove_job to pg_monitor")
    before = await functions(connection)
    for _ in range(2):
        await cli.ok("migrate", "--forward-graphile")
    forwarded = await functions(connection)
    assert [(name, rights) for name, _, rights in forwarded] == [(name, rights) for name, _, rights in before]
    assert sum(one != other for one, other in zip(before, forwarded, strict=True)) == 3
    await cli.ok("migrate")
    assert await functions(connection) == forwarded
    for _ in range(2):
        await cli.ok("migrate", "--no-forward-graphile")
        assert await functions(connection) == before
    await old.add()
    assert (len(await old.jobs()), await our_jobs(connection)) == (1, [])


async def test_a_release_of_graphile_worker_that_made_its_own_again(cli: Cli, connection: asyncpg.Connection) -> None:
    """Setting the forwarders again keeps the newest of its functions."""
    await cli.ok("migrate", "--forward-graphile")
    await connection.execute(
        "create or replace function graphile_worker.remove_job(job_key text) returns graphile_worker._private_jobs "
        "language plpgsql strict as $$ begin return null; end $$"
    )
    newer = await functions(connection)
    await cli.ok("migrate", "--forward-graphile")
    await cli.ok("migrate", "--no-forward-graphile")
    after = {name: text for name, text, _ in await functions(connection)}
    assert [text for name, text, _ in newer if "remove_job" in name] == [
        text for name, text in after.items() if "remove_job" in name
    ]
    assert "slayq" not in "".join(after.values())


@pytest.mark.parametrize(("option", "code"), [("--forward-graphile", 78), ("--no-forward-graphile", 0)])
async def test_without_graphile_worker(
    cli: Cli, empty_database_url: str, connect: Callable[..., Awaitable[asyncpg.Connection]], option: str, code: int
) -> None:
    """Nothing can be forwarded, and nothing is changed; putting back finds nothing."""
    finished = await cli("migrate", option, "--database-url", empty_database_url)
    assert finished.code == code
    assert ("the database has no Graphile Worker" in finished.stderr) == (code == 78)
    connection = await connect(empty_database_url)
    assert (await connection.fetchval("select to_regclass('slayq.migration')") is None) == (code == 78)
