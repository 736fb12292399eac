"""The connection pool when the server falls silent, is busy, or refuses."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.pool import Pool
from slayq_server.errors import DatabaseUnavailable, StatementFailed
from tests.support.wait import wait_until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool of two connections."""
    made = Pool(database_url, size=2)
    await made.open()
    yield made
    await made.close()


async def ask_in_a_transaction(pool: Pool, seconds: float) -> None:
    """Asks, and waits for so long."""
    async with asyncio.timeout(seconds), pool.transaction() as connection:
        await connection.fetchval("select 1")


async def test_a_limit_holds_on_a_wire_that_fell_silent(database_url: str) -> None:
    """Whoever waits for so long gets on after so long: no courtesy to a server that may be gone takes any more time."""
    async with Wire(database_url) as wire:
        pool = Pool(wire.url, size=2)
        await pool.open()
        wire.silence()
        async with asyncio.timeout(5):  # the pool's own limit is three times that
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await pool.fetchval("clock")
            with pytest.raises(TimeoutError):
                await ask_in_a_transaction(pool, 0.1)
        pool.abandon()


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_cancelling_on_a_silent_wire_cancels(database_url: str, in_transaction: bool) -> None:
    """A task that is told to stop stops, at once, with CancelledError and nothing else."""
    async with Wire(database_url) as wire:
        pool = Pool(wire.url, size=2, timeout=5.0)
        await pool.open()

        async def ask() -> None:
            context = pool.transaction() if in_transaction else pool.connection()
            async with context as connection:
                wire.silence()
                waiting.set()
                await connection.fetchval("select 1")

        waiting = asyncio.Event()
        task = asyncio.create_task(ask())
        await waiting.wait()
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(4):  # less than the pool's limit
            await asyncio.wait([task])
        assert task.cancelled()
        pool.abandon()


async def test_a_statement_without_an_answer_is_an_error_in_time(database_url: str) -> None:
    """The time limit of a statement is that, not twice that."""
    async with Wire(database_url) as wire:
        pool = Pool(wire.url, size=2, timeout=2.0)
        await pool.open()
        wire.silence()
        async with asyncio.timeout(3.6):
            with pytest.raises(DatabaseUnavailable):
                await pool.fetchval("clock")
        pool.abandon()


async def test_the_last_connection_is_kept_for_what_is_urgent(pool: Pool) -> None:
    """However many statements are slow or waiting, the renewal of the worker row finds a connection at once."""
    release = asyncio.Event()
    started = asyncio.Event()

    async def slow() -> None:
        async with pool.connection():
            started.set()
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(slow())
        await started.wait()
        async with asyncio.timeout(5):
            async with pool.connection(urgent=True) as connection:
                assert 1 == await connection.fetchval("select 1")
        release.set()


@pytest.mark.parametrize("pooled", [False, True])
async def test_statements_are_bounded_by_the_server_too(database_url: str, pooled: bool) -> None:
    """A daemon that is frozen or cut off in the middle of a transaction does not hold its locks for long."""
    pool = Pool(database_url, size=2, pooled=pooled)
    await pool.open()
    async with pool.transaction() as connection:
        assert "15s" == await connection.fetchval("show statement_timeout")
        assert "15s" == await connection.fetchval("show idle_in_transaction_session_timeout")
        assert "off" == await connection.fetchval("show enable_seqscan")
    await pool.close()


async def test_a_pooled_session_is_left_as_it_was(database_url: str) -> None:
    """What a pooler lends belongs to others a moment later: no setting stays, also where types were looked up."""
    pool = Pool(database_url, size=2, pooled=True)
    await pool.open()
    settings = "select name, setting from pg_settings where name ~ 'jit|seqscan|timeout' order by name"
    async with pool.connection() as connection:
        before = await connection.fetch(settings)
    async with pool.transaction() as connection:
        await connection.fetchval("select array[row(1, true)]")
    with pytest.raises(StatementFailed):
        await pool.execute("notify", [1])
    async with pool.connection() as connection:
        assert before == await connection.fetch(settings)
        assert 0 == await connection.fetchval("select count(*) from pg_prepared_statements")
    await pool.close()


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("XX000", DatabaseUnavailable),  # a tuple concurrently updated, a relation that cannot be opened
        ("55P03", DatabaseUnavailable),
        ("57P05", DatabaseUnavailable),
        ("25P04", DatabaseUnavailable),
        ("53100", DatabaseUnavailable),
        ("26000", DatabaseUnavailable),
        ("22021", StatementFailed),
        ("23505", StatementFailed),
    ],
)
async def test_whatever_postgres_refuses_is_an_error_of_ours(
    pool: Pool, sqlstate: str, expected: type[Exception]
) -> None:
    """No error of the driver's gets out, where nobody would catch it."""
    with pytest.raises(DatabaseUnavailable) as caught:
        async with pool.connection() as connection:
            await connection.execute(f"do $$ begin raise exception 'no' using errcode = '{sqlstate}'; end $$")
    assert expected is type(caught.value)


async def test_an_argument_that_cannot_be_sent_is_a_failed_statement(pool: Pool) -> None:
    """Half a surrogate pair has no bytes: that is no outage, which would be waited out for ever."""
    with pytest.raises(StatementFailed):
        await pool.execute("notify", ["\ud800"])


async def test_a_backend_that_is_killed_is_replaced(pool: Pool, connection: asyncpg.Connection) -> None:
    """An error for whoever used it, and the next statement works."""
    async with pool.connection() as used:
        pid = await used.fetchval("select pg_backend_pid()")
    await connection.fetchval("select pg_terminate_backend($1)", pid)

    async def works() -> bool:
        try:
            await pool.fetchval("clock")
        except DatabaseUnavailable:
            return False
        return True

    await wait_until(works)


@contextlib.asynccontextmanager
async def growing(pool: Pool) -> AsyncIterator[None]:
    """A pool that is open, and grows as statements wait."""
    await pool.open()
    task = asyncio.create_task(pool.grow())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pool.close()


async def test_nobody_waits_for_a_connection_to_be_opened(database_url: str) -> None:
    """What finds the only connection in use goes on with that one if it is free first; a new one need never come."""
    async with Wire(database_url) as wire:
        pool = Pool(wire.url, size=4)
        async with growing(pool), asyncio.timeout(8):  # to connect may take 10 s
            async with pool.connection() as busy:
                await busy.fetchval("select 1")
                wire.keep_out()
                others = [asyncio.create_task(pool.fetchval("clock")) for _ in range(2)]
                urgent = asyncio.create_task(pool.fetchval("clock", urgent=True))
                assert 2 == await busy.fetchval("select 2")
                assert not any(task.done() for task in (*others, urgent))
            await asyncio.gather(*others, urgent)
            assert 1 == sum(pool.counts.values())


async def test_the_pool_grows_while_statements_wait(database_url: str) -> None:
    """Up to its size, and never above it; whoever waits gets the new ones."""
    pool = Pool(database_url, size=3)
    async with growing(pool), asyncio.timeout(20):
        together = asyncio.Barrier(2)

        async def meet() -> None:
            async with pool.connection():
                await together.wait()

        await asyncio.gather(meet(), meet())
        assert 2 == sum(pool.counts.values())
        async with pool.connection() as first, pool.connection() as second:
            await asyncio.gather(first.fetchval("select 1"), second.fetchval("select 1"))
            await asyncio.gather(*(pool.fetchval("clock", urgent=True) for _ in range(5)))
            assert 3 == sum(pool.counts.values())


async def test_who_gives_up_in_line_gives_his_turn_away(database_url: str) -> None:
    """However many are cancelled while they wait, or at the very moment of their turn, the last one gets through."""
    async with Wire(database_url) as wire:
        pool = Pool(wire.url, size=4)
        async with growing(pool), asyncio.timeout(8):
            async with pool.connection():
                waiting = [asyncio.create_task(pool.fetchval("clock", urgent=True)) for _ in range(3)]
                wire.keep_out()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                waiting[0].cancel()
            waiting[1].cancel()
            assert await waiting[2]
