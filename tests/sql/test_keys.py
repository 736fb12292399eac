"""Job keys: what adding a key again does to a job that waits, runs, has ended or has died (K, N1 to N3)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.sql.support import (
    QUEUE,
    Daemon,
    add,
    buried,
    count,
    data_of,
    job,
    later,
    letter,
    live,
    next_due,
    payload,
)

if TYPE_CHECKING:
    from slayq_server.db.store import Store

MODES = ("replace", "preserve_run_at", "unsafe_dedupe")
each_mode = pytest.mark.parametrize("mode", MODES)

BULK = """select * from slayq.add_jobs(
    array(
        select row($1::text, p, null, null, null, k, null, null)::slayq.job_spec
        from unnest($2::text[], $3::json[]) with ordinality as s (k, p, n) order by n
    ),
    $4
)"""


async def add_bulk(
    connection: asyncpg.Connection, *jobs: tuple[str | None, object], preserve_run_at: bool = False
) -> list[asyncpg.Record]:
    """Adds (key, data) pairs in one call."""
    keys, payloads = [key for key, _ in jobs], [payload(data) for _, data in jobs]
    return await connection.fetch(BULK, QUEUE, keys, payloads, preserve_run_at)


async def test_a_future_job_added_again_as_due(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K1: the same id with the new payload and run_at; it runs once."""
    first = await add(connection, "k", {"n": 1}, run_at=later())
    second = await add(connection, "k", {"n": 2})
    (leased,) = await daemon.lease(free=5)

    assert (first["id"], first["state"]) == (second["id"], "scheduled")
    assert (second["revision"], second["state"]) == (1, "ready")
    assert second["run_at"] < first["run_at"]
    assert (leased.id, data_of(leased)) == (first["id"], {"n": 2})


async def test_a_done_job_added_again_runs_again(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K2: a key is free once its job has ended."""
    first = await add(connection, "k", {"n": 1})
    await daemon.complete(await daemon.lease_one())
    second = await add(connection, "k", {"n": 2})
    leased = await daemon.lease_one()

    assert second["id"] > first["id"]
    assert (second["revision"], leased.attempts, data_of(leased)) == (0, 1, {"n": 2})


async def test_a_running_job_added_again(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K3: both run, in order; the first keeps its id and loses its key, the second is a new row of revision 0."""
    await add(connection, "k", {"n": 1})
    first = await daemon.lease_one()
    second = await add(connection, "k", {"n": 2})
    running = await live(connection, first.id)
    leased = await daemon.lease_one()

    assert (running["job_key"], running["superseded"], running["state"]) == (None, True, "leased")
    assert (second["revision"], second["state"], second["key"]) == (0, "ready", "k")
    assert (data_of(first), data_of(leased)) == ({"n": 1}, {"n": 2})
    assert (await daemon.complete(first)).verdicts == {first.id: "settled"}
    assert (await daemon.complete(leased)).verdicts == {leased.id: "settled"}
    assert await count(connection) == 0


async def test_a_superseded_delivery_is_never_tried_again(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K3: whatever the end of a delivery that lost its key, it touches only its own row and leaves nothing."""
    for ending in (daemon.fail, daemon.bury, daemon.release):
        await add(connection, "k", {"n": 1})
        first = await daemon.lease_one()
        second = await add(connection, "k", {"n": 2})

        assert (await ending(first)).verdicts == {first.id: "dropped"}
        assert await job(connection, first.id) is None
        assert await count(connection, "dead_letter") == 0
        assert (await live(connection, "k"))["id"] == second["id"]
        await daemon.complete(await daemon.lease_one())


async def test_a_job_that_waits_for_its_retry_added_again(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K4: same id, attempts 0, error null, due at once."""
    first = await add(connection, "k", {"n": 1})
    await daemon.fail(await daemon.lease_one())
    assert (await live(connection, "k"))["last_error"] == "500"
    again = await add(connection, "k", {"n": 2})

    assert again["id"] == first["id"]
    assert (again["attempts"], again["last_error"], again["state"]) == (0, None, "ready")
    assert (await daemon.lease_one()).attempts == 1


async def test_added_again_with_nothing_given_all_is_default(connection: asyncpg.Connection) -> None:
    """K5: replace overwrites every field; those not given go back to their defaults."""
    await add(
        connection, "k", {"n": 1}, serial="s", run_at=later(), max_attempts=3, priority=9, flags=["f"], event="a/b"
    )
    again = await add(connection, "k")

    assert (again["queue_name"], again["max_attempts"], again["priority"], again["flags"]) == (None, 25, 0, None)
    assert (again["state"], again["event"], again["revision"]) == ("ready", "shop/order", 1)
    assert (await live(connection, "k"))["payload"] == payload()


async def test_added_again_elsewhere_all_is_updated(connection: asyncpg.Connection) -> None:
    """K6: another queue, serial queue, run_at, max_attempts, priority, flags: all are the new ones."""
    first = await add(connection, "k", serial="s", max_attempts=3, flags=["f"])
    run_at = later(days=2)
    again = await add(
        connection, "k", queue="post", serial="t", run_at=run_at, max_attempts=4, priority=-5, flags=["g"]
    )
    assert again["id"] == first["id"]
    assert (again["task_identifier"], again["queue_name"], again["run_at"]) == ("post", "t", run_at)
    assert (again["max_attempts"], again["priority"], again["flags"]) == (4, -5, ["g"])


async def test_remove_a_pending_job(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K7: it is gone, with its waits, and returned."""
    added = await add(connection, "k", {"n": 1}, run_at=later())
    await connection.execute("select wait_for_worker_event('k', 'e', 'm', 'v', 's', now())")
    removed = await connection.fetchrow("select * from slayq.remove_job('k')")

    assert removed is not None
    assert (removed["id"], removed["key"], removed["state"]) == (added["id"], "k", "scheduled")
    assert (await count(connection), await count(connection, "wait")) == (0, 0)


async def test_remove_a_running_job(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K8: it finishes, and is never tried again; its key is free at once."""
    added = await add(connection, "k")
    leased = await daemon.lease_one()
    assert await connection.fetchval("select (slayq.remove_job('k')).id") == added["id"]
    assert await connection.fetchval("select (slayq.remove_job('k')).id") is None
    again = await add(connection, "k")

    assert again["id"] != added["id"]
    assert (await daemon.fail(leased)).verdicts == {leased.id: "dropped"}
    assert await job(connection, leased.id) is None


async def test_remove_a_key_that_is_unknown(connection: asyncpg.Connection) -> None:
    """K8: null."""
    assert await connection.fetchval("select (slayq.remove_job('nobody')) is null")
    assert await connection.fetchval("select (slayq.remove_job(null)) is null")


async def test_four_adds_of_one_key(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K9: one row with the last payload, revision 3."""
    for n in range(4):
        await add(connection, "k", {"n": n})
    (leased,) = await daemon.lease(free=9)

    assert data_of(leased) == {"n": 3}
    assert (await live(connection, "k"))["revision"] == 3


async def test_the_modes_in_turn(connection: asyncpg.Connection) -> None:
    """K10: revision 0, 1, 2, 3; replace takes all, preserve_run_at all but the time, unsafe_dedupe nothing."""
    first, second, third, fourth = later(hours=1), later(hours=2), later(hours=3), later(hours=4)
    rows = [
        await add(connection, "k", {"n": 0}, run_at=first),
        await add(connection, "k", {"n": 1}, run_at=second, mode="replace"),
        await add(connection, "k", {"n": 2}, run_at=third, mode="preserve_run_at", priority=2),
        await add(connection, "k", {"n": 3}, run_at=fourth, mode="unsafe_dedupe", priority=3),
    ]
    assert [row["revision"] for row in rows] == [0, 1, 2, 3]
    assert [row["run_at"] for row in rows] == [first, second, second, second]
    assert [row["priority"] for row in rows] == [0, 0, 2, 2]
    assert json.loads((await live(connection, "k"))["payload"])["data"] == {"n": 2}
    assert len({row["id"] for row in rows}) == 1


async def test_preserve_run_at_counts_only_before_the_first_attempt(
    connection: asyncpg.Connection, daemon: Daemon
) -> None:
    """K10: a job that waits for its retry gets the new time."""
    await add(connection, "k")
    await daemon.fail(await daemon.lease_one())
    again = await add(connection, "k", mode="preserve_run_at")

    assert (again["state"], again["attempts"]) == ("ready", 0)


async def test_preserve_run_at_keeps_what_is_due_due(connection: asyncpg.Connection) -> None:
    """K10: a due job that is added again for later with its time preserved stays due."""
    await add(connection, "k")
    again = await add(connection, "k", run_at=later(), mode="preserve_run_at")
    assert again["state"] == "ready"


@each_mode
async def test_unsafe_dedupe_leaves_a_running_job_its_key(
    connection: asyncpg.Connection, daemon: Daemon, mode: str
) -> None:
    """K10: added while running, unsafe_dedupe only counts; the other modes make a new row."""
    await add(connection, "k", {"n": 1})
    leased = await daemon.lease_one()
    again = await add(connection, "k", {"n": 2}, mode=mode)

    if mode == "unsafe_dedupe":
        assert (again["id"], again["revision"], again["state"]) == (leased.id, 1, "leased")
        assert (await daemon.fail(leased)).verdicts == {leased.id: "settled"}
        assert json.loads((await live(connection, "k"))["payload"])["data"] == {"n": 1}
    else:
        assert (again["id"] != leased.id, again["revision"]) == (True, 0)


async def test_keys_in_bulk(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K11: add_jobs treats each key as add_job does: pending ones are replaced, running ones superseded."""
    pending = await add(connection, "pending", {"n": 0}, run_at=later())
    await add(connection, "running", {"n": 0})
    running = await daemon.lease_one()
    rows = await add_bulk(connection, ("running", {"n": 1}), (None, {"n": 2}), ("pending", {"n": 3}), ("new", {"n": 4}))
    by_key = {row["key"]: row for row in rows}

    assert by_key.keys() == {"running", None, "pending", "new"}
    assert (by_key["pending"]["id"], by_key["pending"]["revision"]) == (pending["id"], 1)
    assert (by_key["running"]["revision"], by_key["new"]["revision"], by_key[None]["revision"]) == (0, 0, 0)
    assert (await live(connection, running.id))["superseded"]
    assert sorted(data_of(each)["n"] for each in await daemon.lease(free=9)) == [1, 2, 3, 4]


async def test_bulk_may_preserve_run_at(connection: asyncpg.Connection) -> None:
    """K11: job_key_preserve_run_at is the mode of that name."""
    first = await add(connection, "k", {"n": 0}, run_at=later())
    (kept,) = await add_bulk(connection, ("k", {"n": 1}), preserve_run_at=True)
    (moved,) = await add_bulk(connection, ("k", {"n": 2}))

    assert (kept["run_at"], kept["revision"]) == (first["run_at"], 1)
    assert (moved["state"], moved["revision"]) == ("ready", 2)


async def test_bulk_of_nothing(connection: asyncpg.Connection) -> None:
    """K11: an empty or null list adds nothing and is no error."""
    assert await add_bulk(connection) == []
    assert await connection.fetch("select * from slayq.add_jobs(null)") == []
    assert await count(connection) == 0


async def test_bulk_is_all_or_nothing_and_in_order(connection: asyncpg.Connection) -> None:
    """K11: one bad job refuses the call; jobs without keys get ids in the order given."""
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.fetch(BULK, QUEUE, [None, "k"], [payload(), "{}"], False)
    assert refused.value.sqlstate == "SQ001"
    assert await count(connection) == 0

    rows = await add_bulk(connection, *((None, n) for n in range(300)))
    stored = await connection.fetch("select payload from slayq.job order by id")
    assert len(rows) == 300
    assert [json.loads(row["payload"])["data"] for row in stored] == list(range(300))


@pytest.mark.parametrize("mode", ["", "REPLACE", "update", "preserve_run_at "])
async def test_a_mode_that_does_not_exist(connection: asyncpg.Connection, mode: str) -> None:
    """K11: a clear error that names the modes; nothing is added, with or without a key."""
    for key in (None, "k"):
        with pytest.raises(asyncpg.PostgresError, match="must be replace, preserve_run_at or unsafe_dedupe") as refused:
            await add(connection, key, mode=mode)
        assert (refused.value.sqlstate, bool(refused.value.as_dict().get("hint"))) == ("SQ004", True)
    assert await count(connection) == 0


@each_mode
async def test_a_dead_letter_does_not_block_its_key(connection: asyncpg.Connection, daemon: Daemon, mode: str) -> None:
    """N1: a new job takes the key; the letter stays as it was."""
    dead = await add(connection, "k", {"n": 1})
    await daemon.settle(buried(await daemon.lease_one()))
    again = await add(connection, "k", {"n": 2}, mode=mode)

    assert (again["id"] != dead["id"], again["revision"], again["attempts"]) == (True, 0, 0)
    assert data_of(await daemon.lease_one()) == {"n": 2}
    assert (await letter(connection, dead["id"]))["job_key"] == "k"


@each_mode
async def test_a_key_whose_lease_has_expired(
    connection: asyncpg.Connection, daemon: Daemon, store: Store, mode: str
) -> None:
    """N2: added again before anyone reaped it, what was added runs; the lost one comes back only if it kept its key."""
    await add(connection, "k", {"n": 1})
    lost = await daemon.lease_one()
    await daemon.expire(connection)
    again = await add(connection, "k", {"n": 2}, mode=mode)
    reaped, _ = await store.reap(10)
    other = await Daemon.register(store)
    leased = await other.lease(free=5)

    if mode == "unsafe_dedupe":
        assert [(each.job_id, each.fate) for each in reaped] == [(lost.id, "ready")]
        assert [(each.id, data_of(each), each.attempts) for each in leased] == [(lost.id, {"n": 1}, 2)]
    else:
        assert [(each.job_id, each.fate) for each in reaped] == [(lost.id, "dropped")]
        assert [(each.id, data_of(each), each.attempts) for each in leased] == [(again["id"], {"n": 2}, 1)]


async def test_one_key_twice_in_one_bulk_call(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """N3: the last one wins, whatever stands between; one row comes back for the key."""
    rows = await add_bulk(connection, ("k", {"n": 1}), ("l", {"n": 2}), ("k", {"n": 3}), (None, {"n": 4}))
    assert sorted(row["key"] or "" for row in rows) == ["", "k", "l"]
    assert sorted(data_of(each)["n"] for each in await daemon.lease(free=9)) == [2, 3, 4]
    assert (await live(connection, "k"))["revision"] == 0


ARRAYS = [
    ("[{e1}]", "[{e2}]", [1, 2]),
    ("[ {e1} ]", "[\n{e2},\t{e3} ]\n", [1, 2, 3]),
    ("[{e1},{e2}]", " [{e3}]", [1, 2, 3]),
]


def batch(template: str) -> str:
    """A batch payload of elements whose data tells them apart: brackets, commas and all."""
    for n in range(1, 4):
        template = template.replace(f"{{e{n}}}", payload({"n": n, "text": '],[ \\ "'}))
    return template


@pytest.mark.parametrize(("first", "second", "expected"), ARRAYS)
async def test_array_payloads_are_joined(
    connection: asyncpg.Connection, first: str, second: str, expected: list[int]
) -> None:
    """K9: of a pending batch job added again both arrays are kept, one after the other."""
    await add(connection, "k", raw=batch(first))
    again = await add(connection, "k", raw=batch(second))
    elements = json.loads((await live(connection, "k"))["payload"])

    assert [element["data"]["n"] for element in elements] == expected
    assert again["revision"] == 1


async def test_an_array_and_an_object_are_not_joined(connection: asyncpg.Connection) -> None:
    """K9: only arrays on both sides are; else the new payload replaces the old one. unsafe_dedupe joins nothing."""
    await add(connection, "k", raw=batch("[{e1}]"))
    await add(connection, "k", {"n": 9})
    assert json.loads((await live(connection, "k"))["payload"])["data"] == {"n": 9}
    await add(connection, "k", raw=batch("[{e1}]"))
    await add(connection, "k", raw=batch("[{e2}]"), mode="unsafe_dedupe")
    assert (await live(connection, "k"))["payload"] == batch("[{e1}]")


async def test_a_running_batch_is_not_joined(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K9: what is being delivered is left as it is; the new array is a job of its own."""
    await add(connection, "k", raw=batch("[{e1}]"))
    leased = await daemon.lease_one()
    await add(connection, "k", raw=batch("[{e2}]"))

    assert (await live(connection, leased.id))["payload"] == batch("[{e1}]")
    assert (await live(connection, "k"))["payload"] == batch("[{e2}]")


async def test_added_again_a_job_waits_no_more(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """K1: a parked continuation that is replaced loses its waits and what they have added to its cache."""
    parked = await add(connection, "k", cache={}, run_at=later())
    await connection.execute("select wait_for_worker_event('k', 'e', 'm', 'v', 'first', now())")
    await connection.execute("select trigger_waiting_workers('e', 'm', 'v')")
    assert (await live(connection, parked["id"]))["patches"] is not None
    await add(connection, "k", cache={}, run_at=later())
    await connection.execute("select wait_for_worker_event('k', 'f', 'm', 'v', 'second', now())")
    again = await add(connection, "k", {"n": 2}, run_at=later())

    assert ((await live(connection, "k"))["patches"], await count(connection, "wait")) == (None, 0)
    (leased,) = await next_due(daemon, connection, again["id"])
    assert (leased.patches, data_of(leased)) == (None, {"n": 2})


async def test_unsafe_dedupe_keeps_a_job_waiting(connection: asyncpg.Connection) -> None:
    """K10: it changes nothing but the revision, so the waits stay too."""
    await add(connection, "k", cache={}, run_at=later())
    await connection.execute("select wait_for_worker_event('k', 'e', 'm', 'v', 'first', now())")
    again = await add(connection, "k", mode="unsafe_dedupe")
    assert (again["state"], again["revision"], await count(connection, "wait")) == ("scheduled", 1, 1)


async def test_a_key_may_be_any_text(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Keys are compared as they are: case, spaces, quotes, unicode, 512 characters."""
    keys = ["a", "A", " a", "'", '"', "%", "\u00e9", "e\u0301", "\U0001f600" * 512, "null"]
    for key in keys:
        await add(connection, key)
    assert [each.job_key for each in await daemon.lease(free=99)] == keys
