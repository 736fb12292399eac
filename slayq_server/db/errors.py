"""Maps what asyncpg raises to the server's own errors, in one place; and keeps cancellation what it is.

asyncpg tidies up when it is cancelled or a time limit is up: it waits until the server says that it has stopped, rolls
back, closes. A server that is gone says nothing, so all that takes its own time limits, and ends in an error that takes
the cancellation's place. Therefore: a connection on which somebody was cut short is dropped, and an error that came up
in the clean-up after a cancellation is that cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.errors import DatabaseUnavailable, RequestRefused, SchemaError, StatementFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Droppable(Protocol):
        """A connection, of a pool or not."""

        def terminate(self) -> None: ...


# Classes of SQLSTATE that pass: Postgres is there but cannot serve for now. Connections (08), the transaction's state,
# read-only after a failover (25), rollbacks (40), resources (53), locks (55), operators (57), the system (58 and XX).
# Classes and not the driver's exceptions, because newer servers have conditions that the driver does not know.
_TEMPORARY = ("08", "25", "40", "53", "55", "57", "58", "XX")
READ_ONLY = "25006"
"""A standby: after a failover, whoever is still connected to the server that was the primary talks to one."""
_REASONS = {
    READ_ONLY: "read_only",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53300": "too_many_connections",
    "55P03": "locked",
    "57014": "timeout",  # by the server's own clock, which has the same limit
    "57P01": "shutting_down",
    "57P02": "shutting_down",
    "57P03": "starting",
    "58030": "io_error",
}
"""SQLSTATE → reason, for the most common of what passes."""
_LOST_STATEMENT = ("26000", "42P05")
_REFUSED_LOGIN = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_NO_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)


_KINDS = {
    READ_ONLY: "read_only",
    "53100": "storage",
    "53300": "connection",
    "57014": "timeout",
    "57P01": "connection",
    "57P02": "connection",
    "57P03": "connection",
    "58030": "storage",
}
"""SQLSTATE → kind, where Postgres answers and no statement is at fault."""


def error_kind(error: BaseException) -> str:
    """The `kind` label of `slayq_db_errors_total`."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _KINDS:
        return _KINDS[error.sqlstate]
    if isinstance(error, asyncpg.DataError):
        return "statement"
    if isinstance(
        error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)
    ):
        return "connection"
    if isinstance(error, asyncpg.PostgresError):
        return "statement"
    return "other"


_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that the driver raises. TimeoutError is an OSError."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises DatabaseUnavailable, StatementFailed, SchemaError or RequestRefused in place of the driver's errors."""
    try:
        yield
    except _DRIVER_ERRORS as error:
        if _is_cancelled(error):
            raise asyncio.CancelledError from error
        raise _ours(error) from error


@contextlib.contextmanager
def dropped_when_cut_short(connection: Droppable) -> Iterator[None]:
    """Closes the connection, without a word, if the block is cancelled or runs out of time.

    If it turns out to be read-only, too: the next one may lead to the server that has become the primary. To be used
    within every transaction, and around it.
    """
    try:
        yield
    except asyncpg.ReadOnlySQLTransactionError:
        connection.terminate()
        raise
    except (asyncio.CancelledError, TimeoutError):
        connection.terminate()
        raise


def _is_cancelled(error: BaseException) -> bool:
    """Whether the error came up in the clean-up after a cancellation that still holds."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    before: BaseException | None = error
    while before is not None and not isinstance(before, asyncio.CancelledError):
        before = before.__context__
    return before is not None


def _ours(error: Exception) -> Exception:
    if isinstance(error, asyncpg.PostgresError):
        return _of_state(error, error.sqlstate or "")
    if isinstance(error, asyncpg.DataError):  # the driver's own: a value that cannot be sent
        return StatementFailed(f"a value cannot be sent to Postgres: {error}", "value")
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable("Postgres did not answer in time", "timeout")
    return DatabaseUnavailable(f"Postgres cannot be reached: {error or type(error).__name__}")


def _of_state(error: asyncpg.PostgresError, state: str) -> Exception:
    message = error.args[0]
    if state.startswith("SQ0"):
        return RequestRefused(message, state, getattr(error, "hint", None) or None)
    if state.startswith(_TEMPORARY):
        return DatabaseUnavailable(f"Postgres cannot serve now: {message}", _REASONS.get(state, state))
    if state in _LOST_STATEMENT:
        return DatabaseUnavailable(
            "Postgres has lost a prepared statement. Behind a pooler in transaction mode, set database.poll_only.",
            "lost_statement",
        )
    if isinstance(error, _REFUSED_LOGIN):
        return DatabaseUnavailable(
            f"Postgres refused the login: {message}. Check SLAY_Q_DATABASE_URL.", "login_refused"
        )
    if isinstance(error, _NO_SCHEMA):
        return SchemaError(f"the database has no complete Slay Q schema ({message}). Run: slayq-server migrate")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return SchemaError(
            f"the database role lacks a right ({message}). Run, as the schema's owner: "
            "slayq-server migrate --server-role ROLE"
        )
    return StatementFailed(f"Postgres refused a statement: {message} ({state})", state)
