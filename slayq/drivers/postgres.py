"""Sending straight to Postgres, over a pool of the driver's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from slayq.drivers.failures import Doing, NothingSent, of_postgres, translated
from slayq.drivers.loops import PerLoop
from slayq.drivers.retrying import FIRST_DELAY, RETRIES, all_have_ids, retried
from slayq.drivers.statements import CANCEL, REGISTER, SEND
from slayq.drivers.wording import cancelled_of, events_text, manifest_text, registered_of, runs_of
from slayq.errors import InvalidDefinition, Unavailable
from slayq.extras import needed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from slayq.drivers import OutgoingEvent, Registered

_CLOSE: Final = 2.0
"""Seconds for saying goodbye to Postgres."""


class _Pool:
    """An asyncpg pool that is set up by whoever uses it first."""

    def __init__(self, dsn: str, size: int, timeout: float) -> None:
        with needed("postgres"):
            import asyncpg
        # No named statements: behind a pooler in transaction mode, a name may be another session's statement.
        self._pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=size,
            timeout=timeout,
            command_timeout=timeout,
            statement_cache_size=0,
            reset=_leave,
            server_settings={"application_name": "slayq"},
        )
        self._ready = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection in a transaction: a pooler in transaction mode then keeps both ends together."""
        async with self._acquired() as connection, connection.transaction():
            yield connection

    @contextlib.asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        try:
            async with self._ready:
                await self._pool
            connection: Any = await self._pool.acquire()
        except ValueError:
            pass  # Left first: that error may carry the address, and with it the password.
        except Exception as error:
            ours = of_postgres(error, Doing.SEND)
            if isinstance(ours, Unavailable):
                raise NothingSent(str(ours), code=ours.code) from error
            raise
        else:
            try:
                yield connection
            finally:
                await self._pool.release(connection)
            return
        raise InvalidDefinition("the database's address cannot be read: check it (SLAY_Q_DATABASE_URL)")

    async def close(self) -> None:
        """Closes it, by force if need be."""
        try:
            await asyncio.wait_for(self._pool.close(), _CLOSE)
        except TimeoutError:
            self._pool.terminate()


async def _leave(connection: asyncpg.Connection) -> None:
    """Our statements leave nothing behind in a session, and a reset costs a round trip."""


class PostgresDriver:
    """Sends over a pool of its own, opened when it is first used: at most `size` connections for each event loop.

    Works behind a pooler in any mode. Tries again where that is safe, by the same rules as `RpcDriver`. To send in a
    transaction of yours, use `slayq.drivers.joining` instead.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int = 4,
        timeout: float = 15.0,
        retries: int = RETRIES,
        retry_delay: float = FIRST_DELAY,
    ) -> None:
        """Does not connect yet.

        Args:
            dsn: `postgresql://user@host/database`.
            size: connections at the most.
            timeout: seconds for one try of a call, with all it waits for.
            retries: how often at most a call is tried again.
            retry_delay: seconds before the first retry; each further one waits twice as long.
        """
        if not dsn.startswith(("postgresql://", "postgres://")):
            raise InvalidDefinition("the database's address does not begin with postgresql://: check it")
        self._timeout = timeout
        self._retries = retries
        self._retry_delay = retry_delay
        self._pools = PerLoop(lambda: _Pool(dsn, size, timeout), _Pool.close)

    async def send(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """All of the events, in one statement; see `Driver.send`."""
        if not events:
            return []
        rows = await self._rows(SEND, events_text(events), Doing.SEND, repeatable=all_have_ids(events))
        return runs_of(rows, events)

    async def cancel(self, run: UUID) -> bool:
        """See `Driver.cancel`."""
        return cancelled_of((await self._rows(CANCEL, str(run), Doing.CANCEL, repeatable=False))[0])

    async def register(self, manifest: Mapping[str, Any]) -> Registered:
        """See `Driver.register`."""
        rows = await self._rows(REGISTER, manifest_text(manifest), Doing.REGISTER, repeatable=True)
        return registered_of(json.loads(rows[0]))

    async def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        await self._pools.close()

    async def _rows(self, statement: str, argument: str, doing: Doing, *, repeatable: bool) -> list[Any]:
        async def attempt() -> list[Any]:
            with translated(doing):
                async with asyncio.timeout(self._timeout), self._pools.get().connection() as connection:
                    return [row[0] for row in await connection.fetch(statement.format("$1"), argument)]

        return await retried(attempt, repeatable=repeatable, retries=self._retries, delay=self._retry_delay)
