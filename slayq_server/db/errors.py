"""Maps what asyncpg raises to the server's own errors, in one place."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.errors import DatabaseUnavailable, RequestRefused, SchemaError, StatementFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

# Classes of SQLSTATE that pass: Postgres is there but cannot serve for now. Connections (08), the transaction's state,
# read-only after a failover (25), rollbacks (40), resources (53), locks (55), operators (57), the system (58 and XX).
# Classes and not the driver's exceptions, because newer servers have conditions that the driver does not know.
_TEMPORARY = ("08", "25", "40", "53", "55", "57", "58", "XX")
_LOST_STATEMENT = ("26000", "42P05")
_REFUSED_LOGIN = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_NO_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)


def error_kind(error: BaseException) -> str:
    """The `kind` label of `slayq_db_errors_total`: connection, timeout, or the condition's name in snake case."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(
        error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)
    ):
        return "connection"
    if isinstance(error, asyncpg.PostgresError):
        return "statement"
    return "other"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises DatabaseUnavailable, StatementFailed, SchemaError or RequestRefused in place of the driver's errors."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state.startswith("SQ0"):
            hint = getattr(error, "hint", None)
            raise RequestRefused(f"{error.args[0]}{f'. {hint}' if hint else ''}", state) from error
        if state.startswith(_TEMPORARY):
            raise DatabaseUnavailable(f"Postgres cannot serve now: {error.args[0]}") from error
        if state in _LOST_STATEMENT:
            raise DatabaseUnavailable(
                "Postgres has lost a prepared statement. Behind a pooler in transaction mode, set database.poll_only."
            ) from error
        if isinstance(error, _REFUSED_LOGIN):
            raise DatabaseUnavailable(
                f"Postgres refused the login: {error.args[0]}. Check SLAY_Q_DATABASE_URL."
            ) from error
        if isinstance(error, _NO_SCHEMA):
            raise SchemaError(
                f"the database has no complete Slay Q schema ({error.args[0]}). Run: slayq-server migrate"
            ) from error
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise SchemaError(
                f"the database role lacks a right ({error.args[0]}). Run, as the schema's owner: "
                "slayq-server migrate --server-role ROLE"
            ) from error
        raise StatementFailed(f"Postgres refused a statement: {error.args[0]} ({state})") from error
    except asyncpg.DataError as error:  # the driver's own: a value that cannot be sent
        raise StatementFailed(f"a value cannot be sent to Postgres: {error}") from error
    except TimeoutError as error:
        raise DatabaseUnavailable("Postgres did not answer in time") from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error or type(error).__name__}") from error
