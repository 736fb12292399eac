"""What stands between us and Postgres: whether sessions are ours for as long as we are connected."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.db.errors import dropped_when_cut_short, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TIMEOUT = 10.0
_ROUNDS = 3
"""A busy pooler may by chance give back the same session as before; hardly so often."""


async def shares_sessions(url: str) -> bool:
    """Whether a connection to `url` gets another session of Postgres from one transaction to the next.

    So it is behind a pooler in transaction mode (PgBouncer's default is session mode, Supabase's port 6543 is
    transaction mode). Never true of a direct connection: two that are open at once are two sessions, each of which
    stays what it is.

    Raises:
        DatabaseUnavailable: Postgres cannot be reached.
    """
    with translated():
        async with _connected(url) as first, _connected(url) as second:
            for _ in range(_ROUNDS):
                before = await _session(first)
                async with second.transaction():
                    # If it is shared, the second transaction most likely gets the session that was just given back;
                    # and if so, the first connection cannot have it again now.
                    with dropped_when_cut_short(second):
                        if await _session(second) == before or await _session(first) != before:
                            return True
    return False


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection: asyncpg.Connection = await asyncpg.connect(
        url, timeout=_TIMEOUT, command_timeout=_TIMEOUT, statement_cache_size=0
    )
    try:
        yield connection
        await connection.close(timeout=1)
    finally:
        connection.terminate()


async def _session(connection: asyncpg.Connection) -> object:
    return await connection.fetchval("select pg_backend_pid()")
