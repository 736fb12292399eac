"""What daemons do now and then: heartbeats, words that wake, cluster-wide slots, pruning, the gauges' snapshot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.sql.support import QUEUE, Daemon, add, count, later, make_due, trigger, wait_event, wait_invocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from slayq_server.db.store import Store
    from tests.conftest import Connect


async def test_a_heartbeat_renews_and_looks_round(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The worker row is good for another lease; ready queues of those asked about, the next due time, blocked lanes."""
    quiet = await daemon.store.renew_worker(daemon.worker_id, 60.0, ["mail", "post"])
    assert (quiet.held, quiet.ready, quiet.due_in, quiet.tick_in) == (True, (), None, None)
    assert (quiet.reapable, quiet.blocked, quiet.paused) == (False, False, frozenset())

    await add(connection, queue="mail")
    await add(connection, queue="other")
    await add(connection, queue="post", run_at=later(minutes=5))
    busy = await daemon.store.renew_worker(daemon.worker_id, 60.0, ["mail", "post"])
    assert (busy.held, busy.ready) == (True, ("mail",))
    assert busy.due_in == pytest.approx(300.0, abs=5.0)
    left = await connection.fetchval("select extract(epoch from expires_at - now())::float from slayq.worker")
    assert left == pytest.approx(60.0, abs=5.0)


async def test_a_word_is_sent_only_where_it_is_wanted(connection: asyncpg.Connection, connect: Connect) -> None:
    """NOTIFY holds up every commit of the cluster: it is sent once a transaction, for what a live worker wants."""
    words: list[object] = []
    listener = await connect()
    await listener.add_listener("slayq", lambda *arguments: words.append(arguments[-1]))

    async def heard() -> Sequence[object]:
        await connection.execute("select pg_notify('slayq', 'over')")
        while "over" not in words:
            await listener.fetchval("select 1")
        told = words[: words.index("over")]
        words.clear()
        return told

    async def adds() -> None:
        async with connection.transaction():
            for queue in ("mail", "mail", "post"):
                await add(connection, queue=queue)
        await add(connection, run_at=later(seconds=3))
        await add(connection, run_at=later(minutes=3))
        await add(connection, serial="lane")

    await connection.execute(
        "insert into slayq.worker (name, version, queues, wants, expires_at) values"
        " ('dead', '0', '{mail}', '{mail,@timer}', now() - interval '1 s'),"
        " ('alive', '0', '{mail}', '{}', now() + interval '1 hour')"
    )
    await adds()
    assert await heard() == []
    await connection.execute("update slayq.worker set wants = '{mail}' where name = 'alive'")
    await adds()
    assert await heard() == ["mail"]
    await connection.execute("update slayq.worker set wants = '{@timer,@lanes}' where name = 'alive'")
    await adds()
    assert await heard() == ["@timer", "@timer"]


async def test_the_slots_of_a_cluster_limit(connection: asyncpg.Connection, store: Store) -> None:
    """Held by rows, not by counting: many daemons at once never hold more than there are; released ones go round."""
    await store.register_slots(QUEUE, 5)
    daemons = [await Daemon.register(store, f"{n}") for n in range(4)]
    held = await asyncio.gather(*(store.acquire_slots(each.worker_id, QUEUE, 3, 5) for each in daemons))
    assert await count(connection, "slot", "worker_id is not null") == sum(held) <= 5
    again = [await store.acquire_slots(each.worker_id, QUEUE, 3, 5) for each in daemons]
    assert sum(again) == 5

    rich = daemons[again.index(max(again))]
    await store.release_slots(rich.worker_id, QUEUE, 1)
    assert await store.acquire_slots(rich.worker_id, QUEUE, max(again), 5) == max(again)
    for each in daemons:
        await store.release_slots(each.worker_id, QUEUE, 9)
    assert await count(connection, "slot", "worker_id is not null") == 0


async def test_a_lowered_limit_leaves_the_upper_slots(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Slots of an earlier, higher limit are not taken; those held are given back first."""
    await daemon.store.register_slots(QUEUE, 5)
    assert await daemon.store.acquire_slots(daemon.worker_id, QUEUE, 4, 5) == 4
    await daemon.store.release_slots(daemon.worker_id, QUEUE, 2)
    numbers = await connection.fetch("select number from slayq.slot where worker_id is not null order by number")
    assert [row["number"] for row in numbers] == [1, 2]
    assert await daemon.store.acquire_slots(daemon.worker_id, QUEUE, 5, 2) == 2


async def test_an_expired_worker_gets_no_slot(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A daemon that must not trust itself does not take what others may use."""
    await daemon.store.register_slots(QUEUE, 1)
    await daemon.expire(connection)
    assert await daemon.store.acquire_slots(daemon.worker_id, QUEUE, 1, 1) == 0


@pytest.mark.parametrize(("statement", "table", "column"), [
    ("prune_dead", "dead_letter", "died_at"),
    ("prune_done", "done_job", "done_at"),
])  # fmt: skip
async def test_pruning_by_age(
    connection: asyncpg.Connection, daemon: Daemon, statement: str, table: str, column: str
) -> None:
    """Rows past their time go, the oldest first, a batch at a time; younger ones stay."""
    for _ in range(6):
        await add(connection)
        leased = await daemon.lease_one()
        await (daemon.bury(leased) if table == "dead_letter" else daemon.complete(leased, keep_done=True))
    await connection.execute(
        f"update slayq.{table} set {column} = now() - interval '1 day' * (select count(*) from slayq.{table} as later"
        f" where later.id >= {table}.id)"
    )
    week = 4.5 * 86400
    assert [await daemon.store.prune(statement, week, 1) for _ in range(3)] == [1, 1, 0]
    assert await count(connection, table) == 4
    assert await daemon.store.prune(statement, 0.0, 100) == 4


async def test_triggers_are_forgotten(connection: asyncpg.Connection, store: Store) -> None:
    """By age, and beyond a number whatever their age: a flood of events cannot fill the disk."""
    for n in range(10):
        await trigger(connection, "e", "k", f"{n}")
    await connection.execute("update slayq.trigger set created_at = now() - interval '1 hour' where id <= 2")
    assert await store.prune("prune_triggers", 60.0, 100, 50) == 2
    assert await store.prune("prune_triggers", 60.0, 5, 2) == 2
    assert await store.prune("prune_triggers", 60.0, 5, 50) == 1
    assert await store.prune("prune_triggers", 60.0, 5, 50) == 0
    assert await connection.fetchval("select array_agg(match_value order by id) from slayq.trigger") == list("56789")


async def test_the_snapshot_counts_everything(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """The gauges: jobs by queue and state, dead letters, waits by kind, queues served and paused."""
    await daemon.store.register_worker("other", "0", ["mail", "post"], 60.0)
    for _ in range(4):
        await add(connection)
    await daemon.bury(await daemon.lease_one())
    await daemon.lease_one()
    for n in range(3):
        await add(connection, f"lane {n}", serial="lane", queue="post")
    await daemon.store.promote(10)
    for key in ("event", "invocation"):
        await add(connection, key, cache={}, run_at=later())
    await wait_event(connection, "event", "e", "k", "v")
    await wait_invocation(connection, "invocation", "callee")
    await connection.execute("insert into slayq.queue (name, paused) values ('idle', true), ('mail', false)")

    rows = {row[:3]: row[3] for row in await daemon.store.snapshot()}
    assert rows == {
        ("job", "mail", "ready"): 2,
        ("job", "mail", "leased"): 1,
        ("job", "mail", "scheduled"): 2,
        ("job", "post", "ready"): 1,
        ("job", "post", "blocked"): 2,
        ("dead", "mail", "dead"): 1,
        ("wait", "event", ""): 1,
        ("wait", "invocation", ""): 1,
        ("served", "mail", ""): 1,
        ("served", "post", ""): 1,
        ("paused", "idle", ""): 1,
    }


async def test_a_promotion_takes_a_batch_at_a_time(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Of what is due no more than asked for, the earliest first; and the time until the next that is not."""
    ids = [(await add(connection, run_at=later(minutes=n + 10)))["id"] for n in range(5)]
    await make_due(connection, *ids[:4])
    assert (await daemon.store.promote(3)).count == 3
    last = await daemon.store.promote(3)
    assert (last.count, last.ready) == (1, (QUEUE,))
    assert last.due_in == pytest.approx(14 * 60.0, abs=5.0)


async def test_a_vacuum_makes_room(connection: asyncpg.Connection, daemon: Daemon, connect: Connect) -> None:
    """What was done takes up no room any more; the owner of the table may, and is not held up by one that is at it."""
    await connection.execute("alter table slayq.job set (autovacuum_enabled = off)")

    async def size_after_many() -> int:
        await connection.execute(
            "insert into slayq.job (queue, state, event, payload) "
            "select 'mail', 'ready', 'done/before', '{}' from generate_series(1, 5000)"
        )
        await connection.execute("delete from slayq.job")
        size: int = await connection.fetchval("select pg_relation_size('slayq.job')")
        return size

    assert await daemon.store.may_vacuum()
    first = await size_after_many()
    await daemon.store.vacuum()
    assert first == await size_after_many()
    assert first < await size_after_many()
    other = await connect()
    async with other.transaction():
        await other.execute("lock table slayq.job in share update exclusive mode")
        await daemon.store.vacuum()
