"""What a statement costs with many jobs in the table that are not due, or blocked, as a ratio to an empty one."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from typing import TYPE_CHECKING

import asyncpg

from bench.context import Case
from bench.rig import fresh_database
from slayq_server.db.pool import _PLANS as DAEMON_SETTINGS
from slayq_server.db.statements import query
from slayq_server.db.store import lease_arguments
from slayq_server.model import LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.context import Context
    from slayq_server.dev.cluster import Cluster

    Step = Callable[[int], Awaitable[object]]

BACKLOGS = ("empty", "100k", "1m", "blocked")
STEPS = ("add", "wait", "trigger", "cancel", "cancel_nothing", "add_ready", "lease", "complete")
_PIECE = 50_000
_PARK = """
insert into slayq.job (queue, state, run_at, job_key, event, match_terms, payload, serial_queue)
select 'bench', $3, now() + interval '1 day' + i * interval '1 second', 'parked' || i, 'bench/parked',
    array[slayq._match_term_1('bench/parked', 'id', i::text)],
    json_build_object('url', 'http://127.0.0.1:9/slayq', 'event', 'bench/parked', 'data', json_build_object('id', i)),
    case when $3 = 'blocked' then 'lane' end
from generate_series($1::integer, $2::integer) as i
"""
_HEAD = """
insert into slayq.job (queue, state, worker_id, lease, attempts, holds, serial_queue, event, payload)
values ('bench', 'leased', $1, 1, 1, true, 'lane', 'bench/parked', '{"url":"http://127.0.0.1:9/slayq"}')
"""
_WORKER = """
insert into slayq.worker (name, version, queues, expires_at)
values ('bench', '0', '{other}', now() + interval '1 day') returning id
"""
_PAYLOAD = '{{"url":"http://127.0.0.1:9/slayq","event":"bench/one","data":{{"id":"x{}"}},"cache":{{}}}}'


class Table:
    """A database of its own, with so many jobs in it. An app's connection and a daemon's."""

    def __init__(self, app: asyncpg.Connection, daemon: asyncpg.Connection, worker: int) -> None:
        self.app = app
        self.daemon = daemon
        self._worker = worker
        self._leased: asyncpg.Record | None = None
        self.times: dict[str, list[float]] = {name: [] for name in STEPS}
        """Milliseconds of each step, round by round."""

    @classmethod
    async def filled(cls, cluster: Cluster, name: str, jobs: int) -> Table:
        """Parks the jobs, or blocks them behind one that is being delivered."""
        url = await fresh_database(cluster, f"bench_backlog_{name}")
        app = await asyncpg.connect(url, command_timeout=600)
        worker = await app.fetchval(_WORKER)
        for first in range(1, jobs + 1, _PIECE):
            last = min(first + _PIECE - 1, jobs)
            await app.execute(_PARK, first, last, "blocked" if name == "blocked" else "scheduled")
        if name == "blocked":
            await app.execute(_HEAD, worker)
        await app.execute("vacuum analyze slayq.job")
        return cls(app, await asyncpg.connect(url, server_settings=DAEMON_SETTINGS), worker)

    async def take(self, step: str, number: int) -> None:
        """Takes the time of one step once."""
        act = getattr(self, f"_{step}")
        begin = time.perf_counter()
        await act(number)
        self.times[step].append((time.perf_counter() - begin) * 1000)

    async def _add(self, number: int) -> None:
        await self.app.execute(
            "select add_worker_job('bench', $1, run_at => now() + interval '1 hour', job_key => $2)",
            _PAYLOAD.format(number),
            f"one{number}",
        )

    async def _wait(self, number: int) -> None:
        await self.app.execute(
            "select wait_for_worker_event($1, 'bench/event', 'id', $2, 'step', now() + interval '1 hour')",
            f"one{number}",
            f"x{number}",
        )

    async def _trigger(self, number: int) -> None:
        """Finds its waiter."""
        await self.app.execute("select trigger_waiting_workers('bench/event', 'id', $1)", f"x{number}")

    async def _cancel(self, number: int) -> None:
        """Finds its job."""
        await self.app.execute("select cancel_pending_tasks('bench/one', 'id', $1)", f"x{number}")

    async def _cancel_nothing(self, number: int) -> None:
        await self.app.execute("select cancel_pending_tasks('bench/one', 'id', $1)", f"nothing{number}")

    async def _add_ready(self, number: int) -> None:
        await self.app.execute("select add_worker_job('other', $1)", _PAYLOAD.format(number))

    async def _lease(self, _: int) -> None:
        rows = await self.daemon.fetch(query("lease"), *lease_arguments(self._worker, [LeaseRequest(("other",), 1)]))
        (self._leased,) = rows

    async def _complete(self, _: int) -> None:
        assert self._leased is not None
        ids, leases = [self._leased["id"]], [self._leased["lease"]]
        (row,) = await self.daemon.fetch(query("settle_completed"), self._worker, ids, leases, False)
        assert row["verdict"] == "settled"

    def medians(self) -> dict[str, float]:
        """Of each step, without the rounds in which plans were made."""
        return {f"{name}_ms": statistics.median(values[len(values) // 5 :]) for name, values in self.times.items()}

    async def close(self) -> None:
        """Closes both connections."""
        await self.app.close()
        await self.daemon.close()


async def run(context: Context) -> None:
    """Step by step on all tables in turn, each time beginning with another: what else happens slows down all alike."""
    scale = context.scale
    sizes = dict(zip(BACKLOGS, (0, *scale.parked, scale.blocked), strict=True))
    tables: dict[str, Table] = {}
    try:
        for name, jobs in sizes.items():
            tables[name] = await Table.filled(context.cluster, name, jobs)
        await tables["empty"].app.execute("checkpoint")
        orders = itertools.cycle(list(itertools.permutations(tables.values()))[:: len(STEPS) - 1])
        gc.disable()
        for number in range(scale.backlog_rounds):
            order = next(orders)
            for step in STEPS:
                for table in order:
                    await table.take(step, number)
    finally:
        gc.enable()
        for table in tables.values():
            await table.close()
    for name, table in tables.items():
        what = (
            "an empty table"
            if name == "empty"
            else f"{sizes[name]:,} jobs {'blocked' if name == 'blocked' else 'parked'}"
        )
        context.results.add(f"backlog_{name}", [table.medians()], f"Milliseconds a statement with {what}")
    for name in BACKLOGS[1:]:
        for step in STEPS:
            context.results.ratio(f"backlog_{step}_{name}", f"backlog_{name}", "backlog_empty", f"{step}_ms")


CASE = Case(
    "backlog",
    run,
    figures=tuple(f"backlog_{name}" for name in BACKLOGS),
    ratios=tuple(f"backlog_{step}_{name}" for name in BACKLOGS[1:] for step in STEPS),
)
