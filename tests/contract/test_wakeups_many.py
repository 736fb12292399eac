"""A thousand rounds of add, wait and trigger in every order of the three: no wake-up is lost.

Two connections for each round: one adds and waits, as the app that delivers does; the other triggers, as any app does.
A trigger counts from when the continuation was added, and each order has one that does.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from tests.conftest import Connect

ROUNDS = 1_000
PAIRS = 6
"""Rounds that run at the same time, each on two connections."""
PAYLOAD = {"url": "http://127.0.0.1:9/slayq", "event": "wait/event", "data": {}, "cache": {"first": 1, "step": False}}


@dataclass(frozen=True)
class Round:
    """One continuation, the wait for one term, and the trigger of that term."""

    number: int
    kind: str
    waiter: asyncpg.Connection
    other: asyncpg.Connection

    async def add(self) -> None:
        await self.waiter.execute(
            "select add_worker_job('general', $1, null, now() + interval '1 hour', null, $2, null, null, null)",
            json.dumps(PAYLOAD),
            f"waiter {self.number}",
        )

    async def wait(self) -> None:
        if self.kind == "event":
            await self.waiter.execute(
                "select wait_for_worker_event($1, 'approved', 'order', $2, 'step', now() + interval '1 hour')",
                f"waiter {self.number}",
                str(self.number),
            )
        else:
            await self.waiter.execute(
                "select wait_for_invocation($1, $2, 'step')", f"waiter {self.number}", f"callee {self.number}"
            )

    async def trigger(self) -> None:
        if self.kind == "event":
            await self.other.execute("select trigger_waiting_workers('approved', 'order', $1)", str(self.number))
        else:
            await self.other.execute("select trigger_waiting_invoker($1, 'true')", f"callee {self.number}")


async def add_wait_trigger(one: Round) -> None:
    await one.add()
    await one.wait()
    await one.trigger()


async def add_trigger_wait(one: Round) -> None:
    await one.add()
    await one.trigger()
    await one.wait()


async def add_then_both_at_once(one: Round) -> None:
    await one.add()
    await asyncio.gather(one.wait(), one.trigger())


async def trigger_inside_of_the_apps_transaction(one: Round) -> None:
    """The trigger is committed before the continuation is."""
    async with one.waiter.transaction():
        await one.add()
        await one.trigger()
        await one.wait()


async def trigger_during_the_apps_commit(one: Round) -> None:
    async def commit() -> None:
        async with one.waiter.transaction():
            await one.add()
            await one.wait()
            waited.set()

    async def trigger() -> None:
        await waited.wait()
        await one.trigger()

    waited = asyncio.Event()
    await asyncio.gather(commit(), trigger())


async def wait_during_the_triggers_commit(one: Round) -> None:
    async def commit() -> None:
        async with one.other.transaction():
            await one.trigger()
            triggered.set()

    async def wait() -> None:
        await triggered.wait()
        await one.wait()

    triggered = asyncio.Event()
    await one.add()
    await asyncio.gather(commit(), wait())


ORDERS: list[Callable[[Round], Awaitable[None]]] = [
    add_wait_trigger,
    add_trigger_wait,
    add_then_both_at_once,
    trigger_inside_of_the_apps_transaction,
    trigger_during_the_apps_commit,
    wait_during_the_triggers_commit,
]


@pytest.mark.parametrize("kind", ["event", "invocation"])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
async def test_no_wake_up_is_lost(connect: Connect, order: Callable[[Round], Awaitable[None]], kind: str) -> None:
    """Every one of the waiting jobs is due with what woke it in its cache, and no wait is left."""
    pairs: asyncio.Queue[tuple[asyncpg.Connection, asyncpg.Connection]] = asyncio.Queue()
    for _ in range(PAIRS):
        pairs.put_nowait((await connect(), await connect()))

    @asynccontextmanager
    async def pair() -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
        taken = await pairs.get()
        yield taken
        pairs.put_nowait(taken)

    async def play(number: int) -> None:
        async with pair() as (waiter, other):
            await order(Round(number, kind, waiter, other))

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for number in range(ROUNDS):
            group.create_task(play(number))
    connection = await connect()
    woken = "select count(*) from slayq.job where state = 'ready' and run_at <= now() and patches::jsonb = $1"
    assert ROUNDS == await connection.fetchval(woken, '[["step", true]]')
    assert 0 == await connection.fetchval("select count(*) from slayq.wait")
