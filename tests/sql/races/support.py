"""What the races share: two transactions that meet, a daemon's statements on any connection, and a run that waits."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from slayq_server.db.statements import query
from slayq_server.db.store import lease_arguments
from slayq_server.model import DeadReason, LeaseRequest
from tests.sql.support import (
    EVENT,
    QUEUE,
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

    from slayq_server.model import LeasedJob
    from tests.conftest import Connect
    from tests.sql.support import Daemon

    Call = Callable[[asyncpg.Connection], Awaitable[object]]
    End = Callable[[asyncpg.Connection, Daemon, LeasedJob], Awaitable[None]]

commit_or_not = pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])


async def meet(connect: Connect, first: Call, second: Call, *, commits: bool = True) -> None:
    """Lets `second` begin while the transaction of `first` is open, and end after it."""
    one, two, onlooker = await connect(), await connect(), await connect()
    transaction = one.transaction()
    await transaction.start()
    await first(one)
    running = asyncio.ensure_future(second(two))
    await blocked_by(onlooker, one, two)
    await (transaction.commit() if commits else transaction.rollback())
    await running


# What a daemon does, on a connection that is named.


async def lease(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Leases one job, which must be there."""
    assert 1 == len(
        await connection.fetch(query("lease"), *lease_arguments(daemon.worker_id, [LeaseRequest((QUEUE,), 1)]))
    )


async def complete(connection: asyncpg.Connection, daemon: Daemon, leased: LeasedJob) -> None:
    """The delivery went well."""
    await connection.fetch(query("settle_completed"), daemon.worker_id, [leased.id], [leased.lease], False)


async def fail(connection: asyncpg.Connection, daemon: Daemon, leased: LeasedJob) -> None:
    """The delivery failed; the next one is in ten minutes."""
    arguments = [leased.id], [leased.lease], [600.0], ["500"], [False], [None]
    await connection.fetch(query("settle_retried"), daemon.worker_id, *arguments)


async def bury(connection: asyncpg.Connection, daemon: Daemon, leased: LeasedJob) -> None:
    """The app wants no retry."""
    arguments = [leased.id], [leased.lease], [DeadReason.NO_RETRY], ["666"], [None]
    await connection.fetch(query("settle_dead"), daemon.worker_id, *arguments)


each_end = pytest.mark.parametrize("end", [complete, fail, bury], ids=lambda end: end.__name__)


async def reap(connection: asyncpg.Connection) -> list[str]:
    """Takes back what dead workers hold; what became of it."""
    return [row["fate"] for row in await connection.fetch(query("reap"), 10)]


async def promote(connection: asyncpg.Connection) -> asyncpg.Record:
    """What a daemon's timer does."""
    row = await connection.fetchrow(query("promote"), 100)
    assert row is not None
    return row


# A run of key `run` and data {"n": 1}.


async def start(connection: asyncpg.Connection, daemon: Daemon, max_attempts: int | None = None) -> LeasedJob:
    """The run's first delivery is on its way."""
    await add(connection, "run", {"n": 1}, max_attempts=max_attempts)
    return await daemon.lease_one()


async def sleep(connection: asyncpg.Connection) -> asyncpg.Record:
    """The app says that the run sleeps."""
    return await add(connection, "run", {"n": 1}, cache={"first": 1}, run_at=later())


async def report(connection: asyncpg.Connection) -> asyncpg.Record:
    """The app says that a step of the run threw."""
    return await add(connection, "run", {"n": 1}, cache={"first": 1})


async def cancel_it(connection: asyncpg.Connection) -> None:
    """The run is cancelled."""
    await cancel(connection, EVENT, "n", "1")


# What a sleeping run may wait for.

PAID = ("paid", "order", "7")


async def wait_for_payment(connection: asyncpg.Connection) -> None:
    """The run waits for an event."""
    await wait_event(connection, "run", *PAID, step="step")


async def pay(connection: asyncpg.Connection) -> None:
    """That event happens."""
    await trigger(connection, *PAID)


async def wait_for_callee(connection: asyncpg.Connection) -> None:
    """The run waits for the end of a job that it has invoked."""
    await wait_invocation(connection, "run", "callee", step="step")


async def end_callee(connection: asyncpg.Connection) -> None:
    """That job ends."""
    await trigger_invoker(connection, "callee", "true")


both_kinds = pytest.mark.parametrize(
    ("wait", "ending"), [(wait_for_payment, pay), (wait_for_callee, end_callee)], ids=["event", "invocation"]
)


async def outcome(connection: asyncpg.Connection) -> tuple[str, object, int]:
    """The run's state, what was added to its cache, and how many waits there are."""
    row = await live(connection, "run")
    return row["state"], json.loads(row["patches"] or "null"), await count(connection, "wait")


WOKEN = ("ready", [["step", True]], 0)
PARKED = ("scheduled", None, 1)
ALONE = ("scheduled", None, 0)
