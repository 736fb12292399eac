"""Settling: outcomes count under their own lease alone (N5), wait for nobody, and keep what is to be kept."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slayq_server.errors import StatementFailed
from slayq_server.model import DeadReason, Outcome, OutcomeKind, Settlement
from tests.sql.support import (
    QUEUE,
    Daemon,
    add,
    buried,
    completed,
    count,
    failed,
    job,
    letter,
    live,
    next_due,
    payload,
    put_off,
    released,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob
    from tests.conftest import Connect

    MakeSettlement = Callable[[LeasedJob], Settlement]

KINDS: list[MakeSettlement] = [completed, failed, buried, released, put_off]
each_kind = pytest.mark.parametrize("settlement", KINDS, ids=lambda each: each.__name__)


async def table(connection: asyncpg.Connection) -> list[dict[str, object]]:
    """All of what settling may change."""
    rows = [dict(row) for row in await connection.fetch("select * from slayq.job order by id")]
    letters = [dict(row) for row in await connection.fetch("select * from slayq.dead_letter order by id")]
    history = [dict(row) for row in await connection.fetch("select * from slayq.done_job order by id")]
    return rows + letters + history


@each_kind
async def test_an_older_lease_changes_nothing(
    connection: asyncpg.Connection, daemon: Daemon, settlement: MakeSettlement
) -> None:
    """N5: the same worker's outcome of an earlier lease of the job is stale."""
    await add(connection)
    early = await daemon.lease_one()
    await daemon.release(early)
    again = await daemon.lease_one()
    before = await table(connection)

    assert (again.id, again.lease) == (early.id, early.lease + 1)
    assert (await daemon.settle(settlement(early), keep_done=True)).verdicts == {early.id: "stale"}
    assert await table(connection) == before


@each_kind
async def test_another_workers_outcome_changes_nothing(
    connection: asyncpg.Connection, daemon: Daemon, store: Store, settlement: MakeSettlement
) -> None:
    """N5: the right lease number under another worker's name is stale."""
    await add(connection)
    leased = await daemon.lease_one()
    before = await table(connection)
    other = await Daemon.register(store, "other")
    assert (await other.settle(settlement(leased), keep_done=True)).verdicts == {leased.id: "stale"}
    assert await table(connection) == before


@each_kind
@pytest.mark.parametrize("leased_again", [True, False])
async def test_a_reaped_workers_outcome_changes_nothing(
    connection: asyncpg.Connection, daemon: Daemon, store: Store, settlement: MakeSettlement, leased_again: bool
) -> None:
    """N5: after the reaper has given the job back, and when another has it, the first worker's outcome is stale."""
    await add(connection, "k")
    leased = await daemon.lease_one()
    await daemon.expire(connection)
    await store.reap(10)
    other = await Daemon.register(store, "other")
    if leased_again:
        await other.lease_one()
    before = await table(connection)
    assert (await daemon.settle(settlement(leased), keep_done=True)).verdicts == {leased.id: "stale"}
    assert await table(connection) == before


@each_kind
async def test_a_job_that_is_gone(connection: asyncpg.Connection, daemon: Daemon, settlement: MakeSettlement) -> None:
    """N5: an outcome told twice counts once; of an id that never was, it is stale."""
    await add(connection)
    leased = await daemon.lease_one()
    await daemon.complete(leased)
    never = replace(leased, id=10**12)
    settled = await daemon.settle(settlement(leased), settlement(never), keep_done=True)
    assert settled.verdicts == {leased.id: "stale", never.id: "stale"}
    assert await table(connection) == []


async def test_an_expired_worker_that_nobody_reaped(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """N5: until somebody takes the job, the lease number still guards it: the late outcome counts, once."""
    await add(connection)
    leased = await daemon.lease_one()
    await daemon.expire(connection)
    assert (await daemon.complete(leased)).verdicts == {leased.id: "settled"}
    assert await daemon.store.reap(10) == ([], ())


@each_kind
async def test_a_locked_row_is_told_apart(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, settlement: MakeSettlement
) -> None:
    """Invariant E: somebody's open transaction has one row: that is locked, the others are settled, nobody waits."""
    for n in range(5):
        await add(connection, f"{n}")
    batch = await daemon.lease(free=5)
    holder = await connect()
    async with asyncio.timeout(10), holder.transaction():
        await holder.execute("select from slayq.job where job_key = '2' for update")
        settled = await daemon.settle(*(settlement(each) for each in batch))
        assert settled.verdicts == {each.id: "locked" if each.job_key == "2" else "settled" for each in batch}
        assert (await live(connection, "2"))["state"] == "leased"
    assert (await daemon.settle(settlement(batch[2]))).verdicts == {batch[2].id: "settled"}


async def test_a_batch_of_all_kinds(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """One call settles jobs of every kind, stale ones among them; each gets its verdict."""
    for n in range(9):
        await add(connection, data={"n": n})
    batch = await daemon.lease(free=9)
    outcomes = [KINDS[n % 4](each) for n, each in enumerate(batch)]
    outcomes[8] = replace(outcomes[8], lease=7)
    settled = await daemon.settle(*outcomes)

    assert settled.verdicts == {each.id: "stale" if n == 8 else "settled" for n, each in enumerate(batch)}
    states = {row["id"]: row["state"] for row in await connection.fetch("select id, state from slayq.job")}
    assert states == {
        batch[1].id: "scheduled", batch[3].id: "ready", batch[5].id: "scheduled", batch[7].id: "ready",
        batch[8].id: "leased",
    }  # fmt: skip
    assert await count(connection, "dead_letter") == 2


async def test_a_kind_that_is_refused_undoes_the_others(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Nothing of a batch is written down where a part of it cannot be, so that no outcome is stale the second time."""
    for n in range(2):
        await add(connection, f"{n}")
    done, dead = await daemon.lease(free=2)
    await connection.execute("alter table slayq.dead_letter add constraint full_disk check (false) not valid")
    with pytest.raises(StatementFailed):
        await daemon.settle(completed(done), buried(dead))
    await connection.execute("alter table slayq.dead_letter drop constraint full_disk")
    settled = await daemon.settle(completed(done), buried(dead))
    assert {done.id: "settled", dead.id: "settled"} == settled.verdicts


async def test_nothing_to_settle(daemon: Daemon) -> None:
    """An empty batch is no error."""
    settled = await daemon.settle()
    assert (settled.verdicts, settled.ready) == ({}, set())


async def test_released_attempts_do_not_count(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Given back at shutdown a job is ready at once, in its old place, with the attempts that it had before."""
    first = await add(connection)
    second = await add(connection)
    leased = await daemon.lease_one()
    await daemon.release(leased)
    row = await live(connection, first["id"])

    assert (row["state"], row["attempts"], row["lease"], row["worker_id"]) == ("ready", 0, 1, None)
    assert row["run_at"] == first["run_at"]
    again = await daemon.lease(free=2)
    assert [(each.id, each.attempts) for each in again] == [(first["id"], 1), (second["id"], 1)]


@pytest.mark.parametrize("how", ["cancelled", "removed", "added again"])
@pytest.mark.parametrize("settlement", [failed, buried, released, put_off], ids=lambda each: each.__name__)
async def test_dropped(connection: asyncpg.Connection, daemon: Daemon, settlement: MakeSettlement, how: str) -> None:
    """A job that was cancelled, removed or superseded while delivered is gone: no retry, no letter; verdict dropped."""
    statements = {
        "cancelled": "select cancel_pending_tasks('shop/order', 'n', '1')",
        "removed": "select slayq.remove_job('k')",
        "added again": f"select add_worker_job('other', '{payload()}', job_key => 'k')",
    }
    await add(connection, "k", {"n": 1})
    leased = await daemon.lease_one()
    await connection.execute(statements[how])

    assert (await daemon.settle(settlement(leased))).verdicts == {leased.id: "dropped"}
    assert await job(connection, leased.id) is None
    assert await count(connection, "dead_letter") == 0


async def test_history_is_kept_where_asked_for(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """With keep_done a completed job leaves a row of history with its payload; without, nothing."""
    kept, forgotten = await add(connection, "kept", {"n": 1}), await add(connection, "forgotten")
    await daemon.complete(await daemon.lease_one(), keep_done=True)
    await daemon.complete(await daemon.lease_one())
    (row,) = await connection.fetch("select * from slayq.done_job")

    assert (row["id"], row["queue"], row["job_key"], row["event"]) == (kept["id"], QUEUE, "kept", "shop/order")
    assert (row["attempts"], row["payload"], row["created_at"]) == (1, payload({"n": 1}), kept["created_at"])
    assert forgotten["id"] != kept["id"]


async def test_an_id_may_end_twice_in_history(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A dead letter put back has the id it had; that history has the id already is no error."""
    added = await add(connection)
    await daemon.bury(await daemon.lease_one())
    await connection.execute(
        "insert into slayq.done_job (id, queue, event, attempts, payload, created_at) "
        "select id, queue, event, attempts, payload, created_at from slayq.dead_letter"
    )
    await connection.execute("select slayq._redrive_1(array[$1::bigint])", added["id"])
    leased = await daemon.lease_one()
    assert (await daemon.complete(leased, keep_done=True)).verdicts == {added["id"]: "settled"}


async def test_a_dead_letter_keeps_everything(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Queue, key, lane, numbers, flags, payload, times, and the reason and error of its end."""
    added = await add(
        connection, "k", {"n": 1}, serial="lane", priority=2, max_attempts=3, flags=["f"], event="shop/refund"
    )
    await daemon.store.promote(10)
    leased = await daemon.lease_one()
    await daemon.settle(buried(leased, DeadReason.NOT_FOUND, "404: who?"))
    row = await letter(connection, added["id"])

    assert (row["reason"], row["last_error"], row["queue"], row["job_key"]) == ("not-found", "404: who?", QUEUE, "k")
    assert (row["serial_queue"], row["priority"], row["attempts"], row["max_attempts"]) == ("lane", 2, 1, 3)
    assert (row["flags"], row["event"], row["payload"]) == (
        ["f"],
        "shop/refund",
        payload({"n": 1}, event="shop/refund"),
    )
    assert (row["created_at"], row["run_at"]) == (added["created_at"], added["run_at"])


@pytest.mark.parametrize("settlement", [failed, buried], ids=lambda each: each.__name__)
async def test_a_batch_goes_on_with_what_remains(
    connection: asyncpg.Connection, daemon: Daemon, settlement: Callable[..., Settlement]
) -> None:
    """Of an array payload just the elements that failed are tried again, or kept in the dead letter."""
    elements = [json.loads(payload({"n": n})) for n in range(4)]
    added = await add(connection, "k", raw=json.dumps(elements))
    other = await add(connection, data={"n": 9})
    leased, plain = await daemon.lease(free=2)
    remaining = json.dumps(elements[1:3])
    await daemon.settle(settlement(leased, remaining=remaining), settlement(plain))

    if settlement is failed:
        assert (await live(connection, added["id"]))["payload"] == remaining
        assert (await live(connection, other["id"]))["payload"] == payload({"n": 9})
        again = await next_due(daemon, connection, added["id"], other["id"])
        assert {each.id: each.payload for each in again}[added["id"]] == remaining
    else:
        assert (await letter(connection, added["id"]))["payload"] == remaining
        assert (await letter(connection, other["id"]))["payload"] == payload({"n": 9})


async def test_errors_may_be_any_text_or_none(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """What an endpoint says in its defence is stored as it is."""
    await add(connection)
    text = "é\U0001f600 ' \" \\ \n\t {a,b} null" * 50
    leased = await daemon.lease_one()
    await daemon.settle(failed(leased, error=text))
    assert (await live(connection, leased.id))["last_error"] == text
    (again,) = await next_due(daemon, connection, leased.id)
    await daemon.settle(Settlement(again.id, again.lease, QUEUE, Outcome(OutcomeKind.RETRIED, delay=1.0)))
    assert (await live(connection, leased.id))["last_error"] is None


async def test_of_the_minute_tick_one_dead_letter_is_kept(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The v1 tick of an app that is down does not become a heap of dead letters; other letters stay."""
    await add(connection, "other")
    await daemon.bury(await daemon.lease_one())
    ids = []
    for _ in range(3):
        ids.append((await add(connection, "cron", event="cron"))["id"])
        await daemon.bury(await daemon.lease_one())
    rows = await connection.fetch("select id from slayq.dead_letter where job_key = 'cron'")
    assert ([row["id"] for row in rows], await count(connection, "dead_letter")) == (ids[-1:], 2)


async def test_a_lease_whose_answer_was_lost(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """What a worker holds without knowing is given back, the attempt not counted; superseded ones go."""
    for key in ("known", "lost", "superseded"):
        await add(connection, key)
    batch = await daemon.lease(free=3)
    await connection.execute("select slayq.remove_job('superseded')")
    assert await daemon.store.release_unknown(daemon.worker_id, [batch[0].id]) == (QUEUE,)
    assert await daemon.store.release_unknown(daemon.worker_id, [batch[0].id]) == ()

    rows = await connection.fetch("select job_key, state, attempts from slayq.job order by id")
    assert [tuple(row) for row in rows] == [("known", "leased", 1), ("lost", "ready", 0)]


async def test_a_worker_that_retires(connection: asyncpg.Connection, daemon: Daemon, store: Store) -> None:
    """Its leases end at once: what it still holds is anybody's at the next reap."""
    added = await add(connection)
    await daemon.lease_one()
    await store.retire_worker(daemon.worker_id)
    assert await daemon.lease(free=5) == []
    assert [each.job_id for each in (await store.reap(10))[0]] == [added["id"]]
