"""Migrations: numbered SQL files, forward only, checksummed, all applied in one transaction under an advisory lock.

A file may say on a line of its own `-- compatible with: N`: a server that knows the migrations up to N alone may run on
a schema that has this one, too. Without the line it needs a server that knows the file itself.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from slayq_server import __version__
from slayq_server.db.errors import translated
from slayq_server.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCK = "select pg_advisory_xact_lock(1936484720, 1)"
_EXISTS = "select to_regclass('slayq.migration') is not null"
_INSERT = """insert into slayq.migration (number, name, checksum, compatible_with, server_version)
values ({number}, '{name}', '{checksum}', {compatible_with}, '{version}')"""
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of migrations/."""

    number: int
    name: str
    sql: str
    checksum: str
    compatible_with: int

    def record(self) -> str:
        """The statement that notes this migration as applied."""
        return _INSERT.format(
            number=self.number,
            name=self.name,
            checksum=self.checksum,
            compatible_with=self.compatible_with,
            version=__version__,
        )


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What a database has of the migrations."""

    version: int
    """The highest number applied; 0 for none."""
    pending: tuple[Migration, ...]


def folder() -> Path:
    """Where the SQL files are: inside the installed package, or at the top of a checkout.

    Raises:
        SchemaError: there are none, so the installation is broken.
    """
    here = Path(__file__).resolve().parent.parent
    for candidate in (here / "migrations", here.parent / "migrations"):
        if any(candidate.glob("[0-9]*.sql")):
            return candidate
    raise SchemaError("the installation has no migrations: install slayq-server again")


def load(directory: Path | None = None) -> tuple[Migration, ...]:
    """All migrations in order.

    Raises:
        SchemaError: a number is missing or stands twice.
    """
    migrations = []
    for path in sorted((directory or folder()).glob("[0-9]*.sql")):
        sql = path.read_text(encoding="utf-8")
        number = int(path.stem.split("_", 1)[0])
        marker = re.search(r"^-- compatible with: (\d+)$", sql, re.MULTILINE)
        migrations.append(
            Migration(
                number=number,
                name=path.stem,
                sql=sql,
                checksum=hashlib.sha256(sql.encode()).hexdigest(),
                compatible_with=int(marker[1]) if marker else number,
            )
        )
    numbers = [migration.number for migration in migrations]
    if numbers != list(range(1, len(numbers) + 1)):
        raise SchemaError(f"migrations must be numbered 1, 2, 3 … without a gap, not {numbers}")
    return tuple(migrations)


async def status(connection: asyncpg.Connection, migrations: Sequence[Migration] | None = None) -> SchemaStatus:
    """Compares a database with the migrations of this server.

    Raises:
        SchemaError: an applied file differs from ours, or the schema is newer than this server can run on.
    """
    known = {migration.number: migration for migration in migrations or load()}
    if not await connection.fetchval(_EXISTS):
        return SchemaStatus(0, tuple(known.values()))
    rows = await connection.fetch("select number, name, checksum, compatible_with from slayq.migration order by number")
    newest = max(known)
    for row in rows:
        migration = known.get(row["number"])
        if migration is None:
            if row["compatible_with"] > newest:
                raise SchemaError(
                    f"the database's schema is at {rows[-1]['number']}, newer than this server, which knows {newest}: "
                    f"{row['name']} needs a newer slayq-server. Upgrade this server (version {__version__})."
                )
        elif migration.checksum != row["checksum"]:
            raise SchemaError(
                f"migration {row['name']} was applied with other contents than this server's file has. "
                "Applied migrations are never edited: install the release that made this schema, or restore the file."
            )
    applied = {row["number"] for row in rows}
    return SchemaStatus(
        max(applied, default=0), tuple(migration for number, migration in known.items() if number not in applied)
    )


async def migrate(
    url: str,
    *,
    app_roles: Sequence[str] = (),
    server_roles: Sequence[str] = (),
    migrations: Sequence[Migration] | None = None,
    timeout: float = _TIMEOUT,
) -> tuple[Migration, ...]:
    """Brings a database's schema up to date and sets the grants; returns what was applied. Any number may run at once.

    Args:
        url: of a role that may create in the database (or owns schema slayq already).
        app_roles: may execute the SQL API. Roles that do not exist are an error.
        server_roles: may do all that a daemon does.
        migrations: in place of the files (tests).
        timeout: seconds for the whole.

    Raises:
        SchemaError: see `status`; or a role does not exist.
        DatabaseUnavailable: Postgres cannot be reached.
    """
    ours = tuple(migrations or load())
    with translated():
        connection = await asyncpg.connect(url, timeout=10, command_timeout=timeout, statement_cache_size=0)
        try:
            async with connection.transaction():
                await connection.execute(_LOCK)
                pending = (await status(connection, ours)).pending
                for migration in pending:
                    await connection.execute(migration.sql)
                    await connection.execute(migration.record())
                await _check_roles(connection, [*app_roles, *server_roles])
                await connection.execute("select slayq._grant_1($1, $2)", list(app_roles), list(server_roles))
            return pending
        finally:
            await connection.close(timeout=5)


async def ensure(url: str, *, app_roles: Sequence[str] = ()) -> int:
    """What a daemon does at start: migrates if something is pending, else touches nothing. Returns the schema's number.

    A role without the right to migrate may start a daemon on a schema that is up to date.

    Raises:
        SchemaError, DatabaseUnavailable: as `migrate`.
    """
    with translated():
        connection = await asyncpg.connect(url, timeout=10, command_timeout=30, statement_cache_size=0)
        try:
            async with connection.transaction():  # a pooler in transaction mode may change servers in between
                found = await status(connection)
        finally:
            await connection.close(timeout=5)
    if not found.pending:
        return found.version
    applied = await migrate(url, app_roles=app_roles)
    return applied[-1].number if applied else load()[-1].number


def script(app_roles: Sequence[str] = (), server_roles: Sequence[str] = ()) -> str:
    """All migrations as one SQL script for an empty database, for those who run DDL with tools of their own."""
    parts = ["begin;", f"{_LOCK};"]
    for migration in load():
        parts += [f"-- {migration.name}", migration.sql.rstrip(), f"{migration.record()};"]
    parts += [f"select slayq._grant_1({_text_array(app_roles)}, {_text_array(server_roles)});", "commit;", ""]
    return "\n\n".join(parts)


def _text_array(names: Sequence[str]) -> str:
    """A Postgres array literal of names."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return f"array[{quoted}]::text[]"


async def _check_roles(connection: asyncpg.Connection, roles: Sequence[str]) -> None:
    """Raises SchemaError for a role that does not exist."""
    missing = await connection.fetchval(
        "select array_agg(r) from unnest($1::text[]) r where r not in (select rolname from pg_catalog.pg_roles)",
        list(roles),
    )
    if missing:
        raise SchemaError(f"there is no database role {', '.join(missing)}: create it first, or correct the name")
