"""Who may do what: Supabase's roles, the roles of the configuration, a daemon's limited role (G6), and hijacking."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import pytest
import pytest_asyncio

from slayq_server.db.admin import Admin
from slayq_server.db.migrate import ensure, migrate
from slayq_server.db.pool import Pool
from slayq_server.db.rpc import AppCalls
from slayq_server.db.schedules import Schedules
from slayq_server.db.statements import names, query
from slayq_server.db.store import Store
from slayq_server.errors import DatabaseUnavailable, SchemaError
from slayq_server.model import LeaseRequest, Op, Outcome, OutcomeKind, QueueFacts, RunVerdict, RunWrite
from tests.sql.support import QUEUE, URL, add, completed, count, payload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from slayq_server.dev.cluster import Cluster
    from tests.conftest import Connect

SUPABASE = ("anon", "authenticated", "service_role")


def manifest(app: str) -> str:
    """The manifest of an app with one function, cancelled by an event that it may also wait for."""
    stop = {"event": f"{app}/stop", "match": "n"}
    function = {"event": f"{app}/run", "cron": "0 3 * * *", "cancel_on": [stop], "waits_on": [stop]}
    return json.dumps({"app": app, "url": URL, "functions": [function]})


PUBLIC_CALLS = {
    "add_worker_job": f"select public.add_worker_job('mail', '{payload({'n': 1})}', job_key => 'k')",
    "wait_for_worker_event": "select public.wait_for_worker_event('k', 'e', 'm', 'v', 's', now())",
    "wait_for_invocation": "select public.wait_for_invocation('k', 'callee', 's')",
    "trigger_waiting_workers": "select public.trigger_waiting_workers('e', 'm', 'v')",
    "trigger_waiting_invoker": "select public.trigger_waiting_invoker('callee', 'null')",
    "cancel_pending_tasks": "select public.cancel_pending_tasks('shop/order', 'n', '1')",
    "slayq_register": f"select public.slayq_register('{manifest('b')}')",
    "slayq_send": "select public.slayq_send('b/run', '{\"n\": 1}', 'once', now(), 1)",
    "slayq_send_many": 'select public.slayq_send_many(\'[{"event": "b/stop", "data": {"n": 1}}]\')',
    "slayq_cancel": "select public.slayq_cancel('00000000-0000-4000-8000-000000000000')",
}
API_CALLS = {
    "add_job": f"select slayq.add_job('mail', '{payload()}')",
    "add_jobs": (
        f"select slayq.add_jobs(array[row('mail', '{payload()}', null, null, 1, 'x', 0, null)::slayq.job_spec])"
    ),
    "remove_job": "select slayq.remove_job('x')",
    "complete_jobs": "select slayq.complete_jobs(array[1])",
    "permanently_fail_jobs": "select slayq.permanently_fail_jobs(array[1], 'no')",
    "reschedule_jobs": "select slayq.reschedule_jobs(array[1], run_at => now())",
    "force_unlock_workers": "select slayq.force_unlock_workers(array['nobody'])",
    "register": f"select slayq.register('{manifest('a')}')",
    "send": "select slayq.send('a/run', '{\"n\": 1}')",
    "send_many": 'select slayq.send_many(\'[{"event": "a/stop", "data": {"n": 1}}]\')',
    "cancel": "select slayq.cancel('00000000-0000-4000-8000-000000000000')",
}
OURS = """
    select p.oid::regprocedure::text as signature, p.oid, p.proname as name, n.nspname as schema, p.prosecdef,
        p.proconfig
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('slayq', 'public')"""


@contextlib.asynccontextmanager
async def roles(admin: asyncpg.Connection, *statements: str, made: tuple[str, ...]) -> AsyncIterator[None]:
    """Roles for the length of a test. They belong to the whole server: nothing of them may be left in any database."""
    try:
        for statement in statements:
            await admin.execute(statement)
        yield
    finally:
        await admin.execute("reset role; reset search_path")
        for role in made:
            await admin.execute(f'drop owned by "{role}" cascade')
            await admin.execute(f'drop role "{role}"')


@pytest_asyncio.fixture
async def supabase(connect: Connect, empty_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A database like Supabase's, in which every new function and table of public is everybody's; migrated."""
    admin = await connect(empty_database_url)
    everyone = ", ".join(SUPABASE)
    async with roles(
        admin,
        *(f"create role {role} nologin" for role in SUPABASE),
        f"grant usage on schema public to {everyone}",
        *(
            f"alter default privileges in schema public grant all on {what} to {everyone}"
            for what in ("functions", "tables", "sequences")
        ),
        made=SUPABASE,
    ):
        await migrate(empty_database_url)
        yield admin


async def denied(connection: asyncpg.Connection, statement: str) -> bool:
    """Whether a statement is refused for want of a right."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


async def executable(connection: asyncpg.Connection, role: str) -> set[str]:
    """The functions of ours that a role has the right to execute, however it got it."""
    rows = await connection.fetch(
        f"select * from ({OURS}) as ours where has_function_privilege($1, oid, 'execute')", role
    )
    return {f"{row['schema']}.{row['name']}" for row in rows}


API = {f"public.{name}" for name in PUBLIC_CALLS} | {f"slayq.{name}" for name in API_CALLS}


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_outsiders_can_execute_nothing(supabase: asyncpg.Connection, role: str) -> None:
    """Neither by their rights nor in fact, whatever the default privileges gave away; tables and view included."""
    assert await executable(supabase, role) == set()
    await supabase.execute(f"set role {role}")
    for statement in (*PUBLIC_CALLS.values(), *API_CALLS.values(), "select slayq._grant_1('{}', '{}')"):
        assert await denied(supabase, statement), statement
    for relation in ("jobs", "job", "dead_letter", "worker", "wait", "migration"):
        assert await denied(supabase, f"select from slayq.{relation}")
    await supabase.execute("reset role")
    assert await count(supabase) == 0


async def test_service_role_can_execute_the_api(supabase: asyncpg.Connection) -> None:
    """The six public functions and the API under slayq, by its rights and in fact; no private function, no table."""
    assert await executable(supabase, "service_role") == API
    await supabase.execute("set role service_role")
    for statement in (*PUBLIC_CALLS.values(), *API_CALLS.values()):
        await supabase.execute(statement)
    await supabase.execute(PUBLIC_CALLS["add_worker_job"])
    assert await supabase.fetchval("select key from slayq.jobs where key = 'k'") == "k"
    assert await denied(supabase, "select from slayq.job")
    assert await denied(supabase, "select slayq._cancel_1('a', 'b', 'c')")
    assert await denied(supabase, "delete from slayq.jobs")
    await supabase.execute("reset role")
    assert await count(supabase, where="job_key = 'k' and state = 'ready'") == 1


async def test_grants_survive_another_migrate(supabase: asyncpg.Connection, empty_database_url: str) -> None:
    """What was given stays given, what was taken stays taken; a grant made behind our back is taken again."""
    await supabase.execute("create role mailer nologin")
    async with roles(supabase, made=("mailer",)):
        await migrate(empty_database_url, app_roles=["mailer"])
        await supabase.execute("grant execute on all functions in schema public to anon, public")
        assert await executable(supabase, "anon") != set()
        await migrate(empty_database_url)

        assert await executable(supabase, "anon") == await executable(supabase, "authenticated") == set()
        assert await executable(supabase, "service_role") == await executable(supabase, "mailer") == API


async def test_roles_of_the_configuration(connect: Connect, empty_database_url: str) -> None:
    """Named roles get the API, however they are spelled; without Supabase's roles that is all there is."""
    admin = await connect(empty_database_url)
    name = 'The "App" role, é'
    quoted = name.replace('"', '""')
    async with roles(admin, f'create role "{quoted}" nologin', made=(quoted,)):
        await migrate(empty_database_url, app_roles=[name])
        assert await executable(admin, name) == API
        await migrate(empty_database_url)
        assert await executable(admin, name) == API
        await admin.execute(f'set role "{quoted}"')
        for statement in (*PUBLIC_CALLS.values(), *API_CALLS.values()):
            await admin.execute(statement)
        await admin.execute("reset role")


async def test_a_role_that_was_dropped(connect: Connect, empty_database_url: str) -> None:
    """A role that was granted once and is gone does not stop a later migrate."""
    admin = await connect(empty_database_url)
    async with roles(admin, "create role leaver nologin", made=("leaver",)):
        await migrate(empty_database_url, app_roles=["leaver"], server_roles=["leaver"])
    assert await migrate(empty_database_url) == ()


async def test_functions_with_rights_pin_their_search_path(connection: asyncpg.Connection) -> None:
    """Each SECURITY DEFINER function looks names up in pg_catalog first, in pg_temp last. No private one has rights.

    But for the trigger at a run's end: it fires at commit, when the rights of the function that ended it are gone.
    """
    ours = await connection.fetch(OURS)
    definers = [row for row in ours if row["prosecdef"]]
    assert {f"{row['schema']}.{row['name']}" for row in definers} == API | {"slayq._run_ended_1"}
    for row in definers:
        assert "search_path=pg_catalog, pg_temp" in (row["proconfig"] or []), row["signature"]


TYPES = "text, json, timestamptz, integer, bigint, boolean, interval, double precision, numeric, text[], bigint[], name"

# A schema that has a trap of the same name and types for every operator and function of pg_catalog that takes only
# these types: whoever looks in it first steps into it.
TRAPS = f"""
do $do$
declare
    known constant oid[] := array(
        select to_regtype(trim(name))::oid from unnest(string_to_array('{TYPES}', ',')) as name
    ) || array['json'::regtype::oid, 'anyarray'::regtype::oid, 'anyelement'::regtype::oid];
    op record;
    fn record;
begin
    for op in
        select distinct oprname, oprleft, oprright from pg_operator
        where oprnamespace = 'pg_catalog'::regnamespace and oprkind = 'b'
            and oprleft = any (known) and oprright = any (known)
    loop
        execute format('create or replace function evil.trap(%s, %s) returns boolean language plpgsql as '
            '$trap$ begin raise exception ''hijacked by an operator''; end $trap$',
            op.oprleft::regtype, op.oprright::regtype);
        execute format('create operator evil.%s (function = evil.trap, leftarg = %s, rightarg = %s)',
            op.oprname, op.oprleft::regtype, op.oprright::regtype);
    end loop;
    for fn in
        select proname, oidvectortypes(proargtypes) as arguments, prorettype::regtype as result from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and not proretset and provariadic = 0
            and proargtypes::oid[] <@ known and prorettype = any (known)
            and not (prorettype in ('anyarray'::regtype, 'anyelement'::regtype)
                and not proargtypes::oid[] && array['anyarray'::regtype::oid, 'anyelement'::regtype::oid])
            and proname !~ '^pg_.*(read|ls|stat)_'
    loop
        execute format('create function evil.%I(%s) returns %s language plpgsql as '
            '$trap$ begin raise exception ''hijacked by a function''; end $trap$', fn.proname, fn.arguments, fn.result);
    end loop;
end
$do$"""


async def test_a_caller_cannot_hijack_what_runs_with_rights(supabase: asyncpg.Connection) -> None:
    """Operators, functions and tables of the caller's own, first in its search_path, are never taken for Postgres's."""
    await supabase.execute("create schema evil; grant all on schema evil to service_role")
    await supabase.execute("set role service_role")
    await supabase.execute(TRAPS)
    for table in ("job", "wait", "trigger", "queue", "worker", "dead_letter"):
        await supabase.execute(f"create temporary table {table} (id text, name text, job_key text, state text)")
    await supabase.execute("create domain pg_temp.bigint as text; create domain pg_temp.jobs as text")
    traps = await supabase.fetchrow(
        "select (select count(*) from pg_operator where oprnamespace = 'evil'::regnamespace) as operators, "
        "(select count(*) from pg_proc where pronamespace = 'evil'::regnamespace) as functions"
    )
    assert traps is not None
    assert (traps["operators"] > 100, traps["functions"] > 400) == (True, True)

    await supabase.execute("set search_path = evil, pg_temp, pg_catalog")
    with pytest.raises(asyncpg.RaiseError, match="hijacked by a function"):
        await supabase.execute("select now()")
    with pytest.raises(asyncpg.RaiseError, match="hijacked by an operator"):
        await supabase.execute("select 1 + 1")
    plain = [each.replace("now()", "'2030-01-01'") for each in (*PUBLIC_CALLS.values(), *API_CALLS.values())]
    continuation = payload({"n": 1}, cache={"s": 1})
    for statement in (
        f"select public.add_worker_job('mail', '{continuation}', job_key => 'k', run_at => '2040-01-01')",
        *plain,
        f"select public.add_worker_job('mail', '{payload({'n': 0.1})}', 'lane', '2040-01-01', 1, 'k', 1, null, null)",
    ):
        await supabase.execute(statement)
    await supabase.execute("reset role; reset search_path")
    assert await count(supabase, where="job_key = 'k'") == 1


@pytest_asyncio.fixture
async def limited(connect: Connect, cluster: Cluster, empty_database_url: str) -> AsyncIterator[str]:
    """A database migrated by an owner who is no superuser, for a server role that can only use it: that role's URL."""
    admin = await connect(empty_database_url)
    database = await admin.fetchval("select current_database()")
    login = f"login nosuperuser password '{cluster.password}'"
    async with roles(
        admin,
        f"create role slayq_owner {login}",
        f"create role slayq_daemon {login}",
        f"alter database {database} owner to slayq_owner",
        "alter schema public owner to slayq_owner",
        made=("slayq_daemon", "slayq_owner"),
    ):
        await migrate(cluster.url(database, "slayq_owner"), server_roles=["slayq_daemon"])
        yield cluster.url(database, "slayq_daemon")
        await admin.execute("alter schema public owner to postgres")
        await admin.execute(f"alter database {database} owner to postgres")


async def test_the_store_works_under_a_limited_role(connect: Connect, limited: str) -> None:
    """G6: a daemon with a role that can only use the schema: every method of the store works."""
    caller = await connect(limited)
    pool = Pool(limited)
    await pool.open()
    try:
        store = Store(pool)
        await add(caller, "k", {"n": 1})
        await add(caller, serial="lane", max_attempts=1)
        worker = await store.register_worker("daemon", "0", [QUEUE], 60.0)

        async def settle() -> object:
            (leased,) = await store.lease(worker, [LeaseRequest((QUEUE,), 1)])
            return await store.settle(worker, [completed(leased)], keep_done=True)

        async def flush() -> object:
            app_calls = AppCalls(pool, at_once=1)
            functions = [
                {"event": event, "queue": "runs", "waits_on": [{"event": "paid", "match": "id"}]} for event in "ef"
            ]
            await app_calls.register(json.dumps({"app": "a", "url": URL, "functions": functions}), [])
            (run, other), _ = await app_calls.send('[{"event":"e","data":{}},{"event":"e","data":{}}]', [])
            assert (await app_calls.cancel(str(other), []))[0]
            (leased,) = await store.lease(worker, [LeaseRequest(("runs",), 1)])
            assert leased.run is not None
            assert run == leased.run.id
            ops = (
                Op("step", "a", "1"),
                Op("send", "b", '[{"event":"f","data":{}}]'),
                Op("wait", "c", event="paid", key="id", match_value="1"),
                Op("invoke", "d", "{}", event="f"),
            )
            end = Outcome(OutcomeKind.SUSPENDED)
            flushed = await store.flush(worker, [RunWrite(leased.id, leased.lease, leased.run.seen, ops, end)])
            assert {leased.id: RunVerdict("settled")} == flushed.verdicts
            return flushed

        calls: dict[str, Callable[[], object]] = {
            "register_worker": lambda: store.register_worker("another", "0", [], 60.0),
            "renew_worker": lambda: store.renew_worker(worker, 60.0, [QUEUE]),
            "want": lambda: store.want(worker, [QUEUE]),
            "lease": lambda: store.lease(worker, [LeaseRequest((QUEUE,), 0)]),
            "settle": settle,
            "flush": flush,
            "match_events": lambda: store.match_events(10, 0),
            "cancelled_runs": lambda: store.cancelled_runs(worker),
            "release_unknown": lambda: store.release_unknown(worker, []),
            "bring_forward": lambda: store.bring_forward("https://app.example.com", 10, [QUEUE]),
            "promote": lambda: store.promote(10),
            "advance_headless_lanes": lambda: store.advance_headless_lanes(10),
            "notify": lambda: store.notify([QUEUE]),
            "knock": lambda: store.knock("slayq_knock"),
            "register_queues": lambda: store.register_queues([QueueFacts(QUEUE, 1, 1.0, 1.0, 1, 1.0, 0.0, False)]),
            "register_slots": lambda: store.register_slots(QUEUE, 2),
            "acquire_slots": lambda: store.acquire_slots(worker, QUEUE, 2, 2),
            "release_slots": lambda: store.release_slots(worker, QUEUE, 1),
            "prune": lambda: store.prune("prune_dead", 1.0, 10),
            "snapshot": store.snapshot,
            "may_vacuum": store.may_vacuum,
            "vacuum": store.vacuum,
            "retire_worker": lambda: store.retire_worker(worker),
            "reap": lambda: store.reap(10),
        }
        for call in calls.values():
            await call()  # type: ignore[misc]
        assert not await store.may_vacuum()
        assert {name for name, method in vars(Store).items() if callable(method) and name[0] != "_"} == calls.keys()
        await Schedules(pool).plan("none", "* * * * *", datetime.now(UTC))
        assert [] == await Schedules(pool).functions()
        async with Schedules(pool).firing(["tick"]) as firing:
            assert firing.due == []
        assert await Admin(pool).queues() != []
    finally:
        await pool.close()


async def test_every_statement_may_be_prepared_by_a_limited_role(connect: Connect, limited: str) -> None:
    """G6: no statement of a daemon needs more than that role has (rights on tables are checked when it runs)."""
    connection = await connect(limited)
    for name in names():
        await connection.prepare(query(name))
    rights = await connection.fetch(
        "select c.relname, r.name as right, has_table_privilege(c.oid, r.name) as has from pg_class c, "
        "unnest(array['select', 'insert', 'update', 'delete']) as r (name) "
        "where c.relnamespace = 'slayq'::regnamespace and c.relkind = 'r'"
    )
    missing = {(row["relname"], row["right"]) for row in rights if not row["has"]}
    assert missing == {
        (name, right)
        for name in ("migration", "grantee", "replaced_function")
        for right in ("insert", "update", "delete")
    }


async def test_a_limited_role_can_do_no_more(connect: Connect, limited: str) -> None:
    """G6: it starts a daemon on a schema that is up to date, and can neither migrate nor change what is installed."""
    assert await ensure(limited) > 0
    with pytest.raises(SchemaError, match=r"lacks a right .*migrate --server-role"):
        await migrate(limited)
    connection = await connect(limited)
    for statement in (
        "create table slayq.mine ()",
        "drop table slayq.job",
        "alter table slayq.job add column mine text",
        "create or replace function slayq._lock_term_1(term bigint) returns void language sql as 'select'",
        "update slayq.migration set checksum = ''",
        "insert into slayq.grantee values ('anon', 'app')",
        "truncate slayq.job",
    ):
        assert await denied(connection, statement), statement


async def test_a_role_without_any_right(connect: Connect, cluster: Cluster, database_url: str) -> None:
    """G6: a daemon's start under a role that was never granted anything says what to do."""
    admin = await connect(database_url)
    database = await admin.fetchval("select current_database()")
    login = f"create role slayq_stranger login password '{cluster.password}'"
    async with roles(admin, login, made=("slayq_stranger",)):
        with pytest.raises(SchemaError, match=r"lacks a right .*migrate --server-role"):
            await ensure(cluster.url(database, "slayq_stranger"))
    with pytest.raises(DatabaseUnavailable, match="refused the login"):
        await ensure(cluster.url(database, "slayq_stranger"))
