"""Sending over a connection of the caller's, in its transaction: what is rolled back there was never sent.

Takes connections of asyncpg (also from its pool), psycopg and SQLAlchemy (also sessions), each sync or async as it is,
and Django's. Without a transaction, what is sent is sent at once. An error leaves the transaction as a failed statement
does: to be rolled back, to a savepoint if there is one.

Connections are told by the class they are of; none of those packages is imported here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from slayq.drivers.failures import Doing, translated
from slayq.drivers.statements import CANCEL, SEND
from slayq.drivers.wording import cancelled_of, events_text, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from slayq.drivers import OutgoingEvent

_TAKEN: Final = (
    "a connection of asyncpg or psycopg, a connection or session of SQLAlchemy, or Django's django.db.connection"
)


async def send_over(conn: Any, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
    """Send all of them over an async connection, in one statement.

    Returns the ids of the runs, in order, None where no function takes the event. Raises what `Driver.send` raises,
    and TypeError for anything but an async connection.
    """
    if not events:
        _async_kind(conn)
        return []
    return runs_of(await _rows(conn, SEND, events_text(events), Doing.SEND), events)


async def cancel_over(conn: Any, run: UUID) -> bool:
    """Cancel a run over an async connection; False if there is none of that id. Raises as `send_over` does."""
    return cancelled_of((await _rows(conn, CANCEL, str(run), Doing.CANCEL))[0])


def send_over_sync(conn: Any, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
    """`send_over` for a sync connection."""
    if not events:
        _sync_kind(conn)
        return []
    return runs_of(_rows_sync(conn, SEND, events_text(events), Doing.SEND), events)


def cancel_over_sync(conn: Any, run: UUID) -> bool:
    """`cancel_over` for a sync connection."""
    return cancelled_of(_rows_sync(conn, CANCEL, str(run), Doing.CANCEL)[0])


async def _rows(conn: Any, statement: str, argument: str, doing: Doing) -> list[Any]:
    """The first column of what a statement returns."""
    rows = _async_kind(conn)
    with translated(doing):
        return list(await rows(conn, statement, argument))


def _rows_sync(conn: Any, statement: str, argument: str, doing: Doing) -> list[Any]:
    rows = _sync_kind(conn)
    with translated(doing):
        return list(rows(conn, statement, argument))


# Each kind of connection: how it runs a statement, and the classes that are of that kind


async def _asyncpg(conn: Any, statement: str, argument: str) -> list[Any]:
    return [row[0] for row in await conn.fetch(statement.format("$1"), argument)]


async def _psycopg_async(conn: Any, statement: str, argument: str) -> list[Any]:
    psycopg = sys.modules["psycopg"]
    # A cursor and rows of the plain kind, whatever the connection makes by itself.
    async with psycopg.AsyncCursor(conn, row_factory=psycopg.rows.tuple_row) as cursor:
        await cursor.execute(statement.format("%s"), [argument])
        return [row[0] for row in await cursor.fetchall()]


def _psycopg(conn: Any, statement: str, argument: str) -> list[Any]:
    psycopg = sys.modules["psycopg"]
    with psycopg.Cursor(conn, row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(statement.format("%s"), [argument])
        return [row[0] for row in cursor.fetchall()]


async def _sqlalchemy_async(conn: Any, statement: str, argument: str) -> list[Any]:
    _check_dialect(conn)
    return list((await conn.execute(_text(statement), {"argument": argument})).scalars())


def _sqlalchemy(conn: Any, statement: str, argument: str) -> list[Any]:
    _check_dialect(conn)
    return list(conn.execute(_text(statement), {"argument": argument}).scalars())


def _check_dialect(conn: Any) -> None:
    dialect = conn.dialect if hasattr(conn, "dialect") else conn.get_bind().dialect  # connections, then sessions
    if dialect.name != "postgresql":
        raise _elsewhere(dialect.name)


def _text(statement: str) -> Any:
    return sys.modules["sqlalchemy"].text(statement.format(":argument"))


def _django(conn: Any, statement: str, argument: str) -> list[Any]:
    if conn.vendor != "postgresql":
        raise _elsewhere(conn.vendor)
    with conn.cursor() as cursor:
        cursor.execute(statement.format("%s"), [argument])
        return [row[0] for row in cursor.fetchall()]


_ASYNC: Final = (
    (_asyncpg, ("asyncpg:Connection", "asyncpg.pool:PoolConnectionProxy")),
    (_psycopg_async, ("psycopg:AsyncConnection",)),
    (
        _sqlalchemy_async,
        ("sqlalchemy.ext.asyncio:AsyncConnection AsyncSession async_scoped_session",),
    ),
)
_SYNC: Final = (
    (_psycopg, ("psycopg:Connection",)),
    (_sqlalchemy, ("sqlalchemy.engine:Connection", "sqlalchemy.orm:Session scoped_session")),
    (_django, ("django.db.backends.base.base:BaseDatabaseWrapper", "django.utils.connection:ConnectionProxy")),
)
_FACTORIES: Final = (
    "asyncpg.pool:Pool",
    "psycopg_pool:ConnectionPool AsyncConnectionPool",
    "sqlalchemy.engine:Engine",
    "sqlalchemy.ext.asyncio:AsyncEngine async_sessionmaker",
    "sqlalchemy.orm:sessionmaker",
)


def _async_kind(conn: Any) -> Callable[[Any, str, str], Any]:
    for rows, classes in _ASYNC:
        if _is_a(conn, classes):
            return rows
    if any(_is_a(conn, classes) for _, classes in _SYNC):
        raise TypeError(
            f"conn= is a sync connection ({_name(conn)}), which would block: call the method that ends in _sync"
        )
    raise _unknown(conn)


def _sync_kind(conn: Any) -> Callable[[Any, str, str], Any]:
    for rows, classes in _SYNC:
        if _is_a(conn, classes):
            return rows
    if any(_is_a(conn, classes) for _, classes in _ASYNC):
        raise TypeError(f"conn= is an async connection ({_name(conn)}): await the method that does not end in _sync")
    raise _unknown(conn)


def _elsewhere(database: str) -> TypeError:
    return TypeError(f"conn= leads to {database}, and Slay Q is in Postgres: pass a connection to that database")


def _unknown(conn: Any) -> TypeError:
    if _is_a(conn, _FACTORIES):
        return TypeError(f"conn= is a {_name(conn)}, which makes connections: take one of them, in a transaction")
    return TypeError(f"conn= is a {_name(conn)}: pass {_TAKEN}")


def _is_a(conn: Any, classes: Sequence[str]) -> bool:
    """Whether it is of one of the classes, "module:name name". One whose module is not loaded has no instances."""
    for each in classes:
        module_name, _, names = each.partition(":")
        module = sys.modules.get(module_name)
        if any(isinstance(conn, getattr(module, name, ())) for name in names.split()):
            return True
    return False


def _name(conn: Any) -> str:
    return f"{type(conn).__module__}.{type(conn).__qualname__}"
