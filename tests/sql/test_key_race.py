"""Many connections that add one key while a worker leases and settles it (N4)."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sql.support import QUEUE, Daemon, add, blocked_by, completed, count, data_of, failed, payload

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob
    from tests.conftest import Connect

CONNECTIONS = 20
ADDS_EACH = 500

ADD_MANY = """select id from slayq.add_jobs(
    array(
        select row($1::text, $2::json, null, null, null, k, null, null)::slayq.job_spec
        from unnest($3::text[]) with ordinality as s (k, n) order by n
    )
)"""


@dataclass
class Record:
    """What the adders were told and what the worker was given."""

    added: defaultdict[int, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """By job id and revision: the number of the add."""
    delivered: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By job id: the numbers delivered, in order."""

    def check(self) -> None:
        """Every add was delivered, or replaced by a later one that was."""
        assert self.added.keys() == self.delivered.keys()
        for job_id, revisions in self.added.items():
            assert sorted(revisions) == list(range(len(revisions)))
            assert self.delivered[job_id][-1] == revisions[max(revisions)]
            assert set(self.delivered[job_id]) <= set(revisions.values())


async def add_often(connection: asyncpg.Connection, number: int, record: Record) -> None:
    """Adds the key again and again, and notes which row and revision each add became."""
    for n in range(ADDS_EACH):
        name = f"{number}/{n}"
        row = await add(connection, "k", name)
        assert row["revision"] not in record.added[row["id"]], "two adds became one revision of one row"
        record.added[row["id"]][row["revision"]] = name


async def work(
    daemon: Daemon, connection: asyncpg.Connection, record: Record, over: asyncio.Event, generator: random.Random
) -> None:
    """Leases, fails or completes until nothing is left after the adders are done."""
    while True:
        last_round = over.is_set()
        await daemon.store.promote(100)
        batch: list[LeasedJob] = await daemon.lease(free=3)
        for leased in batch:
            record.delivered[leased.id].append(data_of(leased))
        outcomes = [failed(each, delay=0.0) if generator.random() < 0.3 else completed(each) for each in batch]
        while outcomes:
            verdicts = (await daemon.settle(*outcomes)).verdicts
            assert set(verdicts.values()) <= {"settled", "dropped", "locked"}
            outcomes = [each for each in outcomes if verdicts[each.job_id] == "locked"]
        if last_round and not await count(connection):
            return


async def test_no_add_of_a_contested_key_is_lost(connect: Connect, daemon: Daemon, store: Store) -> None:
    """N4: of 10,000 adds by 20 connections each is delivered or was replaced by a later one; no two live rows."""
    record, over = Record(), asyncio.Event()
    other = await Daemon.register(store, "other")
    adders = [await connect() for _ in range(CONNECTIONS)]
    onlookers = [await connect() for _ in range(2)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as workers:
        for seed, (each, connection) in enumerate(zip((daemon, other), onlookers, strict=True)):
            workers.create_task(work(each, connection, record, over, random.Random(seed)))
        async with asyncio.TaskGroup() as group:
            for number, connection in enumerate(adders):
                group.create_task(add_often(connection, number, record))
        over.set()

    assert sum(len(revisions) for revisions in record.added.values()) == CONNECTIONS * ADDS_EACH
    assert len(record.added) > 10, "the worker never met the adders"
    record.check()


async def test_bulk_adds_of_the_same_keys_do_not_wait_in_a_circle(connect: Connect, daemon: Daemon) -> None:
    """N3, N4: calls that name the same keys in different orders all come through, while the keys are being leased."""
    keys = [f"key {n}" for n in range(12)]
    generator = random.Random(4)
    over = asyncio.Event()

    async def add_in_bulk(connection: asyncpg.Connection) -> int:
        rows = 0
        for _ in range(25):
            rows += len(await connection.fetch(ADD_MANY, QUEUE, payload(), generator.sample(keys, 8)))
        return rows

    async def drain() -> None:
        while not over.is_set():
            await daemon.complete(*await daemon.lease(free=4))

    connections = [await connect() for _ in range(8)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(drain())
        added = await asyncio.gather(*(add_in_bulk(each) for each in connections))
        over.set()

    assert added == [25 * 8] * 8
    keyed = await connections[0].fetch("select job_key from slayq.job where state <> 'leased'")
    assert len({row["job_key"] for row in keyed}) == len(keyed)


async def test_an_add_waits_for_the_lease_that_took_its_key(connect: Connect, daemon: Daemon) -> None:
    """N4: an add that meets a lease not yet committed waits for it, and then makes a new row."""
    adder, leaser = await connect(), await connect()
    first = await add(adder, "k", 1)
    transaction = leaser.transaction()
    await transaction.start()
    await leaser.execute(
        "update slayq.job set state = 'leased', worker_id = $1, lease = 1, attempts = 1", daemon.worker_id
    )
    adding = asyncio.create_task(add(adder, "k", 2))
    await blocked_by(await connect(), leaser, adder)
    await transaction.commit()
    second = await adding

    assert (second["id"] > first["id"], second["revision"], second["state"]) == (True, 0, "ready")


async def test_an_add_waits_for_the_end_of_its_key(connect: Connect, daemon: Daemon) -> None:
    """N4: an add that meets a completion not yet committed makes a new row after it, whether it commits or not."""
    for commits in (True, False):
        adder, settler = await connect(), await connect()
        await add(adder, "k", 1)
        leased = await daemon.lease_one()
        transaction = settler.transaction()
        await transaction.start()
        await settler.execute("delete from slayq.job where id = $1", leased.id)
        adding = asyncio.create_task(add(adder, "k", 2))
        await blocked_by(await connect(), settler, adder)
        await (transaction.commit() if commits else transaction.rollback())
        second = await adding

        assert (second["id"] != leased.id, second["revision"]) == (True, 0)
        assert json.loads((await daemon.lease_one()).payload)["data"] == 2
        await adder.execute("delete from slayq.job")
