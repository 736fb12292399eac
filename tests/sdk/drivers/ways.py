"""Every way by which an app sends, with one face: the drivers, and each kind of connection that can be joined."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from slayq.drivers import joining
from slayq.drivers.postgres import PostgresDriver
from slayq.drivers.rpc import RpcDriver
from slayq.drivers.supabase import SupabaseDriver
from tests.support import django_project
from tests.support.postgrest import PostgRest, supabase_roles
from tests.support.rpc_v2 import SECRET, Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from uuid import UUID

    from slayq.drivers import Driver, OutgoingEvent


class Way(Protocol):
    """What a driver and a joined connection have in common."""

    async def send(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """Sends."""
        ...

    async def cancel(self, run: UUID) -> bool:
        """Cancels."""
        ...


class Joined:
    """A connection in a transaction of the caller's. Sync ones live in a thread of their own."""

    def __init__(self, conn: Any, commit: Any, rollback: Any, thread: ThreadPoolExecutor | None = None) -> None:
        self.conn = conn
        self._commit = commit
        self._rollback = rollback
        self._thread = thread

    @property
    def is_sync(self) -> bool:
        """Whether it is a sync connection, which lives in a thread."""
        return self._thread is not None

    async def send(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """Sends in the transaction, then commits it; an error rolls it back."""
        return await self._ended(self.send_only, events)

    async def cancel(self, run: UUID) -> bool:
        """Cancels in the transaction, then commits it; an error rolls it back."""
        return await self._ended(self._cancel_only, run)

    async def send_only(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """Sends, and leaves the transaction open."""
        if self._thread is None:
            return await joining.send_over(self.conn, events)
        return await self.run(joining.send_over_sync, self.conn, events)

    async def _cancel_only(self, run: UUID) -> bool:
        if self._thread is None:
            return await joining.cancel_over(self.conn, run)
        return await self.run(joining.cancel_over_sync, self.conn, run)

    async def commit(self) -> None:
        """Commits the caller's transaction."""
        await self.run(self._commit)

    async def rollback(self) -> None:
        """Rolls the caller's transaction back."""
        await self.run(self._rollback)

    async def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls it where the connection lives."""
        if self._thread is None:
            return await call(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def _ended(self, call: Callable[[Any], Any], argument: Any) -> Any:
        try:
            result = await call(argument)
        except Exception:
            await self.rollback()
            raise
        await self.commit()
        return result


# Drivers


@contextlib.asynccontextmanager
async def closing(driver: Driver) -> AsyncIterator[Any]:
    """A driver, closed at the end."""
    try:
        yield driver
    finally:
        await driver.close()


@contextlib.asynccontextmanager
async def _rpc(url: str) -> AsyncIterator[Any]:
    async with Daemon(url) as daemon, closing(RpcDriver(daemon.url, [SECRET], retry_delay=0)) as driver:
        yield driver


@contextlib.asynccontextmanager
async def postgrest(url: str) -> AsyncIterator[PostgRest]:
    """PostgREST on the database, which has Supabase's roles."""
    admin = await asyncpg.connect(url, timeout=10)
    try:
        async with supabase_roles(admin, unquote(urlsplit(url).password or "")):
            await admin.execute("select slayq._grant_1('{}', '{}')")
            async with PostgRest(url) as running:
                yield running
    finally:
        await admin.close()


def key_of(role: str) -> str:
    """A key of Supabase's, as a role has it."""
    return PostgRest.headers(role)["Authorization"].removeprefix("Bearer ")


@contextlib.asynccontextmanager
async def _supabase(url: str) -> AsyncIterator[Any]:
    async with postgrest(url) as running:
        driver = SupabaseDriver(running.url, key_of("service_role"), path="", retry_delay=0)
        async with closing(driver):
            yield driver


# Connections of the caller's, each in a transaction


class _Transactions:
    """asyncpg has no transaction of its own accord."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def begin(self) -> None:
        self._open = self._conn.transaction()
        await self._open.start()

    async def commit(self) -> None:
        await self._open.commit()
        await self.begin()

    async def rollback(self) -> None:
        await self._open.rollback()
        await self.begin()


@contextlib.asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Joined]:
    conn = await asyncpg.connect(url, timeout=10)
    # As an app may have it, for its own tables.
    await conn.set_type_codec("json", schema="pg_catalog", encoder=lambda value: repr(value), decoder=len)
    await conn.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=len)
    transactions = _Transactions(conn)
    await transactions.begin()
    try:
        yield Joined(conn, transactions.commit, transactions.rollback)
    finally:
        await conn.close()


@contextlib.asynccontextmanager
async def _asyncpg_pool(url: str) -> AsyncIterator[Joined]:
    async with asyncpg.create_pool(url, min_size=0, max_size=1, timeout=10) as pool, pool.acquire() as conn:
        transactions = _Transactions(conn)
        await transactions.begin()
        yield Joined(conn, transactions.commit, transactions.rollback)
        with contextlib.suppress(asyncpg.InterfaceError):  # the test has ended the connection
            await transactions.rollback()


@contextlib.asynccontextmanager
async def _psycopg_async(url: str) -> AsyncIterator[Joined]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=psycopg.rows.dict_row) as conn:
        conn.cursor_factory = psycopg.AsyncRawCursor  # type: ignore[assignment]  # whose parameters look otherwise
        yield Joined(conn, conn.commit, conn.rollback)


@contextlib.asynccontextmanager
async def _in_thread(opened: Callable[[], Any]) -> AsyncIterator[Joined]:
    with ThreadPoolExecutor(1) as thread:
        conn = thread.submit(opened).result()
        try:
            # Looked up in that thread, too: Django's proxy has another connection in each.
            yield Joined(conn, lambda: conn.commit(), lambda: conn.rollback(), thread)
        finally:
            thread.submit(lambda: conn.close()).result()


@contextlib.asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Joined]:
    async with _in_thread(lambda: psycopg.connect(url, row_factory=psycopg.rows.dict_row)) as joined:
        yield joined


def _sqlalchemy_url(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


@contextlib.asynccontextmanager
async def _sqlalchemy(url: str) -> AsyncIterator[Joined]:
    engine = sqlalchemy.create_engine(_sqlalchemy_url(url, "psycopg"), poolclass=sqlalchemy.NullPool)
    async with _in_thread(engine.connect) as joined:
        yield joined


@contextlib.asynccontextmanager
async def _sqlalchemy_session(url: str) -> AsyncIterator[Joined]:
    engine = sqlalchemy.create_engine(_sqlalchemy_url(url, "psycopg"), poolclass=sqlalchemy.NullPool)
    async with _in_thread(lambda: orm.Session(engine)) as joined:
        yield joined


@contextlib.asynccontextmanager
async def _sqlalchemy_scoped(url: str) -> AsyncIterator[Joined]:
    engine = sqlalchemy.create_engine(_sqlalchemy_url(url, "psycopg"), poolclass=sqlalchemy.NullPool)
    async with _in_thread(lambda: orm.scoped_session(orm.sessionmaker(engine))) as joined:
        yield joined


def _async_engine(url: str, driver: str) -> sqlalchemy_asyncio.AsyncEngine:
    return sqlalchemy_asyncio.create_async_engine(_sqlalchemy_url(url, driver), poolclass=sqlalchemy.NullPool)


@contextlib.asynccontextmanager
async def _sqlalchemy_asyncpg(url: str) -> AsyncIterator[Joined]:
    async with _async_engine(url, "asyncpg").connect() as conn:
        yield Joined(conn, conn.commit, conn.rollback)


@contextlib.asynccontextmanager
async def _sqlalchemy_async_psycopg(url: str) -> AsyncIterator[Joined]:
    async with _async_engine(url, "psycopg").connect() as conn:
        yield Joined(conn, conn.commit, conn.rollback)


@contextlib.asynccontextmanager
async def _sqlalchemy_async_session(url: str) -> AsyncIterator[Joined]:
    async with sqlalchemy_asyncio.AsyncSession(_async_engine(url, "asyncpg")) as session:
        yield Joined(session, session.commit, session.rollback)


@contextlib.asynccontextmanager
async def _django(url: str) -> AsyncIterator[Joined]:
    async with _in_thread(lambda: _django_connection(url)) as joined:
        yield joined


@contextlib.asynccontextmanager
async def _django_proxy(url: str) -> AsyncIterator[Joined]:
    async with _in_thread(lambda: _django_connection(url, as_proxy=True)) as joined:
        yield joined


def _django_connection(url: str, *, as_proxy: bool = False) -> Any:
    """A connection of Django's, in a transaction, for the thread that asks for it; or as `django.db.connection` is."""
    from django.db.utils import ConnectionHandler
    from django.utils.connection import ConnectionProxy

    django_project.set_up()
    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port,
    }
    handler = ConnectionHandler({"default": database})
    handler["default"].set_autocommit(False)
    return ConnectionProxy(handler, "default") if as_proxy else handler["default"]


DRIVERS: dict[str, Callable[[str], AbstractAsyncContextManager[Any]]] = {
    "postgres": lambda url: closing(PostgresDriver(url)),
    "rpc": _rpc,
    "supabase": _supabase,
}
CONNECTIONS: dict[str, Callable[[str], AbstractAsyncContextManager[Joined]]] = {
    "asyncpg": _asyncpg,
    "asyncpg-pool": _asyncpg_pool,
    "psycopg-async": _psycopg_async,
    "psycopg": _psycopg,
    "sqlalchemy": _sqlalchemy,
    "sqlalchemy-session": _sqlalchemy_session,
    "sqlalchemy-scoped-session": _sqlalchemy_scoped,
    "sqlalchemy-asyncpg": _sqlalchemy_asyncpg,
    "sqlalchemy-async-psycopg": _sqlalchemy_async_psycopg,
    "sqlalchemy-async-session": _sqlalchemy_async_session,
    "django": _django,
    "django-proxy": _django_proxy,
}
WAYS = {**DRIVERS, **CONNECTIONS}
