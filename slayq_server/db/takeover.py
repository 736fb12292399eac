"""Taking over a database of the original, within the transaction of a migration (protocol v1, section 6).

The original is Graphile Worker's schema with tables and public functions of its own beside it. Its jobs come here with
their waits; there they stay as they were, but locked for good, so that no old server runs them once more. What has that
lock is taken over: a later pass takes what has been added since, and nothing else.

The statements are in `original/`, one a file.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FOLDER = Path(__file__).parent / "original"
_TABLES = {"slayq._private_waiting_on", "slayq._private_invoker", "graphile_worker._private_jobs"}
_LOCK_TIMEOUT = "30s"
"""While we wait for the old tables, everybody else who wants them waits for us."""
_CALLERS_TIMEOUT = 30.0
"""Seconds that calls which had begun before the take-over are waited for."""
_CALLERS_LOOK = 0.02
_STEPS = ("moving", "keys", "jobs", "dead_letters", "waits", "invocations")
_FORWARDERS = ("forward_add_job", "forward_add_jobs", "forward_remove_job")


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a take-over has moved, or would move: numbers of jobs, and of waits."""

    due: int = 0
    later: int = 0
    retrying: int = 0
    """Of the jobs due and later, those that have failed before."""
    locked: int = 0
    """Of those later, the ones that an old server was delivering: due when its lock ends."""
    failed: int = 0
    """Dead letters: had failed for good."""
    lost: int = 0
    """Dead letters: an old server was delivering them for the last time."""
    undeliverable: int = 0
    """Dead letters: no callback can be made of them."""
    waits: int = 0
    invocations: int = 0

    def __add__(self, other: TakenOver) -> TakenOver:
        """What both have moved."""
        return TakenOver(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A take-over that has begun: the original's functions are out of the way."""

    connection: asyncpg.Connection
    replaced: tuple[asyncpg.Record, ...]
    """Its functions: signature, definition."""
    obstacles: tuple[str, ...]
    """What speaks against it: forced, or only tried out."""

    @classmethod
    async def begin(cls, connection: asyncpg.Connection, *, force: bool, dry_run: bool) -> TakeOver | None:
        """Prepares the transaction for the migrations; None where there is nothing (more) to take over.

        Raises:
            SchemaError: an old server is connected, or its waits cannot be read, and it is not forced; or a part of the
                original is missing.
        """
        there = {row["name"] for row in await connection.fetch(_statement("tables"))}
        replaced = await connection.fetch(_statement("functions"))
        if missing := _TABLES - there:
            if not replaced:
                return None  # it was never there, or what it has left behind was dropped after the take-over
            raise SchemaError(
                f"the database has the original's functions, but not {', '.join(sorted(missing))}: start the newest "
                "release of the original on it once, so that its schema is complete"
            )
        # A role that row-level security keeps from seeing the jobs is to fail, not to see none.
        await connection.execute("set local row_security = off")
        if not replaced and not await connection.fetchval(_statement("pending")):
            return None
        obstacles = [*await _old_servers(connection), *await _unknown_columns(connection)]
        if not dry_run:
            if obstacles and not force:
                raise SchemaError("; ".join(obstacles))
            await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute(_statement("lock"))
        await _drop(connection, [row["signature"] for row in replaced])
        return cls(connection, tuple(replaced), tuple(obstacles))

    async def finish(self, public_functions: Iterable[str], *, dry_run: bool) -> TakenOver:
        """Moves the jobs, once the schema is there. A dry run, which is rolled back, touches none of the old ones.

        Args:
            public_functions: the statements that make ours; needed where the migrations had run before.
            dry_run: as for `begin`.
        """
        if self.replaced:
            await _remember(self.connection, self.replaced)
            for statement in public_functions:
                await self.connection.execute(statement)
        for name in _STEPS:
            await self.connection.execute(_statement(name))
        if not dry_run:
            await self.connection.execute(_statement("mark"))
        counts = await self.connection.fetchrow(_statement("counts"))
        assert counts is not None
        return TakenOver(**counts)


async def wait_for_callers(connection: asyncpg.Connection) -> list[int]:
    """Waits until every call of the original's functions that had begun when they were replaced has come to its end.

    Not within a transaction. What they have added is there for the next pass then.

    Returns:
        The process ids of those that had not ended after 30 seconds.
    """

    async def callers() -> set[tuple[int, str]]:
        async with connection.transaction():  # which a pooler keeps on one connection
            return {(row["pid"], row["transaction"]) for row in await connection.fetch(_statement("callers"))}

    until = time.monotonic() + _CALLERS_TIMEOUT
    left = await callers()
    while left and time.monotonic() < until:
        await asyncio.sleep(_CALLERS_LOOK)
        left &= await callers()
    return sorted(pid for pid, _ in left)


async def is_due(connection: asyncpg.Connection) -> bool:
    """Whether the original's public functions are in force: jobs that apps add go there, and nothing delivers them."""
    return bool(await connection.fetch(_statement("functions")))


async def forward(connection: asyncpg.Connection) -> bool:
    """Makes Graphile Worker's add_job, add_jobs and remove_job act here; what they were is kept.

    Returns:
        Whether they did not before.

    Raises:
        SchemaError: there is no Graphile Worker.
    """
    there = {row["name"] for row in await connection.fetch(_statement("tables"))}
    if "graphile_worker._private_jobs" not in there:
        raise SchemaError("the database has no Graphile Worker of release 0.16, so there is nothing to forward")
    replaced = await connection.fetch(_statement("forwarded"))
    await _remember(connection, replaced)
    for name in _FORWARDERS:
        await connection.execute(_statement(name))
    return bool(replaced)


async def stop_forwarding(connection: asyncpg.Connection) -> None:
    """Puts back what `forward` has taken the place of; nothing where it has not."""
    for row in await connection.fetch(_statement("forget"), "graphile_worker"):
        await connection.execute(row["definition"])


async def _old_servers(connection: asyncpg.Connection) -> list[str]:
    """One line, if any is connected."""
    sessions = await connection.fetch(_statement("servers"))
    if not sessions:
        return []
    told = ", ".join(f"{row['pid']} ({row['role']} from {row['address']})" for row in sessions)
    line = (
        f'an old server is connected: Postgres has sessions that listen to "jobs:insert", with process id {told}. '
        "Stop it first, so that it gives back the jobs it is delivering; with --force they are due when its locks end, "
        "four hours after it took them, and may run twice"
    )
    return [line]


async def _unknown_columns(connection: asyncpg.Connection) -> list[str]:
    """A line for each table of waits that we cannot read."""
    return [
        f"{row['name']} has columns that this server does not know ({row['columns']}), so its waits cannot be taken "
        "over; with --force their jobs are, and go on when their waits time out"
        for row in await connection.fetch(_statement("unknown_columns"))
    ]


async def _drop(connection: asyncpg.Connection, signatures: Sequence[str]) -> None:
    """Raises SchemaError where something of the app's depends on one of the original's functions."""
    try:
        for signature in signatures:
            await connection.execute(f"drop routine {signature}")
    except asyncpg.DependentObjectsStillExistError as error:
        raise SchemaError(
            f"a function of the original cannot be replaced: {error.args[0]}. {error.detail} Drop that, and create it "
            "again afterwards"
        ) from error


async def _remember(connection: asyncpg.Connection, replaced: Sequence[asyncpg.Record]) -> None:
    await connection.execute(
        _statement("remember"), [row["signature"] for row in replaced], [row["definition"] for row in replaced]
    )


@cache
def _statement(name: str) -> str:
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
