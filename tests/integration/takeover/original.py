"""What the original does in its database, and how a database looks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.npm import node

if TYPE_CHECKING:
    import asyncpg

HERE = Path(__file__).parent

# What a job is, there and here.
OLD_JOBS = """
select id, task_identifier as queue, key, run_at, priority, attempts, max_attempts, queue_name as serial, last_error,
    revision, created_at, payload::text,
    (select array_agg(flag order by flag) from jsonb_object_keys(flags) flag) as flags
from graphile_worker.jobs join (select id, payload from graphile_worker._private_jobs) p using (id)
order by id"""
OUR_JOBS = """
select id, queue, job_key as key, run_at, priority, attempts, max_attempts, serial_queue as serial, last_error,
    revision, created_at, payload::text, (select array_agg(flag order by flag) from unnest(flags) flag) as flags
from slayq.job order by id"""


def graphile(packages: Path, *arguments: str) -> tuple[str, ...]:
    """The command that runs the real Graphile Worker."""
    return (node(), str(HERE / "node" / "graphile.mjs"), str(packages), *arguments)


@dataclass(frozen=True)
class Original:
    """Acts as the original's server and its apps do."""

    connection: asyncpg.Connection

    async def add(
        self, queue: str = "mail", payload: Any = None, *, url: str = "http://127.0.0.1:9/", **more: Any
    ) -> int:
        """Adds a job by the real `graphile_worker.add_job`; its id. `event` and `data` go into the payload."""
        if payload is None:
            payload = {"url": url, "retry": 0, "event": more.pop("event", "a/b"), "data": more.pop("data", {})}
            if "cache" in more:
                payload["cache"] = more.pop("cache")
        text = payload if isinstance(payload, str) else json.dumps(payload)
        names = "".join(f", {name} => ${number}" for number, name in enumerate(more, start=3))
        job_id: int = await self.connection.fetchval(
            f"select (graphile_worker.add_job($1, $2{names})).id", queue, text, *more.values()
        )
        return job_id

    async def set(self, job_id: int, **columns: Any) -> None:
        """Changes a job's row, as the server does when it delivers a job and when one fails."""
        changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, start=2))
        await self.connection.execute(
            f"update graphile_worker._private_jobs set {changes} where id = $1", job_id, *columns.values()
        )

    async def lock(self, job_id: int, ago: str) -> None:
        """A worker that is not there any more took the job, so long ago."""
        await self.connection.execute(
            "update graphile_worker._private_jobs set locked_by = 'worker-0123', attempts = attempts + 1, "
            "locked_at = now() - $2::text::interval where id = $1",
            job_id,
            ago,
        )

    async def jobs(self) -> list[dict[str, Any]]:
        """All jobs, as there."""
        return [dict(row) for row in await self.connection.fetch(OLD_JOBS)]


async def our_jobs(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """All jobs, as here, in the same words."""
    return [dict(row) for row in await connection.fetch(OUR_JOBS)]


async def letters(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """All dead letters."""
    return await connection.fetch("select * from slayq.dead_letter order by id")


async def snapshot(connection: asyncpg.Connection) -> dict[str, list[str]]:
    """Everything in a database: the rows of each table, and what there is beside tables."""
    tables = await connection.fetch(
        "select oid::regclass::text as name from pg_class where relkind = 'r' "
        "and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'"
    )
    everything = {
        table["name"]: [row[0] for row in await connection.fetch(f"select t::text from {table['name']} t order by 1")]
        for table in tables
    }
    everything["functions"] = [
        row[0]
        for row in await connection.fetch(
            "select concat(pg_get_functiondef(oid), proacl) from pg_proc where prokind = 'f' "
            "and pronamespace::regnamespace::text !~ '^(pg_|information_schema)' order by 1"
        )
    ]
    everything["relations"] = [
        row[0]
        for row in await connection.fetch(
            "select concat_ws(' ', oid::regclass, relkind, relacl) from pg_class "
            "where relnamespace::regnamespace::text !~ '^(pg_|information_schema)' order by 1"
        )
    ]
    return everything
