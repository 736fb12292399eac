"""The connection pool: a handful of connections whatever the number of queues, each statement with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import asyncpg

from slayq_server.db.errors import dropped_when_cut_short, translated
from slayq_server.db.statements import query
from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE = 15.0
"""Seconds without use after which a connection is closed. The one that renews the worker row stays."""
_RELEASE = 1.0
"""Seconds for handing a connection back; it is dropped then."""
_GROW_AGAIN = 0.5
"""Seconds after a connection could not be opened, before the next try."""
_CLOSE = 2.0
"""Seconds for saying goodbye on all connections."""

# With tiny or stale statistics the planner may read a whole table for a statement that is to touch fifty rows, and a
# prepared statement keeps such a plan; no statement of ours is better off with a sequential scan. JIT never pays here;
# it is kept off by its cost, because the driver switches `jit` itself off and on when it looks up a type. Plans do not
# depend on the arguments, so a prepared statement is planned once: to plan a lease takes longer than to run it.
_PLANS = {"enable_seqscan": "off", "jit_above_cost": "-1", "plan_cache_mode": "force_generic_plan"}


class _Connection(asyncpg.Connection):
    """Handed back as it is: our statements leave nothing behind in a session, and a reset costs a round trip."""

    def get_reset_query(self) -> str:
        return ""


class Pool:
    """An asyncpg pool that runs the statements of `queries/` by name and raises the server's own errors.

    While `grow` runs, a statement that finds all open connections in use waits for the first that becomes free, and
    another one is opened beside it: to open one takes longer than most statements do, so nobody waits for his own.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 4,
        pooled: bool = False,
        application_name: str = "slayq-server",
        timeout: float = 15.0,
    ) -> None:
        """Does not connect yet.

        Args:
            url: `postgresql://…`.
            size: connections at the most; they are opened as needed and closed when idle. From 2 on, one of them is
                kept for statements that are urgent.
            pooled: the address may lead to a pooler in transaction mode: every statement runs in a transaction of its
                own, and nothing stays in the session, no prepared statements and no settings.
            application_name: as Postgres shows it.
            timeout: seconds for one statement, and for getting a connection.
        """
        self._url = url
        self._size = size
        self._pooled = pooled
        self._application_name = application_name
        self._timeout = timeout
        # The last connection is for what is urgent: a slow snapshot or a burst must not cost the worker row.
        self._unhurried = asyncio.Semaphore(max(1, size - 1))
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._grows = False
        self._crowded = asyncio.Event()
        """Somebody waits, and there might be more connections."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._claimed = 0
        """Idle connections that are as good as taken."""

    @property
    def url(self) -> str:
        """The address it connects to (with its password: never to be shown)."""
        return self._url

    async def open(self) -> None:
        """Connects.

        Raises:
            DatabaseUnavailable: Postgres cannot be reached.
        """
        with translated():
            pool = await asyncpg.create_pool(
                self._url,
                min_size=0,  # with a floor, asyncpg tries by itself to keep it, and logs each time that it cannot
                max_size=self._size,
                timeout=10,
                command_timeout=self._timeout,
                max_inactive_connection_lifetime=IDLE,
                connection_class=_Connection,
                statement_cache_size=0 if self._pooled else 200,
                server_settings={"application_name": self._application_name},
                init=None if self._pooled else self._set_up,
            )
            try:
                async with pool.acquire(timeout=self._timeout):
                    self._pool = pool
            except BaseException:
                pool.terminate()
                raise

    async def close(self) -> None:
        """Closes all connections, waiting a little for those in use."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        self._move_up(all_of_them=True)
        try:
            async with asyncio.timeout(_CLOSE):
                await pool.close()
        except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
            pool.terminate()

    def abandon(self) -> None:
        """Drops all connections at once."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None
            self._move_up(all_of_them=True)

    async def grow(self) -> None:
        """Opens further connections while statements wait for one, until cancelled."""
        self._grows = True
        try:
            while True:
                await self._crowded.wait()
                self._crowded.clear()
                try:
                    with translated():
                        await self._open_another()
                except DatabaseUnavailable:
                    # Whoever waits still has those that there are, or finds out for himself that there are none.
                    self._move_up(all_of_them=True)
                    await asyncio.sleep(_GROW_AGAIN)
        finally:
            self._grows = False
            self._move_up(all_of_them=True)

    async def _open_another(self) -> None:
        pool = self._pool
        if pool is None or pool.get_size() >= self._size:
            return
        connection = await pool.acquire(timeout=self._timeout)
        await pool.release(connection, timeout=_RELEASE)
        self._move_up()

    @property
    def counts(self) -> dict[str, int]:
        """Connections by state: idle, in_use."""
        if self._pool is None:
            return {"idle": 0, "in_use": 0}
        idle = self._pool.get_idle_size()
        return {"idle": idle, "in_use": self._pool.get_size() - idle}

    async def _set_up(self, connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> None:
        # Not sent with the login: poolers refuse parameters there that they do not know, or drop them.
        await connection.execute(self._settings("set"))

    def _settings(self, command: str) -> str:
        # The server keeps the time limit as well: a daemon that is frozen or cut off in the middle of a transaction
        # must not hold its locks, nor a statement run on that nobody waits for.
        limit = f"'{round(self._timeout * 1000)}ms'"
        settings = {**_PLANS, "statement_timeout": limit, "idle_in_transaction_session_timeout": limit}
        return "; ".join(f"{command} {name} = {value}" for name, value in settings.items())

    @contextlib.asynccontextmanager
    async def connection(
        self, *, urgent: bool = False
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """A connection for several statements. Errors come out translated; cancellation, at once.

        `urgent`: does not queue up behind the others for the last connection.
        """
        with translated():
            async with contextlib.nullcontext() if urgent else self._turn():
                if self._pool is None:
                    raise asyncpg.InterfaceError("the pool is not open")
                pool = self._pool
                connection = await self._acquire(pool)
                try:
                    with dropped_when_cut_short(connection):
                        yield connection
                finally:
                    try:
                        await pool.release(connection, timeout=_RELEASE)
                    finally:
                        self._move_up()

    async def _acquire(self, pool: asyncpg.Pool[asyncpg.Record]) -> asyncpg.pool.PoolConnectionProxy[asyncpg.Record]:
        async with asyncio.timeout(self._timeout):
            while self._grows and self._would_open(pool):
                self._crowded.set()
                await self._stand_in_line()
                if self._pool is not pool:
                    raise asyncpg.InterfaceError("the pool is not open")
        self._claimed += 1
        try:
            return await pool.acquire(timeout=self._timeout)
        finally:
            self._claimed -= 1
            self._move_up()

    def _would_open(self, pool: asyncpg.Pool[asyncpg.Record]) -> bool:
        """Whether to acquire a connection now would open one, although there are some to wait for."""
        return 0 < pool.get_size() < self._size and pool.get_idle_size() <= self._claimed

    async def _stand_in_line(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._move_up()  # it was his turn, which he does not take
            raise

    def _move_up(self, *, all_of_them: bool = False) -> None:
        """Lets the first in line look again; all, where no more can be opened: the driver has a line of its own."""
        pool = self._pool
        everybody = all_of_them or pool is None or pool.get_size() >= self._size
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                if not everybody:
                    return

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with asyncio.timeout(self._timeout):
            await self._unhurried.acquire()
        try:
            yield
        finally:
            self._unhurried.release()

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, urgent: bool = False
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """A connection with a transaction open on it."""
        async with self.connection(urgent=urgent) as connection:
            # With the settings in the same message, a transaction of a pooled connection costs no more than another.
            await connection.execute(f"begin; {self._settings('set local')}" if self._pooled else "begin")
            try:
                yield connection
            except (asyncio.CancelledError, TimeoutError):
                raise  # the connection is dropped, and the transaction with it
            except BaseException:
                await connection.execute("rollback")
                raise
            await connection.execute("commit")

    def _one_statement(
        self, urgent: bool = False
    ) -> contextlib.AbstractAsyncContextManager[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        # The driver prepares and executes in two steps, between which a pooler in transaction mode may change servers.
        return self.transaction(urgent=urgent) if self._pooled else self.connection(urgent=urgent)

    async def fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """The rows of statement `name`."""
        async with self._one_statement() as connection:
            return await connection.fetch(query(name), *args)

    async def fetchrow(self, name: str, *args: Any, urgent: bool = False) -> asyncpg.Record | None:
        """The first row of statement `name`."""
        async with self._one_statement(urgent) as connection:
            return await connection.fetchrow(query(name), *args)

    async def fetchval(self, name: str, *args: Any, urgent: bool = False) -> Any:
        """The first value of the first row of statement `name`."""
        async with self._one_statement(urgent) as connection:
            return await connection.fetchval(query(name), *args)

    async def execute(self, name: str, *args: Any, urgent: bool = False) -> None:
        """Runs statement `name`."""
        async with self._one_statement(urgent) as connection:
            await connection.execute(query(name), *args)
