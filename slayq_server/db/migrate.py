"""Migrations: numbered SQL files, forward only, checksummed, all applied in one transaction under an advisory lock.

A file may say on a line of its own `-- compatible with: N`: a server that knows the migrations up to N alone may run on
a schema that has this one, too. Without the line it needs a server that knows the file itself.

In a database of the original the first migration takes it over (`takeover`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog

from slayq_server import __version__
from slayq_server.db.errors import dropped_when_cut_short, translated
from slayq_server.db.takeover import TakenOver, TakeOver, forward, is_due, stop_forwarding, wait_for_callers
from slayq_server.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCK = "select pg_advisory_xact_lock(1936484720, 1)"
"""What lets migrations wait for each other."""
# Not to_regclass, which may answer from the session's cache: a session that a pooler lends us may have looked before,
# and waiting for the lock does not bring its cache up to date.
_EXISTS = """select exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'slayq' and c.relname = 'migration'
)"""
_INSERT = """insert into slayq.migration (number, name, checksum, compatible_with, server_version)
values ({number}, '{name}', '{checksum}', {compatible_with}, '{version}')"""
_TIMEOUT = 300.0
_log = structlog.get_logger()


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
class Order:
    """What a migration is to do."""

    app_roles: tuple[str, ...] = ()
    server_roles: tuple[str, ...] = ()
    dry_run: bool = False
    """Find out what it would do, and change nothing."""
    force: bool = False
    """Take over from the original though something speaks against it."""
    forward: bool | None = None
    """Set or take away the forwarders in Graphile Worker's schema; None: leave that as it is."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration has done, or would do."""

    applied: tuple[Migration, ...]
    taken_over: TakenOver | None = None
    """None: there was nothing to take over."""
    obstacles: tuple[str, ...] = ()
    """What spoke against taking over."""
    forwarded: bool = False
    """Whether Graphile Worker's functions act here now, and did not before."""
    late: tuple[int, ...] = ()
    """Process ids of sessions that were at work before and still are: what they may have added to the original is seen
    when they commit, by another migration."""


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
        SchemaError: see `status` and `TakeOver.begin`; or a role does not exist.
        DatabaseUnavailable: Postgres cannot be reached.
    """
    order = Order(tuple(app_roles), tuple(server_roles))
    return (await carry_out(url, order, migrations=migrations, timeout=timeout)).applied


async def carry_out(
    url: str, order: Order, *, migrations: Sequence[Migration] | None = None, timeout: float = _TIMEOUT
) -> Migrated:
    """As `migrate`, with all that `slayq-server migrate` can be told, and all that it tells."""
    ours = tuple(migrations or load())
    with translated():
        connection = await asyncpg.connect(url, timeout=10, command_timeout=timeout, statement_cache_size=0)
        try:
            with dropped_when_cut_short(connection):
                done = await _transaction(connection, ours, order)
                if order.dry_run or not (done.taken_over or done.forwarded):
                    return done
                # An app that was adding a job to the original at that moment may only do so now.
                late = await wait_for_callers(connection)
                again = replace(order, force=order.force or done.taken_over is not None)
                later = await _transaction(connection, ours, again)
                taken = [each.taken_over for each in (done, later) if each.taken_over]
                return Migrated(
                    done.applied,
                    sum(taken, TakenOver()) if taken else None,
                    done.obstacles or later.obstacles,
                    done.forwarded,
                    tuple(late),
                )
        finally:
            await connection.close(timeout=5)


async def _transaction(connection: asyncpg.Connection, ours: Sequence[Migration], order: Order) -> Migrated:
    transaction = connection.transaction()
    await transaction.start()
    try:
        # A role's own limit, such as Supabase has, is for its daily work, and waiting for others' migrations counts.
        await connection.execute(f"set local statement_timeout = '{_TIMEOUT:.0f}s'; {LOCK}")
        done = await _within(connection, ours, order)
    except (asyncio.CancelledError, TimeoutError):
        raise  # the connection is dropped, and the transaction with it
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.rollback() if order.dry_run else transaction.commit())
    return done


async def _within(connection: asyncpg.Connection, ours: Sequence[Migration], order: Order) -> Migrated:
    pending = (await status(connection, ours)).pending
    await _check_roles(connection, [*order.app_roles, *order.server_roles])
    take_over = await TakeOver.begin(connection, force=order.force, dry_run=order.dry_run)
    if take_over is None and order.dry_run:
        return Migrated(pending)  # no need to try, and to lock tables in use
    for migration in pending:
        await connection.execute(migration.sql)
        await connection.execute(migration.record())
    taken = await take_over.finish(public_functions(ours), dry_run=order.dry_run) if take_over else None
    forwarded = bool(order.forward) and await forward(connection)
    if order.forward is False:
        await stop_forwarding(connection)
    await connection.execute("select slayq._grant_1($1, $2)", list(order.app_roles), list(order.server_roles))
    return Migrated(pending, taken, take_over.obstacles if take_over else (), forwarded)


async def ensure(url: str, *, app_roles: Sequence[str] = ()) -> int:
    """What a daemon does at start: migrates if something is pending, else touches nothing. Returns the schema's number.

    A role without the right to migrate may start a daemon on a schema that is up to date.

    Raises:
        SchemaError, DatabaseUnavailable: as `migrate`.
    """
    with translated():
        connection = await asyncpg.connect(url, timeout=10, command_timeout=30, statement_cache_size=0)
        try:
            with dropped_when_cut_short(connection):
                # A transaction, because a pooler in transaction mode may change servers in between.
                async with connection.transaction():
                    with dropped_when_cut_short(connection):
                        found = await status(connection)
                        taken_over = not await is_due(connection)
        finally:
            await connection.close(timeout=5)
    if not found.pending and taken_over:
        return found.version
    done = await carry_out(url, Order(tuple(app_roles)))
    if done.taken_over is not None:
        _log.info("taken_over", **asdict(done.taken_over))
    if done.late:
        _log.warning(
            "calls_of_the_original_still_open", pids=done.late, hint="run slayq-server migrate when they ended"
        )
    return done.applied[-1].number if done.applied else load()[-1].number


def public_functions(migrations: Sequence[Migration]) -> list[str]:
    """The statements that make our public functions, for a database in which others have taken their place."""
    text = "\n".join(migration.sql for migration in migrations)
    found = re.findall(r"^create (?:or replace )?(function public\..*?^\$\$;$)", text, re.MULTILINE | re.DOTALL)
    return [f"create or replace {each}" for each in found]


def script(app_roles: Sequence[str] = (), server_roles: Sequence[str] = ()) -> str:
    """All migrations as one SQL script for an empty database, for those who run DDL with tools of their own."""
    parts = ["begin;", f"{LOCK};"]
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
