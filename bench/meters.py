"""What work costs: CPU of the worker's processes and of Postgres, commits, bytes of WAL."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from slayq_server.dev.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds, user and system together; transactions that wrote; bytes of WAL."""

    worker: float
    postgres: float
    commits: int
    wal: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.worker - other.worker,
            self.postgres - other.postgres,
            self.commits - other.commits,
            self.wal - other.wal,
        )

    def per_job(self, jobs: int) -> dict[str, float]:
        """As figures."""
        return {
            "worker_cpu_seconds_per_1000": self.worker / jobs * 1000,
            "postgres_cpu_seconds_per_1000": self.postgres / jobs * 1000,
            "cpu_seconds_per_1000": (self.worker + self.postgres) / jobs * 1000,
            "commits_per_job": self.commits / jobs,
            "wal_bytes_per_job": self.wal / jobs,
        }


async def cost(cluster: Cluster, watcher: asyncpg.Connection, workers: Sequence[psutil.Process]) -> Cost:
    """So far. Commits are counted by the ids that transactions get once they write: pg_stat_database lags a second."""
    row = await watcher.fetchrow(
        "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as commits,"
        " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as wal"
    )
    assert row is not None
    return Cost(sum(map(worker_cpu, workers)), postgres_cpu(cluster), row["commits"], row["wal"])


def worker_cpu(process: psutil.Process) -> float:
    """Of a process and of all its children, those that have ended included."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def postgres_cpu(cluster: Cluster) -> float:
    """Of Postgres with all its children."""
    return worker_cpu(psutil.Process(cluster.pid))
