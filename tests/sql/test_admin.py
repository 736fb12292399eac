"""What operators do to jobs: complete, fail, reschedule, unlock, put dead letters back; and the reaper (M, L, N6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.sql.support import (
    QUEUE,
    Daemon,
    add,
    count,
    job,
    later,
    letter,
    live,
    make_due,
    payload,
    wait_event,
)

if TYPE_CHECKING:
    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob

GONE = 10**15


async def one_of_each(connection: asyncpg.Connection, daemon: Daemon) -> tuple[dict[str, int], LeasedJob]:
    """A job in every state, by the state's name; and the one under delivery."""
    leased = (await add(connection, "leased"))["id"]
    running = await daemon.lease_one()
    ids = {"leased": leased}
    for key in ("head", "blocked"):
        ids[key] = (await add(connection, key, serial="lane", priority=1))["id"]
    await daemon.store.promote(10)
    ids["ready"] = (await add(connection, "ready"))["id"]
    ids["scheduled"] = (await add(connection, "scheduled", run_at=later()))["id"]
    return ids, running


async def call(connection: asyncpg.Connection, function: str, ids: list[int], *more: object) -> list[asyncpg.Record]:
    """Calls one of the administrative functions."""
    places = "".join(f", ${n}" for n in range(2, len(more) + 2))
    return await connection.fetch(f"select * from slayq.{function}($1{places})", ids, *more)


async def test_complete_jobs(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """M1: the listed jobs that nobody delivers go, and are returned; the others stay; unknown ids are no error."""
    ids, running = await one_of_each(connection, daemon)
    await wait_event(connection, "scheduled", "e", "k", "v")
    bystander = await add(connection)
    done = await call(connection, "complete_jobs", [*ids.values(), GONE])

    assert {row["key"]: row["id"] for row in done} == {key: n for key, n in ids.items() if key != "leased"}
    remaining = {row["id"] for row in await connection.fetch("select id from slayq.job")}
    assert remaining == {ids["leased"], bystander["id"]}
    assert (await count(connection, "wait"), await count(connection, "dead_letter")) == (0, 0)
    assert (await daemon.complete(running)).verdicts == {ids["leased"]: "settled"}


async def test_permanently_fail_jobs(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """M2: the listed jobs that nobody delivers become dead letters with the message, their attempts used up."""
    ids, _ = await one_of_each(connection, daemon)
    await wait_event(connection, "scheduled", "e", "k", "v")
    failed = await call(connection, "permanently_fail_jobs", [*ids.values(), GONE], "no longer wanted")

    assert {row["key"] for row in failed} == ids.keys() - {"leased"}
    assert {(row["attempts"], row["last_error"]) for row in failed} == {(25, "no longer wanted")}
    dead = await letter(connection, ids["scheduled"])
    assert (dead["reason"], dead["last_error"], dead["attempts"]) == ("failed-by-operator", "no longer wanted", 25)
    assert (dead["job_key"], dead["payload"], dead["queue"]) == ("scheduled", payload(), QUEUE)
    assert (await count(connection), await count(connection, "wait")) == (1, 0)


async def test_permanently_fail_without_a_message(connection: asyncpg.Connection) -> None:
    """M2: a message is not needed."""
    added = await add(connection)
    (row,) = await call(connection, "permanently_fail_jobs", [added["id"]])
    assert row["last_error"] == "Manually marked as failed"


async def test_reschedule_jobs(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """M3: run_at, priority, attempts and max_attempts of the listed undelivered jobs change; what is null stays."""
    ids, _ = await one_of_each(connection, daemon)
    run_at = later(days=1)
    changed = await connection.fetch(
        "select * from slayq.reschedule_jobs($1, run_at => $2, priority => 7, attempts => 3, max_attempts => 9)",
        [*ids.values(), GONE],
        run_at,
    )
    assert {row["key"] for row in changed} == ids.keys() - {"leased"}
    assert {
        (row["run_at"], row["priority"], row["attempts"], row["max_attempts"], row["state"]) for row in changed
    } == {(run_at, 7, 3, 9, "scheduled")}
    again = await call(connection, "reschedule_jobs", [ids["ready"]])
    assert [(row["run_at"], row["priority"], row["attempts"], row["max_attempts"]) for row in again] == [
        (run_at, 7, 3, 9)
    ]
    leased = await live(connection, ids["leased"])
    assert (leased["state"], leased["priority"], leased["attempts"]) == ("leased", 0, 1)


async def test_reschedule_to_nothing(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """M3: attempts 0 and priority 0 are values, not absences; due now, the job is ready at once."""
    added = await add(connection, priority=5)
    await daemon.fail(await daemon.lease_one())
    (row,) = await connection.fetch(
        "select * from slayq.reschedule_jobs(array[$1::bigint], run_at => now(), priority => 0, attempts => 0)",
        added["id"],
    )
    assert (row["state"], row["priority"], row["attempts"]) == ("ready", 0, 0)
    assert (await daemon.lease_one()).attempts == 1


async def test_reschedule_wakes_the_servers(connection: asyncpg.Connection, store: Store, daemon: Daemon) -> None:
    """M3: what becomes due is announced to daemons that want to know."""
    words: list[object] = []
    await connection.add_listener("slayq", lambda *args: words.append(args[-1]))
    await store.want(daemon.worker_id, [QUEUE, "@timer"])
    added = await add(connection, run_at=later())
    await connection.fetch("select * from slayq.reschedule_jobs(array[$1::bigint], run_at => now())", added["id"])
    await connection.fetchval("select 1")
    assert words == [QUEUE]


async def test_a_waiting_job_rescheduled(connection: asyncpg.Connection) -> None:
    """M3: put off, it waits on; made due, it waits for nothing."""
    added = await add(connection, "run", cache={}, run_at=later())
    await wait_event(connection, "run", "e", "k", "v")
    await connection.fetch("select slayq.reschedule_jobs(array[$1::bigint], run_at => $2)", added["id"], later(days=9))
    assert await count(connection, "wait") == 1
    await connection.fetch("select slayq.reschedule_jobs(array[$1::bigint], run_at => now())", added["id"])
    assert await count(connection, "wait") == 0


async def test_reschedule_brings_a_dead_letter_back(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """M3: as Graphile's failed jobs do, with the time and numbers given; its id, key and payload are as they were."""
    added = await add(connection, "k", {"n": 1}, max_attempts=2, priority=4)
    await daemon.bury(await daemon.lease_one())
    run_at = later()
    (row,) = await connection.fetch(
        "select * from slayq.reschedule_jobs(array[$1::bigint], run_at => $2, attempts => 1)", added["id"], run_at
    )
    assert (row["id"], row["key"], row["run_at"], row["state"]) == (added["id"], "k", run_at, "scheduled")
    assert (row["attempts"], row["max_attempts"], row["priority"]) == (1, 2, 4)
    assert (await live(connection, "k"))["payload"] == payload({"n": 1})
    assert await count(connection, "dead_letter") == 0


@pytest.mark.parametrize(
    "given",
    ["priority => 32768", "max_attempts => 0", "attempts => -1", "run_at => 'infinity'", "run_at => '-infinity'"],
)
async def test_reschedule_out_of_range(connection: asyncpg.Connection, given: str) -> None:
    """M3: refused with SQ005 and a hint; nothing changes."""
    added = await add(connection)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.execute(f"select slayq.reschedule_jobs(array[{added['id']}::bigint], {given})")
    assert (refused.value.sqlstate, bool(refused.value.as_dict().get("hint"))) == ("SQ005", True)
    assert dict(added) == dict(await connection.fetchrow("select * from slayq.jobs") or {})


async def redrive(connection: asyncpg.Connection, *ids: int) -> list[int]:
    """Puts dead letters back."""
    return [row["id"] for row in await connection.fetch("select id from slayq._redrive_1($1) as id", list(ids))]


async def test_redrive(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A dead letter becomes a job again: same id, due at once, attempts 0, everything else as it was."""
    before = await add(connection, "k", {"n": 1}, max_attempts=1, priority=3, flags=["f"], run_at=later(hours=-3))
    await daemon.bury(await daemon.lease_one())
    assert await redrive(connection, before["id"], GONE) == [before["id"]]
    after = await live(connection, before["id"])

    same = ("max_attempts", "priority", "flags", "created_at", "event")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (after["state"], after["attempts"], after["last_error"], after["job_key"]) == ("ready", 0, None, "k")
    assert after["run_at"] > before["run_at"]
    assert await count(connection, "dead_letter") == 0
    assert await connection.fetchval("select slayq._cancel_1('shop/order', 'n', '1')") == 1


async def test_redrive_yields_to_a_live_job(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A letter whose key has a live job stays where it is, whatever that job does; of two letters of a key one goes."""
    dead = []
    for _ in range(2):
        dead.append((await add(connection, "k"))["id"])
        await daemon.bury(await daemon.lease_one())
    await add(connection, "k")
    assert await redrive(connection, *dead) == []
    leased = await daemon.lease_one()
    assert await redrive(connection, *dead) == []
    await daemon.complete(leased)
    assert await redrive(connection, *dead) == dead[:1]
    assert (await letter(connection, dead[1]))["job_key"] == "k"


async def test_redrive_into_a_serial_queue(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """It takes its turn: through the promoter."""
    added = await add(connection, serial="lane")
    await daemon.store.promote(10)
    await daemon.bury(await daemon.lease_one())
    await redrive(connection, added["id"])
    assert (await live(connection, added["id"]))["state"] == "scheduled"
    await daemon.store.promote(10)
    assert (await daemon.lease_one()).id == added["id"]


async def test_only_jobs_of_dead_workers_are_freed(connection: asyncpg.Connection, store: Store) -> None:
    """L1: the reaper takes what an expired worker held, and nothing else; attempts stay counted."""
    dead, alive = await Daemon.register(store, "dead"), await Daemon.register(store, "alive")
    lost = await add(connection)
    await dead.lease_one()
    kept = await add(connection)
    await alive.lease_one()
    assert await store.reap(10) == ([], ())
    await dead.expire(connection)
    assert (await store.renew_worker(alive.worker_id, 60.0, [QUEUE])).reapable
    reaped, _ = await store.reap(10)

    assert [(each.job_id, each.queue, each.fate) for each in reaped] == [(lost["id"], QUEUE, "ready")]
    row = await live(connection, lost["id"])
    assert (row["state"], row["worker_id"], row["attempts"]) == ("ready", None, 1)
    assert "lease was lost" in row["last_error"]
    assert (await live(connection, kept["id"]))["state"] == "leased"
    again = await alive.lease_one()
    assert (again.id, again.attempts, again.lease) == (lost["id"], 2, 2)
    assert not (await store.renew_worker(alive.worker_id, 60.0, [QUEUE])).reapable


async def test_a_worker_row_that_is_gone(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """L1: a job held by a worker that is not even in the table any more is freed, too."""
    added = await add(connection)
    await daemon.lease_one()
    await connection.execute("delete from slayq.worker")
    reaped, _ = await daemon.store.reap(10)
    assert [each.job_id for each in reaped] == [added["id"]]


async def test_reaping_passes_by_what_is_locked(
    connection: asyncpg.Connection, daemon: Daemon, database_url: str
) -> None:
    """L1, invariant E: a row in somebody's open transaction is left for the next pass, which does not wait for it."""
    first, second = (await add(connection, "k"))["id"], (await add(connection))["id"]
    await daemon.lease(free=2)
    await daemon.expire(connection)
    async with connection.transaction():
        await connection.execute("select slayq.remove_job('k')")
        assert [each.job_id for each in (await daemon.store.reap(10))[0]] == [second]
    reaped, _ = await daemon.store.reap(10)
    assert [(each.job_id, each.fate) for each in reaped] == [(first, "dropped")]


@pytest.mark.parametrize("by", ["id", "name"])
async def test_force_unlock(connection: asyncpg.Connection, store: Store, by: str) -> None:
    """L3: frees only the named workers' jobs, at once; their late outcomes change nothing."""
    named, other = await Daemon.register(store, "named"), await Daemon.register(store, "other")
    freed = await add(connection)
    late = await named.lease_one()
    kept = await add(connection)
    await other.lease_one()
    name = "named" if by == "name" else str(named.worker_id)
    await connection.execute("select slayq.force_unlock_workers($1)", [name, "nobody"])

    assert (await live(connection, freed["id"]))["state"] == "ready"
    assert (await live(connection, kept["id"]))["worker_id"] == other.worker_id
    assert (await named.complete(late)).verdicts == {late.id: "stale"}
    assert not (await store.renew_worker(named.worker_id, 60.0, [QUEUE])).held


async def test_a_lease_that_expires_on_the_last_attempt(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """N6: an error, and a dead letter whose reason says so; the reaper tells of it for the log and the metric."""
    added = await add(connection, "k", {"n": 1}, max_attempts=2)
    await daemon.fail(await daemon.lease_one())
    await make_due(connection, added["id"])
    await daemon.store.promote(10)
    await daemon.lease_one()
    await daemon.expire(connection)
    reaped, _ = await daemon.store.reap(10)
    dead = await letter(connection, added["id"])

    assert [(each.job_id, each.fate) for each in reaped] == [(added["id"], "dead")]
    assert (dead["reason"], dead["attempts"], dead["max_attempts"]) == ("lease-lost", 2, 2)
    assert f"worker {daemon.worker_id} stopped renewing" in dead["last_error"]
    assert (dead["job_key"], dead["payload"]) == ("k", payload({"n": 1}))
    assert await job(connection, added["id"]) is None


async def test_a_reaped_head_that_dies_hands_its_lane_on(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """N6, N8: a lost job stays head of its lane; lost on its last attempt, the next one is ready in the same pass."""
    first = await add(connection, serial="lane", max_attempts=2)
    second = await add(connection, serial="lane")
    await daemon.store.promote(10)
    for ready, head in [((), first), ((QUEUE,), second)]:
        await daemon.lease_one()
        await daemon.expire(connection)
        assert (await daemon.store.reap(10))[1] == ready
        daemon = await Daemon.register(daemon.store)
        assert await connection.fetchval("select id from slayq.job where holds and state = 'ready'") == head["id"]


async def test_worker_rows_are_forgotten(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """L1: ten minutes after its time a worker's row goes; slots it held are free before that."""
    await daemon.store.register_slots(QUEUE, 2)
    assert await daemon.store.acquire_slots(daemon.worker_id, QUEUE, 2, 2) == 2
    other = await Daemon.register(daemon.store)
    assert await other.store.acquire_slots(other.worker_id, QUEUE, 2, 2) == 0
    await daemon.expire(connection)
    await other.store.reap(10)
    assert await other.store.acquire_slots(other.worker_id, QUEUE, 2, 2) == 2
    assert await count(connection, "worker") == 2
    await connection.execute(
        "update slayq.worker set expires_at = now() - interval '1 hour' where id = $1", daemon.worker_id
    )
    await other.store.reap(10)
    assert await count(connection, "worker") == 1


async def test_the_view_has_graphiles_columns(connection: asyncpg.Connection) -> None:
    """The view jobs shows no payloads."""
    names = await connection.fetchval(
        "select array_agg(attname::text order by attnum) from pg_attribute where attrelid = 'slayq.jobs'::regclass"
    )
    graphiles = [
        "id", "queue_name", "task_identifier", "priority", "run_at", "attempts", "max_attempts", "last_error",
        "created_at", "updated_at", "key", "locked_at", "locked_by", "revision", "flags",
    ]  # fmt: skip
    assert names == [*graphiles, "state", "event"]
