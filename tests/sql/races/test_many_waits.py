"""Waits, triggers, the promoter and cancels, all at once."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING

from tests.sql.races.support import promote
from tests.sql.support import add, cancel, count, later, trigger, trigger_invoker, wait_event, wait_invocation

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon


async def test_waits_triggers_promoter_and_cancels_at_once(connect: Connect, daemon: Daemon) -> None:
    """Hundreds of runs, each with one outcome: woken, timed out or cancelled; no deadlock, no wait left over."""
    generator = random.Random(14)
    runs = 300
    main = await connect()
    expired = 0
    over = asyncio.Event()

    async def app(connection: asyncpg.Connection, numbers: range) -> None:
        for n in numbers:
            spare = generator.random() * generator.choice((0.02, 0.2, 1.0))  # however slow the machine
            await add(connection, f"run {n}", {"n": n % 30}, cache={}, run_at=later(seconds=spare))
            if n % 2:
                await wait_event(connection, f"run {n}", "paid", "order", str(n % 15), step=f"step {n}")
            else:
                await wait_invocation(connection, f"run {n}", f"callee {n % 15}", step=f"step {n}")

    async def outside(connection: asyncpg.Connection) -> None:
        while not over.is_set():
            value = generator.randrange(15)
            await trigger(connection, "paid", "order", str(value))
            await trigger_invoker(connection, f"callee {value}", "1")
            if generator.random() < 0.2:
                await cancel(connection, "shop/order", "n", str(generator.randrange(30)))

    async def time(connection: asyncpg.Connection) -> None:
        nonlocal expired
        while not over.is_set() or await count(connection, where="state = 'scheduled'"):
            promoted = await promote(connection)
            expired += promoted["expired_events"] + promoted["expired_invocations"]

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(outside(await connect()))
        for _ in range(2):
            group.create_task(time(await connect()))
        apps = [await connect() for _ in range(6)]
        share = runs // len(apps)
        await asyncio.gather(*(app(each, range(n * share, (n + 1) * share)) for n, each in enumerate(apps)))
        over.set()

    rows = await main.fetch("select job_key, state, patches from slayq.job")
    woken = [row for row in rows if row["patches"]]
    assert await count(main, "wait") == 0
    assert {row["state"] for row in rows} == {"ready"}
    assert woken
    assert expired
    for row in woken:
        n = int(row["job_key"].split()[1])
        assert json.loads(row["patches"]) == [[f"step {n}", True if n % 2 else 1]]
