"""Migrations: installed once however many start, refused when newer, the same by hand as by us (G1, G2, G4)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from slayq_server.db.migrate import Migration, ensure, load, migrate, script, status
from slayq_server.errors import SchemaError, StatementFailed
from tests.sql.support import Daemon, add, next_due

if TYPE_CHECKING:
    from pathlib import Path

    from slayq_server.db.store import Store
    from tests.conftest import Connect

NEWEST = load()[-1].number

# Everything of ours in the catalogues that a migration could make, as text.
CATALOG = {
    "columns": """
        select c.oid::regclass || '.' || a.attname,
            concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attstorage,
                pg_get_expr(d.adbin, d.adrelid))
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = 'slayq'::regnamespace and a.attnum > 0""",
    "relations": """
        select c.oid::regclass::text, concat_ws(' ', c.relkind, c.reloptions, c.relacl, pg_get_viewdef(c.oid))
        from pg_class c where c.relnamespace = 'slayq'::regnamespace""",
    "indexes": "select indexname, indexdef from pg_indexes where schemaname = 'slayq'",
    "constraints": """
        select conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
        from pg_constraint where connamespace = 'slayq'::regnamespace""",
    "functions": """
        select p.oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(p.oid), p.proacl)
        from pg_proc p
        where p.pronamespace in ('slayq'::regnamespace, 'public'::regnamespace)""",
    "schemas": "select nspname, nspacl::text from pg_namespace where nspname = 'slayq'",
    "applied": "select name, concat_ws(' ', number, checksum, compatible_with, server_version) from slayq.migration",
}


async def catalog(connection: asyncpg.Connection) -> dict[str, dict[str, str]]:
    """What there is of ours in a database."""
    return {kind: {row[0]: row[1] for row in await connection.fetch(query)} for kind, query in CATALOG.items()}


async def has_schema(connection: asyncpg.Connection) -> bool:
    """Whether a database has a schema of ours."""
    found: bool = await connection.fetchval("select to_regnamespace('slayq') is not null")
    return found


async def test_an_empty_database_is_installed_once(empty_database_url: str, connect: Connect) -> None:
    """G1: the first start installs everything; three more change nothing, by migrate or by a daemon's own start."""
    assert await migrate(empty_database_url) == load()
    connection = await connect(empty_database_url)
    before = await catalog(connection)
    times = await connection.fetch("select number, applied_at from slayq.migration")

    for _ in range(3):
        assert await migrate(empty_database_url) == ()
        assert await ensure(empty_database_url) == NEWEST
    assert await catalog(connection) == before
    assert await connection.fetch("select number, applied_at from slayq.migration") == times
    assert len(before["functions"]) > 40


async def test_a_daemon_installs_what_is_missing(empty_database_url: str, connect: Connect) -> None:
    """G1: a start on an empty database migrates; on one that is half way, the rest."""
    assert await ensure(empty_database_url) == NEWEST
    assert (await status(await connect(empty_database_url))).pending == ()


async def test_jobs_survive_a_migration(empty_database_url: str, connect: Connect) -> None:
    """G1: a later start leaves the jobs there are alone."""
    await migrate(empty_database_url)
    connection = await connect(empty_database_url)
    before = await add(connection, "k", {"n": 1})
    later = Migration(NEWEST + 1, "later", "alter table slayq.job add column more text", "x", NEWEST)
    assert await migrate(empty_database_url, migrations=[*load(), later]) == (later,)
    assert await connection.fetchrow("select * from slayq.jobs") == before


@pytest.mark.parametrize("start", [migrate, ensure], ids=["migrate", "ensure"])
async def test_twenty_at_once(empty_database_url: str, connect: Connect, start: object) -> None:
    """G2: twenty servers starting at once on an empty database: each migration runs once, and all succeed."""
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(start(empty_database_url) for _ in range(20)))  # type: ignore[operator]

    if start is migrate:
        assert sorted(len(applied) for applied in results) == [0] * 19 + [len(load())]
    else:
        assert results == [NEWEST] * 20
    connection = await connect(empty_database_url)
    assert await connection.fetchval("select array_agg(number order by number) from slayq.migration") == [
        each.number for each in load()
    ]


async def test_a_newer_schema_is_refused(database_url: str, connection: asyncpg.Connection) -> None:
    """G4: in clear words, by migrate and by a daemon's start; nothing is changed."""
    await connection.execute(
        "insert into slayq.migration values ($1, '0099_next', 'x', $1, '9.9')",
        NEWEST + 1,
    )
    before = await catalog(connection)
    for start in (migrate, ensure):
        with pytest.raises(SchemaError, match="newer than this server, which knows") as refused:
            await start(database_url)
        assert "0099_next needs a newer slayq-server. Upgrade this server" in str(refused.value)
    assert await catalog(connection) == before


async def work(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A job's life: added, promoted, failed, tried again, buried, put back, done; another one reaped."""
    added = await add(connection, "k", serial="lane")
    await daemon.store.promote(10)
    await daemon.fail(await daemon.lease_one())
    assert len(await next_due(daemon, connection, added["id"])) == 1
    await daemon.expire(connection)
    assert [each.fate for each in (await daemon.store.reap(10))[0]] == ["ready"]
    again = await Daemon.register(daemon.store)
    assert (await again.bury(await again.lease_one())).verdicts == {added["id"]: "settled"}
    assert await connection.fetchval("select slayq._redrive_1(array[$1::bigint])", added["id"]) == added["id"]
    await again.store.promote(10)
    assert (await again.complete(await again.lease_one())).verdicts == {added["id"]: "settled"}


async def test_an_older_server_runs_on_a_compatible_schema(
    database_url: str, connection: asyncpg.Connection, store: Store
) -> None:
    """G4: in a rolling upgrade the release before goes on working, with connections from before the migration, too."""
    statements = (
        "alter table slayq.job add column more text",
        "alter table slayq.worker add column more text default 'x'",
        "alter table slayq.dead_letter add column more integer not null default 0",
        "create function slayq._lease_2() returns void language sql as 'select'",
    )
    next_one = Migration(NEWEST + 1, "0099_next", ";".join(statements), "checksum", NEWEST)
    await work(connection, await Daemon.register(store))
    assert await migrate(database_url, migrations=[*load(), next_one]) == (next_one,)
    await work(connection, await Daemon.register(store))

    assert await ensure(database_url) == NEWEST + 1
    assert await migrate(database_url) == ()


async def test_two_newer_ones_of_which_one_is_not_compatible(database_url: str, connection: asyncpg.Connection) -> None:
    """G4: one migration that needs a newer server is enough to refuse."""
    await connection.execute(
        "insert into slayq.migration values ($1, 'fits', 'x', $2, '9.9'), ($3, 'does_not', 'x', $3, '9.9')",
        NEWEST + 1,
        NEWEST,
        NEWEST + 2,
    )
    with pytest.raises(SchemaError, match=f"is at {NEWEST + 2}.*knows {NEWEST}: does_not needs"):
        await ensure(database_url)


async def test_an_edited_migration_is_refused(database_url: str, connection: asyncpg.Connection) -> None:
    """An applied file whose contents differ from ours: refused, with what to do."""
    await connection.execute("update slayq.migration set checksum = 'x' where number = 2")
    for start in (migrate, ensure):
        with pytest.raises(SchemaError, match="0002_add_jobs was applied with other contents"):
            await start(database_url)


async def test_a_migration_that_fails_leaves_nothing(empty_database_url: str, connect: Connect) -> None:
    """All or nothing: a statement that fails in the last file undoes those before it, and a later start does it all."""
    broken = replace(load()[-1], sql="create table slayq.half (); select 1 / 0")
    with pytest.raises(StatementFailed, match="division by zero"):
        await migrate(empty_database_url, migrations=[*load()[:-1], broken])
    connection = await connect(empty_database_url)
    assert not await has_schema(connection)
    assert await migrate(empty_database_url) == load()


async def test_a_role_that_does_not_exist(empty_database_url: str, connect: Connect) -> None:
    """Refused before anything is made, by name."""
    with pytest.raises(SchemaError, match="no database role nobody_of_that_name: create it first"):
        await migrate(empty_database_url, app_roles=["nobody_of_that_name"])
    assert not await has_schema(await connect(empty_database_url))


async def test_the_script_makes_the_same_schema(empty_database_url: str, connect: Connect) -> None:
    """Printed SQL run through a plain connection leaves the same tables, indexes, functions, grants and records."""
    ours = await catalog(await connect())
    by_hand = await connect(empty_database_url)
    await by_hand.execute(script())
    theirs = await catalog(by_hand)

    assert theirs.keys() == ours.keys()
    for kind, things in ours.items():
        assert theirs[kind] == things
    assert await migrate(empty_database_url) == ()
    assert await ensure(empty_database_url) == NEWEST


async def test_the_script_for_a_database_that_has_the_schema(connection: asyncpg.Connection) -> None:
    """It fails as a whole and changes nothing."""
    before = await catalog(connection)
    with pytest.raises(asyncpg.DuplicateTableError):
        await connection.execute(script())
    await connection.execute("rollback")
    assert await catalog(connection) == before


async def test_half_way(empty_database_url: str, connect: Connect) -> None:
    """The state between two releases: what is applied and what is pending are told apart."""
    connection = await connect(empty_database_url)
    assert (await status(connection)).version == 0
    assert (await status(connection)).pending == load()
    await connection.execute(load()[0].sql)
    await connection.execute(load()[0].record())
    half = await status(connection)
    assert (half.version, half.pending) == (1, load()[1:])
    assert await migrate(empty_database_url) == load()[1:]


def write(folder: Path, **files: str) -> Path:
    """A folder of migrations."""
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


def test_files_are_numbered_without_a_gap(tmp_path: Path) -> None:
    """A number that is missing, or stands twice, is an error that names them."""
    folder = write(tmp_path, **{"0001_a": "", "0003_c": ""})
    with pytest.raises(SchemaError, match=r"without a gap, not \[1, 3\]"):
        load(folder)
    write(folder, **{"0002_b": "", "0003_d": ""})
    with pytest.raises(SchemaError, match=r"not \[1, 2, 3, 3\]"):
        load(folder)


def test_files_say_what_they_are_compatible_with(tmp_path: Path) -> None:
    """By a line of their own; without it a file needs a server that knows the file itself."""
    files = load(
        write(
            tmp_path,
            **{
                "0001_a": "select 1;",
                "0002_b": "-- New.\n-- compatible with: 1\nselect 1;",
                "0003_c": "select '-- compatible with: 1';",
            },
        )
    )
    assert [(each.number, each.name, each.compatible_with) for each in files] == [
        (1, "0001_a", 1),
        (2, "0002_b", 1),
        (3, "0003_c", 3),
    ]
    assert len({each.checksum for each in files}) == 3
