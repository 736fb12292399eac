"""Waits, triggers and the promoter at the same moment: steps of two transactions in every order, and many at once."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from tests.sql.support import (
    add,
    blocked_by,
    cancel,
    count,
    later,
    live,
    trigger,
    trigger_invoker,
    wait_event,
    wait_invocation,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon

    Call = Callable[[asyncpg.Connection], Awaitable[None]]

PAID = ("paid", "order", "7")


async def wait_for_payment(connection: asyncpg.Connection) -> None:
    await wait_event(connection, "run", *PAID, step="step")


async def pay(connection: asyncpg.Connection) -> None:
    await trigger(connection, *PAID)


async def wait_for_callee(connection: asyncpg.Connection) -> None:
    await wait_invocation(connection, "run", "callee", step="step")


async def end_callee(connection: asyncpg.Connection) -> None:
    await trigger_invoker(connection, "callee", "true")


both_kinds = pytest.mark.parametrize(
    ("wait", "ending"), [(wait_for_payment, pay), (wait_for_callee, end_callee)], ids=["event", "invocation"]
)
commit_or_not = pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])


async def meet(connect: Connect, first: Call, second: Call, *, commits: bool) -> None:
    """Lets `second` begin while the transaction of `first` is open, and end after it."""
    one, two, onlooker = await connect(), await connect(), await connect()
    transaction = one.transaction()
    await transaction.start()
    await first(one)
    running = asyncio.ensure_future(second(two))
    await blocked_by(onlooker, one, two)
    await (transaction.commit() if commits else transaction.rollback())
    await running


async def outcome(connection: asyncpg.Connection) -> tuple[str, object, int]:
    """The run's state, what was added to its cache, and how many waits there are."""
    row = await live(connection, "run")
    return row["state"], json.loads(row["patches"] or "null"), await count(connection, "wait")


WOKEN = ("ready", [["step", True]], 0)
PARKED = ("scheduled", None, 1)
ALONE = ("scheduled", None, 0)


@both_kinds
@commit_or_not
async def test_the_trigger_comes_first(
    connection: asyncpg.Connection, connect: Connect, wait: Call, ending: Call, commits: bool
) -> None:
    """A wait that meets an open trigger waits for it, and finds it if it was committed."""
    await add(connection, "run", cache={}, run_at=later())
    await meet(connect, ending, wait, commits=commits)
    assert await outcome(connection) == (WOKEN if commits else PARKED)


@both_kinds
@commit_or_not
async def test_the_wait_comes_first(
    connection: asyncpg.Connection, connect: Connect, wait: Call, ending: Call, commits: bool
) -> None:
    """A trigger that meets an open wait waits for it, and wakes the job if it was committed."""
    await add(connection, "run", cache={}, run_at=later())
    await meet(connect, wait, ending, commits=commits)
    assert await outcome(connection) == (WOKEN if commits else ALONE)


@both_kinds
async def test_the_trigger_comes_within_one_transaction_of_the_app(
    connection: asyncpg.Connection, connect: Connect, wait: Call, ending: Call
) -> None:
    """Fired and committed between an app's re-add and its wait, both in one open transaction: it is found."""
    app = await connect()
    async with app.transaction():
        await add(app, "run", cache={}, run_at=later())
        await ending(connection)
        await wait(app)
    assert await outcome(connection) == WOKEN


async def test_two_triggers_at_once(connection: asyncpg.Connection, connect: Connect) -> None:
    """The second waits for the first and finds nothing left: one outcome."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, pay, pay, commits=True)
    assert await outcome(connection) == WOKEN


async def promote(connection: asyncpg.Connection) -> asyncpg.Record:
    """What a daemon's timer does."""
    row = await connection.fetchrow(query("promote"), 100)
    assert row is not None
    return row


async def test_the_promoter_passes_by_an_open_trigger(connection: asyncpg.Connection, connect: Connect) -> None:
    """At the time-out, with a trigger's transaction open on the job: the promoter does not wait, the trigger counts."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await connection.execute("update slayq.job set run_at = now() - interval '1 s'")
    caller = await connect()
    async with caller.transaction():
        await pay(caller)
        promoted = await promote(connection)
        assert (promoted["promoted"], promoted["expired_events"]) == (0, 0)
    assert await outcome(connection) == WOKEN
    assert (await promote(connection))["promoted"] == 0


async def test_a_trigger_finds_the_job_just_promoted(connection: asyncpg.Connection, connect: Connect) -> None:
    """At the time-out, with the promoter first: the trigger waits for it and changes nothing; the wait timed out."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)
    await connection.execute("update slayq.job set run_at = now() - interval '1 s'")

    async def time_out(promoter: asyncpg.Connection) -> None:
        assert (await promote(promoter))["expired_events"] == 1

    await meet(connect, time_out, pay, commits=True)
    assert await outcome(connection) == ("ready", None, 0)


@commit_or_not
async def test_a_cancel_comes_before_a_trigger(connection: asyncpg.Connection, connect: Connect, commits: bool) -> None:
    """A trigger that meets an open cancel of the job waits for it, and wakes what is left."""
    await add(connection, "run", {"n": 1}, cache={}, run_at=later())
    await wait_for_payment(connection)
    await meet(connect, lambda one: cancel(one, "shop/order", "n", "1"), pay, commits=commits)
    if commits:
        assert (await count(connection), await count(connection, "wait")) == (0, 0)
    else:
        assert await outcome(connection) == WOKEN


async def test_a_job_added_again_before_a_trigger(connection: asyncpg.Connection, connect: Connect) -> None:
    """A trigger that meets an open re-add of the waiting job waits for it; the fresh job is not patched."""
    await add(connection, "run", cache={}, run_at=later())
    await wait_for_payment(connection)

    async def replace(app: asyncpg.Connection) -> None:
        await add(app, "run", {"n": 2}, run_at=later())

    await meet(connect, replace, pay, commits=True)
    assert await outcome(connection) == ALONE


async def test_waits_triggers_promoter_and_cancels_at_once(connect: Connect, daemon: Daemon) -> None:
    """Hundreds of runs, each with one outcome: woken, timed out or cancelled; no deadlock, no wait left over."""
    generator = random.Random(14)
    runs = 300
    main = await connect()
    expired = 0
    over = asyncio.Event()

    async def app(connection: asyncpg.Connection, numbers: range) -> None:
        for n in numbers:
            spare = generator.random() * 0.02
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
