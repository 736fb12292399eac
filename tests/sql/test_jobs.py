"""Jobs without keys: their state when added, when leased, after a failure; their order; numbers past 2^31."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from slayq_server.model import LeaseRequest, QueueFacts
from tests.sql.support import QUEUE, add, count, data_of, job, later, letter, live, make_due, payload, released

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob, Place
    from tests.sql.support import Daemon

PAST_INTEGER = 2**31


async def test_an_added_job_is_due_at_once(connection: asyncpg.Connection) -> None:
    """J1: run_at lies within the add; unlocked, attempts 0, max_attempts 25, priority 0."""
    before = await connection.fetchval("select clock_timestamp()")
    added = await add(connection, data={"n": 1})
    after = await connection.fetchval("select clock_timestamp()")
    row = await live(connection, added["id"])

    assert before <= row["run_at"] <= after
    assert {
        "state": "ready",
        "worker_id": None,
        "leased_at": None,
        "lease": 0,
        "attempts": 0,
        "max_attempts": 25,
        "priority": 0,
        "revision": 0,
        "job_key": None,
        "serial_queue": None,
        "flags": None,
        "last_error": None,
        "patches": None,
        "event": "shop/order",
    }.items() <= dict(row).items()
    assert row["payload"] == payload({"n": 1})


async def test_the_public_function_takes_nulls_for_defaults(connection: asyncpg.Connection) -> None:
    """J1: the postgres driver passes an explicit null for all that it does not set; each means the default."""
    text = payload({"n": 1})
    await connection.execute("select add_worker_job($1, $2, null, null, null, null, null, null, null)", QUEUE, text)
    await connection.execute("select add_worker_job(identifier => $1, payload => $2)", QUEUE, text)

    rows = await connection.fetch(
        "select state, attempts, max_attempts, priority, job_key, serial_queue, flags from slayq.job"
    )
    assert [tuple(row) for row in rows] == [("ready", 0, 25, 0, None, None, None)] * 2


async def test_a_queue_may_have_its_own_max_attempts(connection: asyncpg.Connection, store: Store) -> None:
    """J1: the default may be the queue's own, for single and bulk adds; what is given counts."""
    await store.register_queues([QueueFacts(QUEUE, 7, 1.0, 2.0, 10, None, 0.0, False)])
    single = await add(connection)
    given = await add(connection, max_attempts=3)
    (bulk,) = await connection.fetch(
        "select * from slayq.add_jobs(array[row($1, $2, null, null, null, null, null, null)::slayq.job_spec])",
        QUEUE,
        payload(),
    )
    assert (single["max_attempts"], given["max_attempts"], bulk["max_attempts"]) == (7, 3, 7)


async def test_each_due_job_is_leased_once_and_leaves_the_table_when_done(
    connection: asyncpg.Connection, daemon: Daemon
) -> None:
    """J2: thirty jobs leased in batches are thirty different jobs; completed, they are gone."""
    added = {(await add(connection, data={"n": n}))["id"] for n in range(30)}
    seen: list[int] = []
    while batch := await daemon.lease(free=7):
        seen += [each.id for each in batch]
        await daemon.complete(*batch)

    assert (len(seen), set(seen)) == (30, added)
    assert await count(connection) == 0


async def test_a_failure_is_written_down(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J3: attempts, last_error and run_at = now + the delay; nobody holds it."""
    added = await add(connection)
    leased = await daemon.lease_one()
    settled = await daemon.fail(leased, delay=40.0)
    row = await live(connection, added["id"])

    assert settled.verdicts == {leased.id: "settled"}
    assert (row["state"], row["attempts"], row["last_error"], row["worker_id"]) == ("scheduled", 1, "500", None)
    assert (row["run_at"] - row["updated_at"]).total_seconds() == pytest.approx(40.0, abs=1.0)


@pytest.mark.parametrize("attempt", [1, 2, 3, 9, 10, 11, 25])
async def test_back_off_grows_by_e_up_to_the_tenth(connection: asyncpg.Connection, attempt: int) -> None:
    """J3: exp(min(attempts, 10)) seconds with at most 10 % of jitter, for a queue that nobody has configured."""
    seconds = await connection.fetch(
        "select extract(epoch from slayq._backoff_1('mail', $1))::float as s from generate_series(1, 50)", attempt
    )
    plain = 2.718281828459045 ** min(attempt, 10)
    assert all(0.9 * plain <= row["s"] <= 1.1 * plain for row in seconds)
    assert len({row["s"] for row in seconds}) > 1


async def test_back_off_as_configured(connection: asyncpg.Connection, store: Store) -> None:
    """J3: a queue's own base, factor, cap and maximum; a jitter of 0 is possible."""
    await store.register_queues([QueueFacts(QUEUE, None, 5.0, 2.0, 4, 30.0, 0.0, False)])
    seconds = await connection.fetch(
        "select extract(epoch from slayq._backoff_1($1, n))::float as s from generate_series(1, 6) as n", QUEUE
    )
    assert [row["s"] for row in seconds] == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0]


async def test_a_retry_does_not_run_before_its_time(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J4: before run_at neither the promoter nor a lease touches it; then it is leased, as the second attempt."""
    added = await add(connection)
    await daemon.fail(await daemon.lease_one())
    early = await daemon.store.promote(10)

    assert early.count == 0
    assert early.due_in == pytest.approx(600.0, abs=5.0)
    assert await daemon.lease(free=5) == []

    await make_due(connection, added["id"])
    due = await daemon.store.promote(10)
    assert (due.count, due.ready, due.due_in) == (1, (QUEUE,), None)
    assert (await daemon.lease_one()).attempts == 2


async def test_the_second_failure_counts_on(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J5: after two failures attempts is 2 and the lease number has risen twice."""
    added = await add(connection)
    leases = []
    for _ in range(2):
        await make_due(connection, added["id"])
        await daemon.store.promote(10)
        leased = await daemon.lease_one()
        leases.append(leased.lease)
        await daemon.fail(leased)
    row = await live(connection, added["id"])

    assert (row["attempts"], row["state"], leases) == (2, "scheduled", [1, 2])


async def test_a_future_job_runs_once_when_due(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J6: not leased before its time; promoted once and leased once after it."""
    added = await add(connection, run_at=later())
    assert added["state"] == "scheduled"
    assert await daemon.lease(free=5) == []

    await make_due(connection, added["id"])
    assert [(await daemon.store.promote(10)).count for _ in range(2)] == [1, 0]
    assert [each.id for each in await daemon.lease(free=5)] == [added["id"]]
    assert await daemon.lease(free=5) == []


async def test_attempts_count_the_running_attempt(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J7: what the daemon delivers as `retry` is in the row while it runs."""
    added = await add(connection)
    leased = await daemon.lease_one()
    row = await live(connection, added["id"])

    assert (leased.attempts, row["attempts"], row["state"]) == (1, 1, "leased")
    assert (row["worker_id"], row["lease"]) == (daemon.worker_id, leased.lease)


@pytest.mark.parametrize("free", [1, 4, 100])
async def test_order_is_priority_then_time_then_id(connection: asyncpg.Connection, daemon: Daemon, free: int) -> None:
    """J11: priority ascending (negative ones first), then run_at, then id, whatever the size of a lease."""
    generator = random.Random(11)
    times = [later(hours=-each) for each in (1, 2, 3)]
    jobs = []
    for _ in range(40):
        priority, run_at = generator.choice([-32768, -1, 0, 0, 5, 32767]), generator.choice(times)
        added = await add(connection, priority=priority, run_at=run_at)
        jobs.append((priority, run_at, added["id"]))
    seen: list[int] = []
    while batch := await daemon.lease(free=free):
        seen += [each.id for each in batch]

    assert seen == [id_ for _, _, id_ in sorted(jobs)]


async def test_a_pool_with_aliases_leases_the_best_of_all_its_names(
    connection: asyncpg.Connection, daemon: Daemon
) -> None:
    """J11: an alias shares the pool's slots, so the order holds over all names and the limit is one."""
    expected = []
    for priority in range(6):
        name = ("mail", "post", "letters")[priority % 3]
        expected.append((await add(connection, queue=name, priority=priority))["id"])

    assert [each.id for each in await daemon.lease("letters", "mail", "post", free=4)] == expected[:4]
    assert [each.id for each in await daemon.lease("letters", "mail", "post", free=4)] == expected[4:]


async def test_each_pool_gets_no_more_than_its_free_slots(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J2: one statement leases for all pools, for each as many as it has room for; others' queues are left alone."""
    for queue in ("a", "b", "c"):
        for _ in range(5):
            await add(connection, queue=queue)
    leased = await daemon.store.lease(daemon.worker_id, [LeaseRequest(("a",), 2), LeaseRequest(("b",), 3)])

    assert sorted(each.queue for each in leased) == ["a", "a", "b", "b", "b"]


async def test_no_last_attempt_is_leased_ahead(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """If it is lost unsent, with its daemon, the job would be a dead letter that nobody has seen."""
    for key in ("once", "once more", "often", "often too"):
        await add(connection, key, max_attempts=1 if key.startswith("once") else 5)

    async def lease(free: int, ahead: int) -> list[str | None]:
        request = LeaseRequest((QUEUE,), free, ahead)
        return [leased.job_key for leased in await daemon.store.lease(daemon.worker_id, [request])]

    assert ["once", "often"] == await lease(1, 2)
    assert [] == await lease(0, 1)
    assert ["once more", "often too"] == await lease(1, 1)


async def test_a_lease_begins_where_it_is_told_to(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The last job of each queue says where it stands, and a lease that begins there takes nothing before it."""

    async def due(leased: LeasedJob) -> int:
        statement = "select extract(epoch from run_at) * 1000000 from slayq.job where id = $1"
        return int(await connection.fetchval(statement, leased.id))

    async def lease(free: int, start: Place | None = None) -> list[LeasedJob]:
        return await daemon.store.lease(daemon.worker_id, [LeaseRequest(("mail", "post"), free, start=start)])

    for place, key in enumerate(("a", "b", "c", "d", "e", "f")):
        await add(
            connection, key, queue=("mail", "post")[place % 2], priority=place // 2, run_at=later(seconds=place - 60)
        )
    first, second, third = await lease(3)
    assert (first.place, second.place, third.place) == (
        None, (0, await due(second), second.id), (1, await due(third), third.id)
    )  # fmt: skip
    await daemon.settle(*(released(each) for each in (first, second, third)))

    assert ["b", "c"] == [each.job_key for each in await lease(2, second.place)]
    assert ["d"] == [each.job_key for each in await lease(1, (1, await due(third), third.id))]
    assert [] == await lease(2, (3, None, 0))
    assert ["e", "f"] == [each.job_key for each in await lease(2, (2, None, 0))]
    assert ["a"] == [each.job_key for each in await lease(2)]


@pytest.mark.parametrize("due", ["-infinity", "4713-01-01 BC", "0001-01-01 BC", "1969-12-31 23:59:59.999999+00"])
async def test_times_that_python_does_not_know(connection: asyncpg.Connection, daemon: Daemon, due: str) -> None:
    """Such jobs are leased like others, and a lease can begin with them."""
    for key in ("first", "second"):
        await add(connection, key)
    await connection.execute("update slayq.job set run_at = $1::text::timestamptz", due)
    first = await daemon.lease_one()
    assert "first" == first.job_key
    assert first.place is not None
    await daemon.settle(released(first))
    again = await daemon.store.lease(daemon.worker_id, [LeaseRequest((QUEUE,), 2, start=first.place)])
    assert ["first", "second"] == [each.job_key for each in again]


async def test_numbers_past_31_bits(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """J12: with ids past 2^31 adding, leasing, settling and all administration work."""
    for sequence in ("job_id_seq", "worker_id_seq", "wait_id_seq", "trigger_id_seq"):
        await connection.execute(f"select setval('slayq.{sequence}', $1)", PAST_INTEGER)
    daemon = await type(daemon).register(daemon.store)
    plain, keyed, parked, doomed = [
        (await add(connection, key, {"n": n}, run_at=later() if key == "parked" else None))["id"]
        for n, key in enumerate([None, "keyed", "parked", "doomed"])
    ]
    assert min(plain, keyed, parked, doomed, daemon.worker_id) > PAST_INTEGER

    await connection.execute("select wait_for_worker_event('parked', 'e', 'k', 'v', 's', now())")
    await connection.execute("select trigger_waiting_workers('e', 'k', 'v')")
    assert [each.id for each in await daemon.lease(free=4)] == [plain, keyed, doomed, parked]
    rows = {each: await live(connection, each) for each in (plain, keyed, parked, doomed)}
    assert json.loads(rows[parked]["patches"]) == [["s", True]]

    await connection.execute("update slayq.job set lease = $1", PAST_INTEGER)
    await daemon.expire(connection)
    reaped, _ = await daemon.store.reap(100)
    assert {each.job_id for each in reaped} == set(rows)
    daemon = await type(daemon).register(daemon.store)
    first, second, third, fourth = await daemon.lease(free=4)
    assert first.lease == PAST_INTEGER + 1
    await daemon.complete(first, keep_done=True)
    await daemon.fail(second)
    await daemon.bury(third)
    await daemon.release(fourth)

    assert (await connection.fetchrow("select * from slayq.reschedule_jobs(array[$1::bigint])", second.id)) is not None
    assert await connection.fetchval("select id from slayq._redrive_1(array[$1::bigint]) as id", third.id) == third.id
    failed = await connection.fetchval("select (slayq.permanently_fail_jobs(array[$1::bigint])).id", third.id)
    assert (await letter(connection, failed))["reason"] == "failed-by-operator"
    assert await connection.fetchval("select (slayq.remove_job($1)).id", fourth.job_key) == fourth.id
    await connection.execute("select cancel_pending_tasks('shop/order', 'n', '1')")
    assert await job(connection, second.id) is None


async def test_a_server_leaves_forbidden_flags_alone(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """F1-F3: flags are stored; jobs with a forbidden one are left alone, and the rest run."""
    flagged = await add(connection, flags=["gpu", "slow"])
    other = await add(connection, flags=["slow"])
    plain = await add(connection)

    assert flagged["flags"] == ["gpu", "slow"]
    assert [each.id for each in await daemon.lease(free=9, forbidden=("gpu", "tpu"))] == [other["id"], plain["id"]]
    assert [each.id for each in await daemon.lease(free=9)] == [flagged["id"]]


async def test_a_paused_queue_hides_no_other(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A heartbeat tells of what is ready in all other queues, which a daemon that cannot listen goes by."""
    await add(connection)
    await connection.execute("insert into slayq.queue (name, paused) values ('idle', true)")
    heartbeat = await daemon.store.renew_worker(daemon.worker_id, 600.0, [QUEUE, "idle"])
    assert (heartbeat.ready, heartbeat.paused) == ((QUEUE,), frozenset({"idle"}))


async def test_a_paused_queue_is_not_leased_from(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """What a paused queue has waits; it goes on where it was when the pause ends."""
    added = await add(connection)
    await connection.execute("insert into slayq.queue (name, paused) values ($1, true)", QUEUE)
    assert await daemon.lease(free=5) == []
    heartbeat = await daemon.store.renew_worker(daemon.worker_id, 600.0, [QUEUE])
    assert (heartbeat.ready, heartbeat.paused) == ((), frozenset({QUEUE}))

    await connection.execute("update slayq.queue set paused = false")
    assert (await daemon.lease_one()).id == added["id"]


async def test_a_worker_whose_time_is_up_leases_nothing(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Nor can it renew: others may already have its jobs."""
    await add(connection)
    await daemon.expire(connection)

    assert await daemon.lease(free=5) == []
    assert not (await daemon.store.renew_worker(daemon.worker_id, 600.0, [QUEUE])).held


async def test_what_is_leased_is_what_was_stored(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A payload comes out byte for byte: spaces, exponents, repeated keys, order."""
    text = '{ "url":"https://app.example.com/x" ,"event":"a/b","data":{"b":1.0,"a":1e2,"b":2,"\\u00e9":"\\u2028"} }'
    await add(connection, raw=text)
    leased = await daemon.lease_one()
    assert (leased.payload, data_of(leased)) == (text, {"b": 2, "a": 100.0, "é": "\u2028"})
