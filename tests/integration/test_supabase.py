"""The six functions as apps on Supabase call them: by name, through PostgREST, with the client `postgrest` of PyPI."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from postgrest import APIError, AsyncPostgrestClient

from slayq_server.db import migrate as migrations
from tests.support.daemon import Daemons, until_no_jobs
from tests.support.postgrest import PostgRest, supabase_roles
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import asyncpg

    from slayq_server.dev.cluster import Cluster
    from tests.conftest import Connect, StartProgram
    from tests.support.endpoint import Endpoint

DOCS = Path(__file__).parents[2] / "docs" / "supabase.md"
PAYLOAD = {"url": "https://app.example.com/slayq", "retry": 0, "event": "shop/order", "data": {"n": 5}}
LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
PARKED = {"identifier": "mail", "payload": {**PAYLOAD, "cache": {}}, "job_key": "k", "run_at": LATER}
WAIT = {
    "_job_key": "k",
    "_event": "shop/paid",
    "_match_key": "n",
    "_match_value": "5",
    "_step_name": "paid",
    "_expires_at": LATER,
}
CALLS: dict[str, dict[str, Any]] = {
    "add_worker_job": PARKED,
    "wait_for_worker_event": WAIT,
    "wait_for_invocation": {"_invoker_job_key": "k", "_target_job_key": "callee", "_step_name": "answer"},
    "trigger_waiting_workers": {"_event": "shop/paid", "_match_key": "n", "_match_value": "5"},
    "trigger_waiting_invoker": {"_job_key": "callee", "_result": {"a": [1, None]}},
    "cancel_pending_tasks": {"event": "shop/order", "matchkey": "n", "matchval": "5"},
}


class Api:
    """Calls functions as one role."""

    def __init__(self, client: AsyncPostgrestClient) -> None:
        self._client = client

    async def __call__(self, function: str, arguments: dict[str, Any] | None = None, **more: Any) -> None:
        """Calls a function, which must return nothing."""
        assert [] == (await self._client.rpc(function, {**(arguments or {}), **more}).execute()).data


@pytest.fixture
async def supabase(connect: Connect, cluster: Cluster, empty_database_url: str) -> AsyncIterator[str]:
    """The URL of a database such as Supabase gives to a project, migrated."""
    async with supabase_roles(await connect(empty_database_url), cluster.password):
        await migrations.migrate(empty_database_url)
        yield empty_database_url


@pytest.fixture
async def connection(connect: Connect, supabase: str) -> asyncpg.Connection:
    """A connection to that database, as its owner."""
    return await connect(supabase)


@pytest.fixture
async def postgrest(supabase: str) -> AsyncIterator[PostgRest]:
    """The HTTP API of that database."""
    async with PostgRest(supabase) as running:
        yield running


@pytest.fixture
async def api(postgrest: PostgRest) -> AsyncIterator[Api]:
    """Calls functions with the service role's token."""
    async with calling(postgrest, "service_role") as made:
        yield made


def calling(postgrest: PostgRest, role: str | None) -> AbstractAsyncContextManager[Api]:
    """Calls functions with a role's token, or without any."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[Api]:
        async with AsyncPostgrestClient(postgrest.url, headers=postgrest.headers(role)) as client:
            yield Api(client)

    return connected()


async def job(connection: asyncpg.Connection) -> tuple[Any, ...] | None:
    """The only job: queue, serial queue, state, attempts at the most, key, priority, flags, what waits have brought."""
    row = await connection.fetchrow(
        "select queue, serial_queue, state, max_attempts, job_key, priority, flags, patches::text as patches"
        " from slayq.job"
    )
    return None if row is None else tuple(row)


async def test_a_job_with_all_its_arguments(api: Api, connection: asyncpg.Connection) -> None:
    """Numbers, times, lists and texts arrive as they were meant; the call returns nothing."""
    await api(
        "add_worker_job",
        identifier="mail",
        payload=PAYLOAD,
        queue_name="lane",
        run_at=LATER,
        max_attempts=7,
        job_key="k",
        priority=-3,
        flags=["gpu", "big"],
        job_key_mode="preserve_run_at",
    )
    assert ("mail", "lane", "scheduled", 7, "k", -3, ["gpu", "big"], None) == await job(connection)
    assert LATER == (await connection.fetchval("select run_at from slayq.job")).isoformat()
    assert 5 == await connection.fetchval("select (payload -> 'data' ->> 'n')::int from slayq.job")


@pytest.mark.parametrize(
    "left_out",
    [
        {},
        dict.fromkeys(("queue_name", "run_at", "max_attempts", "job_key", "priority", "flags", "job_key_mode")),
        dict.fromkeys(("run_at", "job_key_mode")),
    ],
    ids=["left out", "null", "some null"],
)
async def test_a_job_with_defaults(api: Api, connection: asyncpg.Connection, left_out: dict[str, None]) -> None:
    """An argument that is left out and one that is null are the same."""
    await api("add_worker_job", {"identifier": "mail", "payload": PAYLOAD, **left_out})
    queue, serial, state, _, key, priority, flags, _ = await job(connection) or ()
    assert ("mail", None, "ready", None, 0, None) == (queue, serial, state, key, priority, flags)


async def test_an_event_wakes_who_waits(api: Api, connection: asyncpg.Connection) -> None:
    """wait_for_worker_event, then trigger_waiting_workers: the parked job is due, its step is true."""
    await api("add_worker_job", PARKED)
    await api("wait_for_worker_event", WAIT)
    await api("trigger_waiting_workers", _event="shop/paid", _match_key="n", _match_value="6")
    assert "scheduled" == await connection.fetchval("select state from slayq.job")
    await api("trigger_waiting_workers", _event="shop/paid", _match_key="n", _match_value=5)
    assert ("ready", '[["paid", true]]') == tuple(
        await connection.fetchrow("select state, patches::text from slayq.job")
    )


@pytest.mark.parametrize(
    ("result", "expected"),
    [(None, "null"), (0, "0"), ("null", '"null"'), ({"a": [1, None]}, '{"a":[1,null]}'), ([], "[]")],
)
async def test_a_callee_answers_its_invoker(
    api: Api, connection: asyncpg.Connection, result: object, expected: str
) -> None:
    """trigger_waiting_invoker: the result is the step's. Null arrives as SQL null, and is JSON null all the same."""
    await api("add_worker_job", PARKED)
    await api("wait_for_invocation", _invoker_job_key="k", _target_job_key="callee", _step_name="answer")
    await api("trigger_waiting_invoker", _job_key="callee", _result=result)
    patches = await connection.fetchval("select patches::text from slayq.job where state = 'ready'")
    assert f'[["answer",{expected}]]' == patches.replace(" ", "")


async def test_cancelling(api: Api, connection: asyncpg.Connection) -> None:
    """cancel_pending_tasks: the value may be a number, as in the data."""
    await api("add_worker_job", PARKED)
    await api("cancel_pending_tasks", event="shop/order", matchkey="n", matchval=6)
    assert None is not await job(connection)
    await api("cancel_pending_tasks", event="shop/order", matchkey="n", matchval=5)
    assert None is await job(connection)


@pytest.mark.parametrize("function", list(CALLS))
@pytest.mark.parametrize(("role", "status"), [(None, 401), ("anon", 401), ("authenticated", 403)])
async def test_nobody_else_may_call(
    postgrest: PostgRest, connection: asyncpg.Connection, function: str, role: str | None, status: int
) -> None:
    """Browsers hold the tokens of anon and authenticated: all six are refused, whatever public gives away."""
    async with calling(postgrest, role) as api:
        with pytest.raises(APIError) as refused:
            await api(function, CALLS[function])
    assert ("42501", f"permission denied for function {function}") == (refused.value.code, refused.value.message)
    assert [status] == postgrest.statuses
    assert None is await job(connection)


@pytest.mark.parametrize("function", list(CALLS))
async def test_the_service_role_may_call(postgrest: PostgRest, api: Api, function: str) -> None:
    """Each of the six, by the names of its arguments: 204, nothing."""
    await api(function, CALLS[function])
    assert [204] == postgrest.statuses


@pytest.mark.parametrize(
    ("function", "changes", "code"),
    [
        ("add_worker_job", {"payload": {"event": "e"}}, "SQ001"),
        ("add_worker_job", {"payload": None}, "SQ001"),
        ("add_worker_job", {"job_key": "x" * 513}, "SQ003"),
        ("add_worker_job", {"job_key_mode": "sometimes"}, "SQ004"),
        ("add_worker_job", {"priority": 99_999}, "SQ005"),
        ("add_worker_job", {"identifier": ""}, "SQ006"),
        ("wait_for_worker_event", {"_match_value": None}, "SQ007"),
    ],
)
async def test_what_is_wrong_is_told(
    postgrest: PostgRest,
    api: Api,
    connection: asyncpg.Connection,
    function: str,
    changes: dict[str, Any],
    code: str,
) -> None:
    """400 with a code, a message and a hint, as the client's error has them."""
    with pytest.raises(APIError) as refused:
        await api(function, {**CALLS[function], **changes})
    assert [400] == postgrest.statuses
    assert code == refused.value.code
    assert refused.value.message
    assert refused.value.hint
    assert None is await job(connection)


def example(beginning: str) -> str:
    """The SQL example of docs/supabase.md that begins so."""
    (found,) = [
        each for each in re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL) if each.startswith(beginning)
    ]
    return str(found)


async def test_the_documented_check_finds_who_could_call(connection: asyncpg.Connection, supabase: str) -> None:
    """No row after a migration; one for what somebody has granted since, until the next migration."""
    check = example("select role, function").replace("::regprocedure", "::regprocedure::text")
    assert [] == await connection.fetch(check)
    await connection.execute("grant execute on function public.cancel_pending_tasks to anon")
    expected = [("anon", "cancel_pending_tasks(text,text,text)")]
    assert expected == [tuple(row) for row in await connection.fetch(check)]
    await migrations.migrate(supabase)
    assert [] == await connection.fetch(check)


async def test_the_documented_trigger_adds_jobs_for_users(connection: asyncpg.Connection) -> None:
    """A signed-in user's row becomes a job, though the user may not add any."""
    await connection.execute("create table public.profiles (id int)")
    await connection.execute(example("create function public.welcome"))
    await connection.execute("set role authenticated")
    await connection.execute("insert into public.profiles values (7)")
    await connection.execute("reset role")
    assert '{"user" : 7}' == await connection.fetchval("select payload ->> 'data' from slayq.job where queue = 'mail'")


async def test_a_migration_outlasts_the_roles_limit(connect: Connect, empty_database_url: str) -> None:
    """Supabase bounds every statement of a role: one that waits for another migration goes on all the same."""
    connection = await connect(empty_database_url)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set statement_timeout = '100ms'")
    holder = connection.transaction()
    await holder.start()
    await connection.execute(migrations.LOCK)
    watcher = await connect(empty_database_url)

    async def waits_for_long() -> bool:
        return bool(
            await watcher.fetchval(
                "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
                " and datname = current_database() and clock_timestamp() - query_start > interval '200 milliseconds')"
            )
        )

    async with asyncio.TaskGroup() as group:
        migrating = group.create_task(migrations.migrate(empty_database_url))
        await wait_until(waits_for_long)
        await holder.rollback()
    assert migrations.load() == migrating.result()


async def test_an_app_that_invokes_and_is_answered_with_nothing(
    supabase: str,
    connection: asyncpg.Connection,
    api: Api,
    start_program: StartProgram,
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    """From inside real callbacks: the invoker parks itself, the callee returns null, the invoker goes on."""
    caches: list[Any] = []

    async def app(callback: Any) -> int:
        payload = {"url": endpoint.url, "retry": 0, "event": "shop/callee", "data": {}}
        if callback.event == "shop/callee":
            await api("trigger_waiting_invoker", _job_key=callback.job_key, _result=None)
        elif "cache" not in callback.body:
            parked = {**payload, "event": "shop/invoker", "cache": {"first": 1, "answer": False}}
            await api("add_worker_job", identifier="mail", payload=parked, job_key="invoker", run_at=LATER)
            await api("wait_for_invocation", _invoker_job_key="invoker", _target_job_key="callee", _step_name="answer")
            await api("add_worker_job", identifier="mail", payload=payload, job_key="callee")
        else:
            caches.append(callback.body["cache"])
        return 200

    endpoint.handler = app
    await Daemons(start_program, supabase, endpoint.origin, tmp_path).start()
    payload = {"url": endpoint.url, "retry": 0, "event": "shop/invoker", "data": {}}
    await api("add_worker_job", identifier="mail", payload=payload, job_key="invoker")
    await endpoint.wait_for_finished(3)
    await until_no_jobs(connection)
    assert [{"first": 1, "answer": None}] == caches
    assert ["shop/invoker", "shop/callee", "shop/invoker"] == [callback.event for callback in endpoint.received]
