"""What a statement costs with many parked jobs in the table, as a ratio to an empty one."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import asyncpg

from bench.rig import fresh_database
from slayq_server.db.statements import query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slayq_server.dev.cluster import Cluster

    Step = Callable[[int], Awaitable[object]]

_PARK = """
insert into slayq.job (queue, state, run_at, job_key, event, match_terms, payload)
select 'bench', 'scheduled', now() + interval '1 day' + i * interval '1 second', 'parked' || i, 'bench/parked',
    array[slayq._match_term_1('bench/parked', 'id', i::text)],
    json_build_object('url', 'http://127.0.0.1:9/slayq', 'event', 'bench/parked', 'data', json_build_object('id', i))
from generate_series($1::integer, $2::integer) as i
"""
_PAYLOAD = '{{"url":"http://127.0.0.1:9/slayq","event":"bench/one","data":{{"id":"x{}"}},"cache":{{}}}}'


class Table:
    """A database of its own, with so many parked jobs in it."""

    def __init__(self, connection: asyncpg.Connection, steps: dict[str, Step]) -> None:
        self.connection = connection
        self._steps = steps
        self.times: dict[str, list[float]] = {name: [] for name in steps}
        """Milliseconds of each step, round by round."""

    @classmethod
    async def filled(cls, cluster: Cluster, parked: int) -> Table:
        """Parks the jobs. The steps: add, wait, a trigger that finds its waiter, a cancel that finds its job, lease."""
        connection = await asyncpg.connect(await fresh_database(cluster, f"bench_{parked}_parked"), command_timeout=600)
        for start in range(1, parked + 1, 50_000):
            await connection.execute(_PARK, start, min(start + 49_999, parked))
        await connection.execute("vacuum analyze slayq.job")
        worker = await connection.fetchval(
            "insert into slayq.worker (name, version, queues, expires_at)"
            " values ('bench', '0', '{other}', now() + interval '1 day') returning id"
        )
        lease = await connection.prepare(query("lease"))
        return cls(connection, {
            "add": lambda n: connection.execute(
                "select add_worker_job('bench', $1, run_at => now() + interval '1 hour', job_key => $2)",
                _PAYLOAD.format(n),
                f"one{n}",
            ),
            "wait": lambda n: connection.execute(
                "select wait_for_worker_event($1, 'bench/event', 'id', $2, 'step', now() + interval '1 hour')",
                f"one{n}",
                f"x{n}",
            ),
            "trigger": lambda n: connection.execute("select trigger_waiting_workers('bench/event', 'id', $1)", f"x{n}"),
            "cancel": lambda n: connection.execute("select cancel_pending_tasks('bench/one', 'id', $1)", f"x{n}"),
            "add_ready": lambda n: connection.execute("select add_worker_job('other', $1)", _PAYLOAD.format(n)),
            "lease": lambda _: lease.fetch(worker, ["other"], [0], [1], None),
        })  # fmt: skip

    async def round(self, number: int) -> None:
        """Takes the time of each step once."""
        for name, step in self._steps.items():
            begin = time.perf_counter()
            await step(number)
            self.times[name].append((time.perf_counter() - begin) * 1000)

    def medians(self) -> dict[str, float]:
        """Of each step, without the rounds in which plans were made."""
        return {name: statistics.median(values[len(values) // 10 :]) for name, values in self.times.items()}


async def backlog(cluster: Cluster, parked: int, rounds: int = 300) -> dict[str, float]:
    """The ratios, and what they are ratios of. Round by round in turn: what else the machine does slows down both."""
    tables = [await Table.filled(cluster, 0), await Table.filled(cluster, parked)]
    try:
        for number in range(rounds):
            for table in tables:
                await table.round(number)
    finally:
        for table in tables:
            await table.connection.close()
    empty, full = (table.medians() for table in tables)
    return {f"{name}_to_empty": full[name] / empty[name] for name in empty} | {
        f"{name}_ms": milliseconds for name, milliseconds in full.items()
    }
