"""Sending in a transaction of the caller's: it is sent if and when that commits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import create_async_engine

from slayq import SlayQ
from slayq.drivers import OutgoingEvent
from slayq.drivers.joining import cancel_over, cancel_over_sync, send_over, send_over_sync
from slayq.errors import SendFailed, Unavailable, UnknownEvent
from tests.sdk.drivers.shop import PLACED, placed, runs

if TYPE_CHECKING:
    from tests.sdk.drivers.ways import Joined

UNKNOWN = OutgoingEvent("shop/nobody", {})


async def test_what_is_rolled_back_was_never_sent(joined: Joined, connection: asyncpg.Connection) -> None:
    """Nobody else sees a run before the commit, and none comes of a transaction that was rolled back."""
    assert 2 == len(await joined.send_only([placed(1), placed(2)]))
    assert [] == await runs(connection)
    await joined.rollback()
    assert [] == await runs(connection)


async def test_what_is_committed_was_sent(joined: Joined, connection: asyncpg.Connection) -> None:
    """Several sends in one transaction become runs together."""
    first = await joined.send_only([placed(1)])
    second = await joined.send_only([placed(2), placed(3)])
    await joined.commit()
    assert first + second == [run["run"] for run in await runs(connection)]


async def test_an_app_sends_and_cancels_in_a_transaction(joined: Joined, connection: asyncpg.Connection) -> None:
    """`conn=` of `SlayQ`'s methods, async and sync, in the thread that the connection lives in, with no driver."""
    sq = SlayQ(app="shop", secret="secret")
    one: dict[str, Any] = {"event": PLACED, "data": {"order_id": 1}}
    if joined.is_sync:
        run = await joined.run(lambda: sq.send_event_sync(one, conn=joined.conn))
        await joined.run(lambda: sq.send_events_sync([one, one], conn=joined.conn))
        assert await joined.run(lambda: sq.cancel_sync(run, conn=joined.conn))
    else:
        run = await sq.send_event(one, conn=joined.conn)
        await sq.send_events([one, one], conn=joined.conn)
        assert run is not None
        assert await sq.cancel(run, conn=joined.conn)
    assert [] == await runs(connection)
    await joined.commit()
    assert 2 == len(await runs(connection))


async def test_an_error_fails_the_transaction(joined: Joined, connection: asyncpg.Connection) -> None:
    """As a failed statement does. What is sent in it then says so, and it can be used again once it was rolled back."""
    await joined.send_only([placed(1)])
    with pytest.raises(UnknownEvent):
        await joined.send_only([UNKNOWN])
    with pytest.raises(SendFailed, match="roll the transaction back"):
        await joined.send_only([placed(2)])
    await joined.rollback()
    await joined.send([placed(3)])
    assert ['{"order_id": 3}'] == [run["data"] for run in await runs(connection)]


async def test_a_savepoint_keeps_what_was_sent_before(shop: str, connection: asyncpg.Connection) -> None:
    """An app may try a send that can fail."""
    async with asyncpg.create_pool(shop, min_size=0, max_size=1) as pool, pool.acquire() as conn, conn.transaction():
        await send_over(conn, [placed(1)])
        with pytest.raises(UnknownEvent):
            async with conn.transaction():
                await send_over(conn, [UNKNOWN])
        await send_over(conn, [placed(2)])
    assert 2 == len(await runs(connection))


async def test_a_connection_that_is_gone_is_unavailable(joined: Joined, connection: asyncpg.Connection) -> None:
    """Postgres ended it: the driver's own error says so in its own way, ours is one."""
    await joined.send_only([placed(1)])
    await connection.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    with pytest.raises(Unavailable) as raised:
        await joined.send_only([placed(2)])
    assert raised.value.__cause__ is not None


# What is no connection


async def test_a_sync_connection_is_not_awaited(shop: str) -> None:
    """It would block the event loop: the error says which method to take."""
    with psycopg.connect(shop) as conn:
        for refused in (send_over(conn, [placed()]), send_over(conn, []), cancel_over(conn, _run())):
            with pytest.raises(TypeError, match=r"psycopg\.Connection.*ends in _sync"):
                await refused


async def test_an_async_connection_is_awaited(connection: asyncpg.Connection) -> None:
    """The sync method refuses it, and says which to take."""
    for call in (
        lambda: send_over_sync(connection, [placed()]),
        lambda: send_over_sync(connection, []),
        lambda: cancel_over_sync(connection, _run()),
    ):
        with pytest.raises(TypeError, match=r"asyncpg\.connection\.Connection.*await"):
            call()


async def test_what_makes_connections_is_none(shop: str) -> None:
    """A pool or an engine has no transaction that could be joined."""
    url = shop.replace("postgresql://", "postgresql+psycopg://")
    pool = asyncpg.create_pool(shop, min_size=0)
    makers: list[Any] = [pool, create_async_engine(url), sqlalchemy.create_engine(url), orm.sessionmaker()]
    for maker in makers:
        with pytest.raises(TypeError, match="makes connections: take one of them"):
            await send_over(maker, [placed()])
        with pytest.raises(TypeError, match="makes connections: take one of them"):
            send_over_sync(maker, [placed()])


async def test_anything_else_is_refused_with_what_is_taken() -> None:
    """The error names all kinds."""
    for other in (object(), "postgresql://", None):
        with pytest.raises(TypeError, match="pass a connection of asyncpg or psycopg"):
            await send_over(other, [placed()])
        with pytest.raises(TypeError, match="pass a connection of asyncpg or psycopg"):
            send_over_sync(other, [placed()])


async def test_django_on_another_database_is_refused() -> None:
    """An app may have several databases, and take the wrong one."""
    from django.db.utils import ConnectionHandler

    from tests.support import django_project

    django_project.set_up()
    databases = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    with pytest.raises(TypeError, match="leads to sqlite"):
        await asyncio.to_thread(lambda: send_over_sync(databases["default"], [placed()]))


def test_sqlalchemy_on_another_database_is_refused() -> None:
    """Connections and sessions alike."""
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.NullPool)
    with engine.connect() as conn, pytest.raises(TypeError, match="leads to sqlite"):
        send_over_sync(conn, [placed()])
    with orm.Session(engine) as session, pytest.raises(TypeError, match="leads to sqlite"):
        send_over_sync(session, [placed()])


def _run() -> Any:
    from uuid import uuid4

    return uuid4()
