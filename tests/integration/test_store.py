"""The engine's statements on a real Postgres, with what an unfriendly world puts into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slayq_server.db.pool import Pool
from slayq_server.db.store import Store
from slayq_server.model import DeadReason, LeaseRequest, Outcome, OutcomeKind, Settlement
from tests.support.daemon import add

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

URL = "http://127.0.0.1:1/slayq"
OF_JOBS = [OutcomeKind.COMPLETED, OutcomeKind.RETRIED, OutcomeKind.DEAD, OutcomeKind.RELEASED, OutcomeKind.PUT_OFF]
"""The outcomes that jobs have; runs have some more."""


@pytest.fixture(params=[False, True], ids=["direct", "pooled"])
async def store(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """The statements, as they are run directly and behind a pooler."""
    pool = Pool(database_url, pooled=request.param)
    await pool.open()
    yield Store(pool)
    await pool.close()


async def leased(store: Store, connection: asyncpg.Connection, number: int = 1) -> tuple[int, list[tuple[int, int]]]:
    """A worker, and the (id, lease) of jobs that it holds."""
    worker = await store.register_worker("w", "1", ["mail"], 60)
    for _ in range(number):
        await add(connection, URL)
    return worker, [(job.id, job.lease) for job in await store.lease(worker, [LeaseRequest(("mail",), number)])]


@pytest.mark.parametrize("kind", [OutcomeKind.RETRIED, OutcomeKind.DEAD])
async def test_any_text_can_be_the_last_error(store: Store, connection: asyncpg.Connection, kind: OutcomeKind) -> None:
    """NUL and halves of surrogate pairs, which Postgres refuses, do not keep an outcome from being written down."""
    worker, [(job_id, lease)] = await leased(store, connection)
    reason = DeadReason.NO_RETRY if kind is OutcomeKind.DEAD else None
    outcome = Outcome(kind, delay=60, error="no\x00 \ud800 good é", reason=reason)
    settled = await store.settle(worker, [Settlement(job_id, lease, "mail", outcome)])
    assert {job_id: "settled"} == settled.verdicts
    table = "job" if kind is OutcomeKind.RETRIED else "dead_letter"
    assert "no\ufffd ? good é" == await connection.fetchval(f"select last_error from slayq.{table}")


async def test_outcomes_of_every_kind_in_one_batch(store: Store, connection: asyncpg.Connection) -> None:
    """Each is written down under its lease; one that is not ours is stale."""
    worker, jobs = await leased(store, connection, 5)
    batch = [
        Settlement(job_id, lease, "mail", Outcome(kind, reason=DeadReason.BLOCKED if kind == "dead" else None))
        for (job_id, lease), kind in zip(jobs, OF_JOBS, strict=True)
    ]
    batch.append(Settlement(1_000_000, 1, "mail", Outcome(OutcomeKind.COMPLETED)))
    settled = await store.settle(worker, batch)
    assert {**{job_id: "settled" for job_id, _ in jobs}, 1_000_000: "stale"} == settled.verdicts
    assert 0 == await connection.fetchval("select count(*) from slayq.job where state = 'leased'")


async def test_slots_above_a_lowered_limit_count_for_nothing(store: Store, connection: asyncpg.Connection) -> None:
    """Two daemons share ten slots; under a limit of four they hold four at the most, whoever had which."""
    await store.register_slots("mail", 10)
    workers = [await store.register_worker(name, "1", ["mail"], 60) for name in ("a", "b")]
    assert [5, 5] == [await store.acquire_slots(worker, "mail", 5, 10) for worker in workers]
    assert [4, 0] == [await store.acquire_slots(worker, "mail", 4, 4) for worker in workers]
    await store.release_slots(workers[0], "mail", 1)
    assert 1 == await store.acquire_slots(workers[1], "mail", 4, 4)
    assert 4 == await connection.fetchval("select count(*) from slayq.slot where worker_id is not null")
