"""Drivers whose server is away, busy, or knows them not: which error it is, and what is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from aiohttp import web

from slayq.drivers.failures import Doing, failure
from slayq.drivers.postgres import PostgresDriver
from slayq.drivers.rpc import RpcDriver
from slayq.drivers.supabase import SupabaseDriver
from slayq.errors import (
    InvalidDefinition,
    InvalidEvent,
    InvalidSecret,
    RegistrationFailed,
    SendFailed,
    Unauthorized,
    Unavailable,
    UnknownEvent,
)
from tests.sdk.drivers.shop import SHOP, placed, runs
from tests.sdk.drivers.ways import closing, key_of, postgrest
from tests.support.pgbouncer import PgBouncer
from tests.support.rpc_v2 import SECRET, Daemon, answering, broken_off, refusal
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import asyncpg

    from slayq.drivers import Driver
    from slayq_server.dev.cluster import Cluster

ELSEWHERE: dict[str, Callable[..., Driver]] = {
    "postgres": lambda port, **options: PostgresDriver(f"postgresql://a@127.0.0.1:{port}/b", **options),
    "rpc": lambda port, **options: RpcDriver(f"http://127.0.0.1:{port}", [SECRET], **options),
    "supabase": lambda port, **options: SupabaseDriver(f"http://127.0.0.1:{port}", "key", **options),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
async def test_a_server_that_is_away_is_unavailable(kind: str, unused_port: int) -> None:
    """Whatever is asked of it."""
    async with closing(ELSEWHERE[kind](unused_port, retry_delay=0)) as driver:
        for call in (driver.send([placed()]), driver.cancel(uuid4()), driver.register(SHOP)):
            with pytest.raises(Unavailable):
                await call


@pytest.mark.parametrize("kind", ELSEWHERE)
async def test_a_server_that_says_nothing_is_unavailable(kind: str) -> None:
    """After the driver's time limit."""

    connected: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda _, writer: connected.append(writer), "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with closing(ELSEWHERE[kind](port, timeout=0.5, retries=0)) as driver:
            with pytest.raises(Unavailable):
                await driver.send([placed(id="1")])
        await wait_until(lambda: connected)
        for writer in connected:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


# Logins, secrets, keys


async def test_postgres_does_not_know_the_login(shop: str) -> None:
    """Neither the role, nor what a role may do that was not granted it."""
    async with closing(PostgresDriver(shop.replace("postgres:", "nobody:", 1))) as driver:
        with pytest.raises(Unauthorized):
            await driver.send([placed()])


async def test_postgres_has_not_granted_it(shop: str, connection: asyncpg.Connection) -> None:
    """The advice is how to grant it."""
    await connection.execute("create role stranger login password 'x'")
    try:
        address = shop.partition("@")[2]
        async with closing(PostgresDriver(f"postgresql://stranger:x@{address}")) as driver:
            with pytest.raises(Unauthorized, match="--app-role"):
                await driver.send([placed()])
    finally:
        await connection.execute("drop role stranger")


async def test_the_daemon_does_not_know_the_secret(shop: str) -> None:
    """Nor a message without a good signature."""
    async with Daemon(shop) as daemon, closing(RpcDriver(daemon.url, ["another"])) as driver:
        with pytest.raises(Unauthorized) as raised:
            await driver.send([placed()])
    assert "signature" == raised.value.code
    assert 1 == len(daemon.requests)


async def test_supabase_does_not_know_the_key(shop: str) -> None:
    """A key that it has not made, and one of a role that may not send."""
    async with postgrest(shop) as running:
        stranger = key_of("service_role")[:-4] + "AAAA"
        for key in (stranger, key_of("anon")):
            async with closing(SupabaseDriver(running.url, key, path="")) as driver:
                with pytest.raises(Unauthorized):
                    await driver.send([placed()])


async def test_a_database_without_the_schema(empty_database_url: str) -> None:
    """The error says how to make it, whoever finds it missing."""
    async with closing(PostgresDriver(empty_database_url)) as driver:
        with pytest.raises(SendFailed, match="slayq-server migrate"):
            await driver.send([placed()])
    said = failure("PGRST202", "Could not find the function public.slayq_send_many", doing=Doing.SEND, status=404)
    assert "slayq-server migrate" == str(said.hint).removeprefix("run: ")


# Trying again


@pytest.fixture
async def daemon(shop: str) -> AsyncIterator[Daemon]:
    """A daemon."""
    async with Daemon(shop) as running:
        yield running


@pytest.fixture
async def rpc(daemon: Daemon) -> AsyncIterator[RpcDriver]:
    """A driver that tries again at once."""
    async with closing(RpcDriver(daemon.url, [SECRET], retry_delay=0)) as opened:
        yield opened


async def test_what_has_ids_is_tried_again(daemon: Daemon, rpc: RpcDriver, connection: asyncpg.Connection) -> None:
    """A connection broke before anything was done, then after all was done: there is one run, and its id arrives."""
    daemon.before = [broken_off]
    daemon.after = [broken_off]
    (run,) = await rpc.send([placed(id="order-1")])
    assert [run] == [each["run"] for each in await runs(connection)]
    assert 3 == len(daemon.requests)
    assert 1 == len({headers["webhook-id"] for headers in daemon.requests})


async def test_what_may_have_been_sent_is_not_sent_again(
    daemon: Daemon, rpc: RpcDriver, connection: asyncpg.Connection
) -> None:
    """Without ids, a connection that broke leaves it to the caller."""
    daemon.after = [broken_off]
    with pytest.raises(Unavailable):
        await rpc.send([placed(id="order-1"), placed()])
    assert 1 == len(daemon.requests)
    assert 2 == len(await runs(connection))


async def test_a_cancellation_is_not_asked_for_twice(daemon: Daemon, rpc: RpcDriver) -> None:
    """The second answer would be that there is no such run."""
    daemon.after = [broken_off]
    with pytest.raises(Unavailable):
        await rpc.cancel(uuid4())
    assert 1 == len(daemon.requests)


async def test_registering_is_tried_again(daemon: Daemon, rpc: RpcDriver) -> None:
    """Registering twice is registering once."""
    daemon.before = [broken_off]
    daemon.after = [answering(refusal(503, "database", "the database is away"))]
    assert 1 == (await rpc.register(SHOP)).functions
    assert 3 == len(daemon.requests)


async def test_trying_again_has_an_end(daemon: Daemon, rpc: RpcDriver) -> None:
    """After two retries the error is the caller's."""
    daemon.before = [broken_off] * 4
    with pytest.raises(Unavailable):
        await rpc.register(SHOP)
    assert 3 == len(daemon.requests)


async def test_a_mistake_is_not_tried_again(daemon: Daemon, rpc: RpcDriver) -> None:
    """It would be the same mistake."""
    daemon.before = [answering(refusal(400, "SQ010", "unknown", "Start the app."))]
    with pytest.raises(UnknownEvent, match=r"unknown \(Start the app\.\)"):
        await rpc.send([placed(id="1")])
    assert 1 == len(daemon.requests)


async def test_a_daemon_that_comes_back_within_the_retries(
    daemon: Daemon, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not connect has sent nothing, so it is tried again even without ids."""
    post = httpx.AsyncClient.post
    refused = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")]

    async def flaky(self: httpx.AsyncClient, *arguments: Any, **options: Any) -> httpx.Response:
        if refused:
            raise refused.pop()
        return await post(self, *arguments, **options)

    monkeypatch.setattr(httpx.AsyncClient, "post", flaky)
    async with closing(RpcDriver(daemon.url, [SECRET], retry_delay=0)) as rpc:
        await rpc.send([placed()])
    assert 1 == len(await runs(connection))


ODD: dict[str, tuple[web.Response, type[SendFailed]]] = {
    "a page": (web.Response(text="<html>Log in", content_type="text/html"), SendFailed),
    "other JSON": (web.json_response({"hello": "world"}), SendFailed),
    "too few runs": (web.json_response({"runs": []}), SendFailed),
    "no ids": (web.json_response({"runs": ["x"]}), SendFailed),
    "no list": (web.json_response({"runs": 5}), SendFailed),
    "redirect": (web.Response(status=308, headers={"location": "/elsewhere"}), SendFailed),
    "not found": (web.Response(status=404, text="not found"), SendFailed),
    "a bug": (refusal(500, "internal", "it broke"), SendFailed),
    "gateway": (web.Response(status=502, text="<html>Bad gateway"), Unavailable),
    "busy": (refusal(503, "busy", "too many"), Unavailable),
    "too many": (web.Response(status=429), Unavailable),
    "too large": (refusal(413, "too_large", "too large"), InvalidEvent),
    "bad body": (refusal(400, "body", "what is this"), InvalidEvent),
    "old": (refusal(401, "timestamp", "compare the clocks"), Unauthorized),
    "a proxy's login": (web.Response(status=403, text="<html>who are you"), Unauthorized),
}


@pytest.mark.parametrize("answer", ODD)
async def test_answers_that_are_none(daemon: Daemon, rpc: RpcDriver, answer: str) -> None:
    """A proxy, another server, an error without a code: each is an error that says what happened."""
    response, error = ODD[answer]
    daemon.before = [answering(response)]
    with pytest.raises(SendFailed) as raised:
        await rpc.send([placed()])
    assert error is type(raised.value)


async def test_a_connection_is_kept(daemon: Daemon, rpc: RpcDriver) -> None:
    """Calls one after the other go over one connection, each signed anew."""
    ports = []

    async def port(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.json_response({"runs": [str(uuid4())]})

    daemon.before = [port] * 3
    for _ in range(3):
        await rpc.send([placed()])
    assert 1 == len(set(ports))
    assert 3 == len({headers["webhook-signature"] for headers in daemon.requests})


async def test_a_supabase_that_answers_with_a_page() -> None:
    """What stands before it is away: an error by its HTTP status."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(status=521, text="<html>Web server is down")

    app = web.Application()
    app.router.add_post("/rest/v1/rpc/{name}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        async with closing(SupabaseDriver(url, "key")) as driver:
            with pytest.raises(Unavailable, match="521"):
                await driver.send([placed()])
    finally:
        await runner.cleanup()


async def test_postgres_comes_back(shop: str, connection: asyncpg.Connection) -> None:
    """Connections that Postgres has ended are not used again."""
    async with closing(PostgresDriver(shop)) as driver:
        await driver.send([placed(1)])
        await connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'slayq'"
        )
        await driver.send([placed(2, id="2")])
    assert 2 == len(await runs(connection))


# Definitions that cannot be


@pytest.mark.parametrize(
    "make",
    [
        lambda: PostgresDriver("mysql://localhost/shop"),
        lambda: RpcDriver("localhost:8080", [SECRET]),
        lambda: SupabaseDriver("shop.supabase.co", "key"),
        lambda: SupabaseDriver("https://shop.supabase.co", ""),
    ],
)
def test_an_address_that_cannot_be(make: Callable[[], Driver]) -> None:
    """It is found where it is given."""
    with pytest.raises(InvalidDefinition):
        make()


async def test_an_address_that_cannot_be_read_is_not_shown() -> None:
    """It may have a password in it."""
    async with closing(PostgresDriver("postgresql://user:hunter2@host:port/db")) as driver:
        with pytest.raises(InvalidDefinition, match="SLAY_Q_DATABASE_URL") as raised:
            await driver.send([placed()])
    assert raised.value.__cause__ is None
    assert "hunter2" not in str(raised.value)


def test_a_driver_needs_a_secret() -> None:
    """An RPC driver that cannot sign is no driver."""
    for secrets in ([], [""], ["whsec_!"]):
        with pytest.raises(InvalidSecret):
            RpcDriver("http://127.0.0.1", secrets)


def test_a_manifest_that_is_refused_is_no_event() -> None:
    """The same code is another error by what was asked."""
    assert RegistrationFailed is type(failure("SQ007", "a name", doing=Doing.REGISTER))
    assert InvalidEvent is type(failure("SQ007", "a name", doing=Doing.SEND))
    assert SendFailed is type(failure("SQ007", "a name", doing=Doing.CANCEL))
    assert SendFailed is type(failure("42P99", "what", doing=Doing.SEND))


# Event loops, poolers, packages


@pytest.mark.parametrize("kind", ["postgres", "rpc"])
async def test_a_driver_serves_several_event_loops(kind: str, daemon: Daemon, connection: asyncpg.Connection) -> None:
    """Each has connections of its own; closing in one closes those of all."""
    driver: Driver = (
        PostgresDriver(daemon.database_url) if kind == "postgres" else RpcDriver(daemon.url, [SECRET], retry_delay=0)
    )
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    try:
        await driver.send([placed(1)])
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_send(driver, 2), other))
        await driver.send([placed(3)])
        await driver.close()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_send(driver, 4), other))
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(driver.close(), other))
    finally:
        other.call_soon_threadsafe(other.stop)
        await asyncio.to_thread(thread.join)
        other.close()
    assert 4 == len(await runs(connection))


async def _send(driver: Driver, number: int) -> None:
    await driver.send([placed(number)])


async def test_postgres_may_be_behind_a_pooler(shop: str, cluster: Cluster, connection: asyncpg.Connection) -> None:
    """In transaction mode, where each transaction may have another session, and statements are nobody's."""
    with PgBouncer(cluster, "transaction", default_pool_size=2) as pooler:
        async with (
            closing(PostgresDriver(pooler.url(shop))) as first,
            closing(PostgresDriver(pooler.url(shop))) as second,
        ):
            await asyncio.gather(*(driver.send([placed(n)]) for n in range(40) for driver in (first, second)))
    assert 80 == len(await runs(connection))


PACKAGES = (
    "asyncpg",
    "psycopg",
    "sqlalchemy",
    "django",
    "flask",
    "fastapi",
    "starlette",
    "aiohttp",
    "httpx",
    "postgrest",
)
MODULES = (
    "slayq",
    "slayq.drivers.postgres",
    "slayq.drivers.rpc",
    "slayq.drivers.supabase",
    "slayq.drivers.joining",
    "slayq.contrib.asgi",
    "slayq.contrib.wsgi",
)


def test_importing_needs_none_of_the_packages() -> None:
    """Nor does making a driver."""
    program = f"""
import importlib, sys
for name in {MODULES!r}: importlib.import_module(name)
sys.modules["slayq.drivers.postgres"].PostgresDriver("postgresql://host/db")
sys.modules["slayq.drivers.rpc"].RpcDriver("http://host", ["secret"])
sys.modules["slayq.drivers.supabase"].SupabaseDriver("http://host", "key")
print([name for name in {PACKAGES!r} if name in sys.modules])
"""
    assert "[]\n" == _printed(program)


EXTRAS = {
    "postgres": "asyncio.run(import_('slayq.drivers.postgres').PostgresDriver('postgresql://h/d').cancel(uuid.uuid4()))",
    "rpc": "asyncio.run(import_('slayq.drivers.rpc').RpcDriver('http://h', ['s']).cancel(uuid.uuid4()))",
    "supabase": "asyncio.run(import_('slayq.drivers.supabase').SupabaseDriver('http://h', 'k').cancel(uuid.uuid4()))",
    "fastapi": "import_('slayq.contrib.fastapi')",
    "django": "import_('slayq.contrib.django')",
    "flask": "import_('slayq.contrib.flask')",
    "aiohttp": "import_('slayq.contrib.aiohttp')",
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_package_that_is_missing_is_named_with_its_extra(extra: str) -> None:
    """The error is the command that mends it."""
    program = f"""
import asyncio, sys, uuid
from importlib import import_module as import_
from slayq.errors import MissingExtra
sys.modules.update(dict.fromkeys({PACKAGES!r}))
try:
    {EXTRAS[extra]}
except MissingExtra as error:
    print(error)
"""
    assert _printed(program).endswith(f"is not installed: pip install 'slayq[{extra}]'\n")


def _printed(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert 0 == ran.returncode, ran.stderr
    return ran.stdout


def test_the_extras_are_there() -> None:
    """What messages name can be installed."""
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) | {"psycopg", "sqlalchemy"} <= set(project["optional-dependencies"]), json.dumps(project)
