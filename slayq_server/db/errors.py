"""Maps what asyncpg raises to the server's own errors, in one place."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.errors import DatabaseUnavailable, RequestRefused, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Postgres is there but cannot serve for now: shutting down, starting, full, read-only after a failover, out of slots.
_TEMPORARY = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresIOError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
)
_REFUSED_LOGIN = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_NO_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)


def error_kind(error: BaseException) -> str:
    """The `kind` label of `slayq_db_errors_total`: connection, timeout, or the condition's name in snake case."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, ConnectionError)):
        return "connection"
    if isinstance(error, asyncpg.PostgresError):
        return "statement"
    return "other"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises DatabaseUnavailable, SchemaError or RequestRefused in place of the driver's errors."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state.startswith("SQ0"):
            hint = getattr(error, "hint", None)
            raise RequestRefused(f"{error.args[0]}{f'. {hint}' if hint else ''}", state) from error
        if isinstance(error, _TEMPORARY):
            raise DatabaseUnavailable(f"Postgres cannot serve now: {error.args[0]}") from error
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
        raise
    except TimeoutError as error:
        raise DatabaseUnavailable("Postgres did not answer in time") from error
    except (OSError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error or type(error).__name__}") from error
