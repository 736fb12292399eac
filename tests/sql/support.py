"""What the SQL tests share: jobs as an app adds them, and a daemon's statements as the engine runs them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from slayq_server.model import DeadReason, LeasedJob, LeaseRequest, Outcome, OutcomeKind, Settled, Settlement
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store

QUEUE = "mail"
EVENT = "shop/order"
URL = "https://app.example.com/slayq"

_ADD = """select * from slayq.add_job(
    identifier => $1, payload => $2, queue_name => $3, run_at => $4, max_attempts => $5, job_key => $6,
    priority => $7, flags => $8, job_key_mode => $9
)"""


def later(**span: float) -> datetime:
    """A time that no test lives to see: in an hour, or in as long as is said."""
    return datetime.now(UTC) + timedelta(**(span or {"hours": 1}))


def payload(data: object = None, *, event: str = EVENT, cache: object = None) -> str:
    """The payload of a job; with a cache, of a continuation."""
    whole = {"url": URL, "retry": 0, "event": event, "data": {} if data is None else data}
    return json.dumps(whole if cache is None else {**whole, "cache": cache})


async def add(
    connection: asyncpg.Connection,
    key: str | None = None,
    data: object = None,
    *,
    queue: str = QUEUE,
    event: str = EVENT,
    cache: object = None,
    raw: str | None = None,
    serial: str | None = None,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
    priority: int | None = None,
    flags: list[str] | None = None,
    mode: str | None = None,
) -> asyncpg.Record:
    """Adds a job; its row of the view slayq.jobs (all nulls where the add came to nothing)."""
    text = payload(data, event=event, cache=cache) if raw is None else raw
    row = await connection.fetchrow(_ADD, queue, text, serial, run_at, max_attempts, key, priority, flags, mode)
    assert row is not None
    return row


async def job(connection: asyncpg.Connection, which: int | str) -> asyncpg.Record | None:
    """A job's row, by its id or its key."""
    column = "id" if isinstance(which, int) else "job_key"
    return await connection.fetchrow(f"select * from slayq.job where {column} = $1", which)


async def live(connection: asyncpg.Connection, which: int | str) -> asyncpg.Record:
    """A job's row, which must be there."""
    row = await job(connection, which)
    assert row is not None, f"there is no job {which!r}"
    return row


async def letter(connection: asyncpg.Connection, letter_id: int) -> asyncpg.Record:
    """A dead letter's row, which must be there."""
    row = await connection.fetchrow("select * from slayq.dead_letter where id = $1", letter_id)
    assert row is not None, f"there is no dead letter {letter_id}"
    return row


async def count(connection: asyncpg.Connection, table: str = "job", where: str = "true") -> int:
    """How many rows a table of ours has."""
    rows: int = await connection.fetchval(f"select count(*) from slayq.{table} where {where}")
    return rows


async def make_due(connection: asyncpg.Connection, *ids: int) -> None:
    """Lets the time of parked jobs come, in place of waiting for it."""
    await connection.execute(
        "update slayq.job set run_at = now() - interval '1 ms' where id = any ($1) and state = 'scheduled'", list(ids)
    )


async def next_due(daemon: Daemon, connection: asyncpg.Connection, *ids: int) -> list[LeasedJob]:
    """Lets the time of parked jobs come, promotes, and leases them."""
    await make_due(connection, *ids)
    await daemon.store.promote(100)
    return await daemon.lease(free=len(ids))


async def wait_event(
    connection: asyncpg.Connection, key: str, event: str, match_key: str, value: str, step: str = "wait"
) -> None:
    """Parks the job of a key until an event, as an app does after it has added the continuation."""
    call = "select wait_for_worker_event($1, $2, $3, $4, $5, now() + interval '1 hour')"
    await connection.execute(call, key, event, match_key, value, step)


async def wait_invocation(connection: asyncpg.Connection, key: str, callee: str, step: str = "invoke") -> None:
    """Parks the job of a key until the job of another key has a result."""
    await connection.execute("select wait_for_invocation($1, $2, $3)", key, callee, step)


async def trigger(connection: asyncpg.Connection, event: str | None, match_key: str | None, value: str | None) -> None:
    """An event happens."""
    await connection.execute("select trigger_waiting_workers($1, $2, $3)", event, match_key, value)


async def trigger_invoker(connection: asyncpg.Connection, callee: str | None, result: str | None) -> None:
    """A job that others have invoked ends with a result (JSON text, or SQL's null)."""
    await connection.execute("select trigger_waiting_invoker($1, $2)", callee, result)


async def cancel(connection: asyncpg.Connection, event: str | None, match_key: str | None, value: str | None) -> None:
    """Pending jobs of an event are cancelled."""
    await connection.execute("select cancel_pending_tasks($1, $2, $3)", event, match_key, value)


def data_of(leased: LeasedJob) -> Any:
    """The data of a leased job."""
    return json.loads(leased.payload)["data"]


async def blocked_by(onlooker: asyncpg.Connection, holder: asyncpg.Connection, waiter: asyncpg.Connection) -> None:
    """Returns once `waiter` waits for a lock that `holder` has."""
    pids = holder.get_server_pid(), waiter.get_server_pid()
    await wait_until(
        lambda: onlooker.fetchval("select $1::integer = any (pg_blocking_pids($2))", *pids),
        what="one waits for the other",
    )


class Daemon:
    """A worker row and what a daemon does under it."""

    def __init__(self, store: Store, worker_id: int) -> None:
        self.store = store
        self.worker_id = worker_id

    @classmethod
    async def register(cls, store: Store, name: str = "daemon", lease_seconds: float = 600.0) -> Daemon:
        """A daemon that has just started."""
        return cls(store, await store.register_worker(name, "0", [QUEUE], lease_seconds))

    async def lease(self, *names: str, free: int = 1, forbidden: tuple[str, ...] = ()) -> list[LeasedJob]:
        """Leases from one pool with these names."""
        return await self.store.lease(self.worker_id, [LeaseRequest(names or (QUEUE,), free)], forbidden)

    async def lease_one(self, *names: str) -> LeasedJob:
        """Leases the one job that must be there."""
        (leased,) = await self.lease(*names)
        return leased

    async def settle(self, *settlements: Settlement, keep_done: bool = False) -> Settled:
        """Writes outcomes down."""
        return await self.store.settle(self.worker_id, settlements, keep_done=keep_done)

    async def complete(self, *jobs: LeasedJob, keep_done: bool = False) -> Settled:
        """These were delivered and done."""
        return await self.settle(*(completed(each) for each in jobs), keep_done=keep_done)

    async def fail(self, *jobs: LeasedJob, delay: float = 600.0, strict: bool = False) -> Settled:
        """These failed and wait for their retry."""
        return await self.settle(*(failed(each, delay=delay, strict=strict) for each in jobs))

    async def bury(self, *jobs: LeasedJob) -> Settled:
        """The app wants no retry of these."""
        return await self.settle(*(buried(each) for each in jobs))

    async def release(self, *jobs: LeasedJob) -> Settled:
        """These are given back at shutdown."""
        return await self.settle(*(released(each) for each in jobs))

    async def expire(self, connection: asyncpg.Connection) -> None:
        """Its time is up, as after a kill -9 and the length of a lease."""
        await connection.execute(
            "update slayq.worker set expires_at = now() - interval '1 second' where id = $1", self.worker_id
        )


def completed(leased: LeasedJob) -> Settlement:
    """The outcome of a delivery that went well."""
    return Settlement(leased.id, leased.lease, leased.queue, Outcome(OutcomeKind.COMPLETED))


def failed(
    leased: LeasedJob, *, delay: float = 600.0, error: str = "500", strict: bool = False, remaining: str | None = None
) -> Settlement:
    """The outcome of a delivery that is to be tried again, of a batch with the elements that remain."""
    outcome = Outcome(OutcomeKind.RETRIED, delay=delay, error=error)
    return Settlement(leased.id, leased.lease, leased.queue, outcome, strict=strict, payload=remaining)


def buried(
    leased: LeasedJob, reason: DeadReason = DeadReason.NO_RETRY, error: str = "666", remaining: str | None = None
) -> Settlement:
    """The outcome of a delivery after which there is no other."""
    outcome = Outcome(OutcomeKind.DEAD, reason=reason, error=error)
    return Settlement(leased.id, leased.lease, leased.queue, outcome, payload=remaining)


def released(leased: LeasedJob) -> Settlement:
    """The outcome of a delivery that was cut off by a shutdown."""
    return Settlement(leased.id, leased.lease, leased.queue, Outcome(OutcomeKind.RELEASED))


def put_off(leased: LeasedJob, *, endpoint: str = "https://app.example.com", delay: float = 300.0) -> Settlement:
    """The outcome of a delivery that was not tried, because its endpoint is away."""
    outcome = Outcome(OutcomeKind.PUT_OFF, delay=delay, endpoint=endpoint)
    return Settlement(leased.id, leased.lease, leased.queue, outcome)
