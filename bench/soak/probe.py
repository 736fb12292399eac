"""One look at everything: the processes, the database, what has arrived."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import asyncpg

Sample = dict[str, Any]
"""`at` in seconds since the start, and figures by name; those of tables and indexes below `tables` and `indexes`."""
PROBE = "soak-probe"


class Probe:
    """Looks again and again. Its connection is its own, and not counted."""

    def __init__(self, connection: asyncpg.Connection, processes: dict[str, int], server: str, endpoint: str) -> None:
        """`processes`: the ids by name; `server` and `endpoint`: where they listen."""
        self._connection = connection
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._server = server
        self._endpoint = endpoint
        self._began = time.monotonic()
        self._lag = (0.0, 0.0)
        self._cpu: dict[str, float] = {}
        self._last = self._began

    async def look(self) -> Sample:
        """A sample."""
        now = time.monotonic()
        sample: Sample = {"at": round(now - self._began, 2), "load": os.getloadavg()[0]}
        elapsed, self._last = max(now - self._last, 1e-9), now
        for name, process in self._processes.items():
            sample |= {f"{name}_{what}": value for what, value in self._process(name, process, elapsed).items()}
        sample |= self._server_figures(await asyncio.to_thread(fetch, f"{self._server}/metrics"))
        sample |= await self._database()
        window = json.loads(await asyncio.to_thread(fetch, f"{self._endpoint}/window"))
        sample["deliveries_per_second"] = round(window.pop("deliveries") / elapsed, 1)
        return sample | {f"latency_{name}": value for name, value in window.items()}

    def _process(self, name: str, process: psutil.Process, elapsed: float) -> dict[str, float]:
        memory = process.memory_full_info()
        times = process.cpu_times()
        used = times.user + times.system
        before, self._cpu[name] = self._cpu.get(name, used), used
        return {
            "rss_mb": round(memory.rss / 2**20, 2),
            "uss_mb": round(memory.uss / 2**20, 2),
            "files": process.num_fds(),
            "threads": process.num_threads(),
            "cpu_percent": round((used - before) / elapsed * 100, 1),
        }

    def _server_figures(self, text: str) -> dict[str, float]:
        series = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                series[name] = float(value)
        lag = series["slayq_event_loop_lag_seconds_sum"], series["slayq_event_loop_lag_seconds_count"]
        before, self._lag = self._lag, lag
        turns = lag[1] - before[1]
        return {
            "tasks": series["slayq_event_loop_tasks"],
            "loop_lag_ms": round((lag[0] - before[0]) / turns * 1000, 2) if turns else 0.0,
            "stale_writes": sum(value for name, value in series.items() if name.startswith("slayq_stale_writes_total")),
            "db_errors": sum(value for name, value in series.items() if name.startswith("slayq_db_errors_total")),
        }

    async def _database(self) -> Sample:
        sample: Sample = dict(await self._connection.fetchrow(_ACTIVITY, PROBE))
        backends = await self._connection.fetch(_BACKENDS)
        sample["backend_mb"] = max((anonymous(row["pid"]) for row in backends), default=0.0)
        states = await self._connection.fetch("select state, count(*) as jobs from slayq.job group by state")
        counts = {row["state"]: row["jobs"] for row in states}
        for state in ("ready", "scheduled", "blocked", "leased"):
            sample[f"jobs_{state}"] = counts.get(state, 0)
        sample["tables"] = {row["name"]: dict(row) for row in await self._connection.fetch(_TABLES)}
        sample["indexes"] = {row["name"]: dict(row) for row in await self._connection.fetch(_INDEXES)}
        return sample


def fetch(url: str) -> str:
    """What a GET is answered with."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def anonymous(pid: int) -> float:
    """Megabytes of a process's own, without what it shares: 0 if it has just ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return round(int(line.split()[1]) / 1024, 2)
    except OSError:
        pass
    return 0.0


_ACTIVITY = """
select count(*) filter (where application_name like 'slayq-server%') as connections,
    count(*) filter (where application_name <> $1) as connections_all,
    coalesce(max(extract(epoch from clock_timestamp() - state_change)) filter (
        where state like 'idle in transaction%' and application_name like 'slayq-server%'
    ), 0)::float8 as idle_in_transaction_seconds,
    (select round(sum(size) / 2 ^ 20)::float8 from pg_ls_waldir()) as wal_mb,
    round(pg_database_size(current_database()) / 2 ^ 20)::float8 as database_mb
from pg_stat_activity where backend_type = 'client backend' and datname = current_database()
"""
_BACKENDS = """
select pid from pg_stat_activity where backend_type = 'client backend' and application_name like 'slayq-server%'
"""
_TABLES = """
select c.relname as name, (pg_relation_size(c.oid) + coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))
    as bytes, s.n_live_tup as live, s.n_dead_tup as dead, s.autovacuum_count as vacuums, s.n_tup_ins as inserts
from pg_class c join pg_stat_user_tables s on s.relid = c.oid
where s.schemaname = 'slayq' order by 1
"""
_INDEXES = """
select i.indexrelname as name, i.relname as "table", pg_relation_size(i.indexrelid) as bytes
from pg_stat_user_indexes i where i.schemaname = 'slayq' order by 1
"""
