"""A migration while everything else goes on: it waits for what is open, and what comes then waits for it.

What waited, and every session that was there before, works on the new schema; or on the old one, if that failed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from slayq_server.db.migrate import Migration, load, migrate
from slayq_server.db.statements import query
from slayq_server.db.store import lease_arguments
from slayq_server.model import DeadReason, LeaseRequest
from tests.sql.races.support import promote, reap
from tests.sql.runs import PLACED, register, send
from tests.sql.support import EVENT, QUEUE, add, cancel, later, live, trigger, wait_event
from tests.support.wait import WAITS, wait_until

if TYPE_CHECKING:
    from slayq_server.model import LeasedJob
    from tests.conftest import Connect
    from tests.sql.races.support import Call
    from tests.sql.support import Daemon

GATE = 7
NEWEST = load()[-1].number
TABLES = ("job", "wait", "step", "schedule", "worker", "event", "slot", "function", "queue", "dead_letter", "trigger")
WIDER = "".join(f"alter table slayq.{table} add column more text default 'x';\n" for table in TABLES)
"""What a later release might do: each of these locks its table against everybody."""


class Work:
    """What daemons and apps do, each on a connection of its own, which has done it before."""

    def __init__(self, daemon: Daemon, leased: dict[str, LeasedJob]) -> None:
        self._daemon = daemon
        self._leased = leased

    async def add(self, connection: asyncpg.Connection) -> None:
        """An app adds a job under a key that is there."""
        await add(connection, "waiting", {"n": 1}, run_at=later())

    async def wait(self, connection: asyncpg.Connection) -> None:
        """A job waits for an event."""
        await wait_event(connection, "waiting", "paid", "order", "7")

    async def trigger(self, connection: asyncpg.Connection) -> None:
        """An event that somebody may wait for."""
        await trigger(connection, "paid", "order", "8")

    async def cancel(self, connection: asyncpg.Connection) -> None:
        """Jobs are cancelled."""
        await cancel(connection, EVENT, "n", "99")

    async def send(self, connection: asyncpg.Connection) -> None:
        """An event starts a run."""
        await send(connection, PLACED, {"order": 7})

    async def register(self, connection: asyncpg.Connection) -> None:
        """An app starts."""
        await register(connection)

    async def lease(self, connection: asyncpg.Connection) -> None:
        """A daemon looks for jobs, of which there are none in that queue."""
        await connection.fetch(query("lease"), *lease_arguments(self._daemon.worker_id, [LeaseRequest(("empty",), 1)]))

    async def renew(self, connection: asyncpg.Connection) -> None:
        """A daemon renews its row."""
        assert (await connection.fetchrow(query("worker_renew"), self._daemon.worker_id, 600.0, [QUEUE], "[]"))["held"]

    async def complete(self, connection: asyncpg.Connection) -> None:
        """Its deliveries end well."""
        await self._settle(connection, "settle_completed", "complete", False)

    async def fail(self, connection: asyncpg.Connection) -> None:
        """Or not."""
        await self._settle(connection, "settle_retried", "fail", [600.0], ["500"], [False], [None])

    async def bury(self, connection: asyncpg.Connection) -> None:
        """Or never will."""
        await self._settle(connection, "settle_dead", "bury", [DeadReason.NO_RETRY], ["666"], [None])

    async def promote(self, connection: asyncpg.Connection) -> None:
        """What is due becomes ready."""
        await promote(connection)

    async def reap(self, connection: asyncpg.Connection) -> None:
        """What a dead worker held goes back."""
        await reap(connection)

    async def tick(self, connection: asyncpg.Connection) -> None:
        """Are ticks due?"""
        await connection.fetch(query("schedules_due"), ["hourly"])

    async def match(self, connection: asyncpg.Connection) -> None:
        """Events find those who wait."""
        await connection.fetchrow(query("match_events"), 100, 0)

    async def slots(self, connection: asyncpg.Connection) -> None:
        """A queue's limit in the cluster."""
        await connection.fetchval(query("slots_acquire"), self._daemon.worker_id, QUEUE, 1, 1)

    async def measure(self, connection: asyncpg.Connection) -> None:
        """What /metrics tells."""
        await connection.fetch(query("snapshot"))

    async def _settle(self, connection: asyncpg.Connection, name: str, end: str, *more: object) -> None:
        leased = self._leased[end]
        rows = await connection.fetch(query(name), self._daemon.worker_id, [leased.id], [leased.lease], *more)
        # Told twice, the first time by what the connection had done before.
        assert rows[0]["verdict"] in ("settled", "stale")


EACH = [name for name in vars(Work) if not name.startswith("_")]


@pytest.fixture
async def work(connection: asyncpg.Connection, daemon: Daemon) -> Work:
    """Jobs that are being delivered, and one that waits."""
    leased = {}
    for end in ("complete", "fail", "bury"):
        await add(connection, end)
        leased[end] = await daemon.lease_one()
    await add(connection, "waiting", {"n": 1}, run_at=later())
    await register(connection)
    return Work(daemon, leased)


@pytest.mark.parametrize("succeeds", [True, False], ids=["commit", "rollback"])
async def test_whatever_meets_an_open_migration_goes_on_after_it(
    database_url: str, connection: asyncpg.Connection, connect: Connect, work: Work, succeeds: bool
) -> None:
    """Everything that daemons and apps do waits for it, and then works, in sessions that knew the schema before."""
    sessions = {name: await connect() for name in EACH}
    for name, session in sessions.items():
        await getattr(work, name)(session)
    gate = await connect()
    await gate.execute("select pg_advisory_lock($1)", GATE)
    migrating = asyncio.ensure_future(migrate(database_url, migrations=[*load(), gated(succeeds)]))
    await wait_until(lambda: connection.fetchval(AT_THE_GATE, gate.get_server_pid()), what="the migration's locks")
    running = {name: asyncio.ensure_future(patiently(getattr(work, name), each)) for name, each in sessions.items()}
    for session in sessions.values():
        await wait_until(lambda each=session: connection.fetchval(WAITS, each.get_server_pid()), what="it waiting")
    assert not any(each.done() for each in running.values())
    await gate.execute("select pg_advisory_unlock($1)", GATE)
    if succeeds:
        assert NEWEST + 1 == (await migrating)[0].number
    else:
        with pytest.raises(Exception, match="division by zero"):
            await migrating
    async with asyncio.timeout(30):
        await asyncio.gather(*running.values())
    for name, session in sessions.items():
        await getattr(work, name)(session)
    assert succeeds == ("more" in dict(await live(connection, "waiting")))


async def test_a_migration_that_meets_what_is_open_waits_for_it(
    database_url: str, connection: asyncpg.Connection, connect: Connect, work: Work
) -> None:
    """An app's open transaction holds it up; what comes in between waits for both, and is done at the end."""
    app, later_one = await connect(), await connect()
    transaction = app.transaction()
    await transaction.start()
    await work.add(app)
    migrating = asyncio.ensure_future(migrate(database_url, migrations=[*load(), wider(WIDER)]))
    waiting = "select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'"
    await wait_until(lambda: connection.fetchval(waiting), what="the migration waiting")
    adding = asyncio.ensure_future(add(later_one, "new", {"n": 2}))
    await wait_until(lambda: connection.fetchval(WAITS, later_one.get_server_pid()), what="the add waiting")
    await transaction.commit()
    assert NEWEST + 1 == (await migrating)[0].number
    await adding
    assert "x" == (await live(connection, "new"))["more"]


async def test_two_migrations(database_url: str, connection: asyncpg.Connection, connect: Connect) -> None:
    """The second waits for the first, and finds that there is nothing left to do."""
    gate = await connect()
    await gate.execute("select pg_advisory_lock($1)", GATE)
    ours = [*load(), gated(True)]
    first = asyncio.ensure_future(migrate(database_url, migrations=ours))
    await wait_until(lambda: connection.fetchval(AT_THE_GATE, gate.get_server_pid()), what="the migration's locks")
    second = asyncio.ensure_future(migrate(database_url, migrations=ours))
    await wait_until(lambda: connection.fetchval(QUEUED), what="the second one waiting")
    await gate.execute("select pg_advisory_unlock($1)", GATE)
    assert ([NEWEST + 1], []) == ([each.number for each in await first], [each.number for each in await second])


async def patiently(call: Call, connection: asyncpg.Connection) -> None:
    """Daemons give up a lock that they do not get soon, and try again."""
    while True:
        try:
            await call(connection)
        except asyncpg.LockNotAvailableError:
            continue
        return


def wider(sql: str) -> Migration:
    """A migration of a later release."""
    return Migration(NEWEST + 1, "later", sql, "x", NEWEST)


def gated(succeeds: bool) -> Migration:
    """One that stops, with all its locks, until the test lets it through."""
    return wider(f"{WIDER} select pg_advisory_xact_lock({GATE}); {'' if succeeds else 'select 1 / 0;'}")


AT_THE_GATE = "select exists (select from pg_stat_activity where $1 = any (pg_blocking_pids(pid)))"
QUEUED = """
select count(*) = 1 from pg_locks
where locktype = 'advisory' and classid = 1936484720 and not granted and database = (
    select oid from pg_database where datname = current_database()
)
"""
