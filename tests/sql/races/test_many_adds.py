"""Many connections that add one key while workers lease and settle it (N4)."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sql.support import Daemon, add, completed, count, data_of, failed

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob
    from tests.conftest import Connect


CONNECTIONS = 20
ADDS_EACH = 500


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
    async with asyncio.timeout(110), asyncio.TaskGroup() as workers:
        for seed, (each, connection) in enumerate(zip((daemon, other), onlookers, strict=True)):
            workers.create_task(work(each, connection, record, over, random.Random(seed)))
        async with asyncio.TaskGroup() as group:
            for number, connection in enumerate(adders):
                group.create_task(add_often(connection, number, record))
        over.set()

    assert sum(len(revisions) for revisions in record.added.values()) == CONNECTIONS * ADDS_EACH
    assert len(record.added) > 10, "the worker never met the adders"
    record.check()
