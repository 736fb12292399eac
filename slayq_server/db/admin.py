"""What the command line asks of the database. Each method is one short transaction.

Unlike the engine, these may wait for a row that somebody else has locked, up to the time limit of a statement.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self, cast

from slayq_server.db import migrate, takeover
from slayq_server.db.admin_rows import (
    Cancelled,
    CronRow,
    DeadDetail,
    DeadRow,
    EndpointRow,
    JobDetail,
    JobRow,
    QueueRow,
    SentJob,
    WaitRow,
    WorkerRow,
)
from slayq_server.db.admin_runs import AdminRuns
from slayq_server.db.pool import Pool
from slayq_server.db.statements import query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from slayq_server.db.admin_rows import DeadFilter, JobFilter, NewJob

_TIMEOUT = 60.0
_JOB_COLUMNS = 16
"""Of `admin_job_show`, those that make a JobRow."""
_DEAD_COLUMNS = 14


class Admin:
    """The statements of the command line over one connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.runs = AdminRuns(pool)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Self]:
        """Connects for the length of a command, also through a pooler in transaction mode.

        Raises:
            DatabaseUnavailable: Postgres cannot be reached.
        """
        pool = Pool(url, size=1, pooled=True, application_name="slayq-server cli", timeout=_TIMEOUT)
        try:
            await pool.open()
            yield cls(pool)
        finally:
            await pool.close()

    async def pending_migrations(self) -> list[str]:
        """What `slayq-server migrate` would do: the names of the migrations that the database lacks, and a take-over.

        Raises:
            SchemaError: the schema is newer than this server, or was changed by hand.
        """
        async with self._pool.transaction() as connection:
            found = await migrate.status(cast("asyncpg.Connection", connection))
            due = await takeover.is_due(cast("asyncpg.Connection", connection))
        return [*(migration.name for migration in found.pending), *(["the take-over from the original"] if due else [])]

    # Jobs

    async def jobs(self, wanted: JobFilter, *, below: int | None = None, limit: int) -> list[JobRow]:
        """Jobs that fit, newest first, only those with an id less than `below`."""
        rows = await self._pool.fetch("admin_jobs_list", *_job_filter(wanted), below, limit)
        return [JobRow(*row) for row in rows]

    async def job_ids(self, wanted: JobFilter) -> list[int]:
        """The ids of all jobs that fit, oldest first."""
        ids: list[int] = await self._pool.fetchval("admin_jobs_ids", *_job_filter(wanted))
        return ids

    async def job(self, *, job_id: int | None = None, key: str | None = None) -> JobDetail | None:
        """One job, by its id or its key."""
        row = await self._pool.fetchrow("admin_job_show", job_id, key)
        if row is None:
            return None
        waits = await self._pool.fetch("admin_job_waits", row["id"])
        return JobDetail(
            job=JobRow(*tuple(row)[:_JOB_COLUMNS]),
            lease=row["lease"],
            revision=row["revision"],
            superseded=row["superseded"],
            cancelled=row["cancelled"],
            worker=row["worker"],
            waits=tuple(WaitRow(*wait) for wait in waits),
            payload=row["payload"],
            patches=row["patches"],
        )

    async def whereabouts(self, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Where these are, of those that are anywhere: (job, dead_letter or done_job; its state or reason)."""
        rows = await self._pool.fetch("admin_whereabouts", list(ids))
        return {row["id"]: (row["place"], row["state"]) for row in rows}

    async def send(self, job: NewJob) -> SentJob | None:
        """Adds a job; None if that left nothing to show (its key's job is cancelled, or out of attempts).

        Raises:
            RequestRefused: the SQL API says what is wrong with it.
        """
        row = await self._pool.fetchrow(
            "admin_send",
            job.queue,
            job.payload,
            job.serial_queue,
            job.run_at,
            job.delay,
            job.max_attempts,
            job.key,
            job.priority,
            list(job.flags) or None,
            job.key_mode,
        )
        return None if row is None or row["id"] is None else SentJob(*row)

    async def retry(self, ids: Sequence[int]) -> list[int]:
        """Makes those that wait for their time due now; returns their ids."""
        return [row["id"] for row in await self._pool.fetch("admin_retry", list(ids))]

    async def cancel(self, ids: Sequence[int]) -> Cancelled:
        """Removes jobs; those that are being delivered are marked instead."""
        async with self._pool.transaction() as connection:
            await connection.execute(query("admin_cancel_lock"), list(ids))
            rows = await connection.fetch(query("admin_cancel"), list(ids))
        return Cancelled(
            removed=tuple(row["id"] for row in rows if row["fate"] == "removed"),
            marked=tuple(row["id"] for row in rows if row["fate"] == "marked"),
        )

    # Dead letters

    async def dead(self, wanted: DeadFilter, *, below: int | None = None, limit: int) -> list[DeadRow]:
        """Dead letters that fit, newest first, only those with an id less than `below`."""
        rows = await self._pool.fetch("admin_dead_list", *_dead_filter(wanted), below, limit)
        return [DeadRow(*row) for row in rows]

    async def dead_ids(self, wanted: DeadFilter) -> list[int]:
        """The ids of all dead letters that fit, oldest first."""
        ids: list[int] = await self._pool.fetchval("admin_dead_ids", *_dead_filter(wanted))
        return ids

    async def dead_letter(self, letter_id: int) -> DeadDetail | None:
        """One dead letter."""
        row = await self._pool.fetchrow("admin_dead_show", letter_id)
        if row is None:
            return None
        return DeadDetail(DeadRow(*tuple(row)[:_DEAD_COLUMNS]), row["payload"], row["patches"])

    async def redrive(self, ids: Sequence[int]) -> list[int]:
        """Puts dead letters back as jobs; returns the ids put back. One whose key a live job has stays."""
        return [row["id"] for row in await self._pool.fetch("admin_redrive", list(ids))]

    async def purge(self, ids: Sequence[int]) -> list[int]:
        """Removes dead letters for good; returns the ids removed."""
        return [row["id"] for row in await self._pool.fetch("admin_purge", list(ids))]

    # Queues, workers, schedules

    async def queues(self) -> list[QueueRow]:
        """Every queue that anything is known of, by name."""
        return [QueueRow(*row) for row in await self._pool.fetch("admin_queues")]

    async def set_paused(self, names: Sequence[str], *, paused: bool) -> list[str]:
        """Pauses queues or lets them go on; returns those that were not so already."""
        async with self._pool.transaction() as connection:
            rows = await connection.fetch(query("admin_pause"), list(names), paused)
            changed = sorted(row["name"] for row in rows)
            if changed:
                await connection.execute(query("notify"), ["@queues"])
        return changed

    async def workers(self) -> list[WorkerRow]:
        """The worker rows, newest first."""
        return [WorkerRow(*row) for row in await self._pool.fetch("admin_workers")]

    async def endpoints(self) -> list[EndpointRow]:
        """The endpoints that are away, by name, with a row for each daemon that finds it so."""
        return [EndpointRow(*row) for row in await self._pool.fetch("admin_endpoints")]

    async def schedules(self, schedule_id: str | None = None) -> list[CronRow]:
        """All schedules, or the one with that id."""
        return [CronRow(*row) for row in await self._pool.fetch("admin_schedules", schedule_id)]

    async def trigger(self, schedule_id: str) -> int | None:
        """Adds the job of a schedule's tick now; its id, or None while the v1 minute tick is being delivered."""
        job_id: int | None = await self._pool.fetchval("admin_trigger", schedule_id)
        return job_id

    async def trigger_function(self, event: str) -> str:
        """Creates a run of a function, as a tick of its schedule does; the run's id."""
        return str(await self._pool.fetchval("send_tick", event, None))

    async def make_tick_due(self, schedule_id: str) -> None:
        """Makes a schedule's next tick due now: a daemon that has it fires it at its next heartbeat."""
        await self._pool.execute("admin_tick_now", schedule_id)


def _job_filter(wanted: JobFilter) -> tuple[Any, ...]:
    match_key, match_value = wanted.match or (None, None)
    return (
        list(wanted.queues) or None,
        list(wanted.states) or None,
        wanted.event,
        wanted.key,
        match_key,
        match_value,
        wanted.failed,
    )


def _dead_filter(wanted: DeadFilter) -> tuple[Any, ...]:
    return (list(wanted.queues) or None, list(wanted.reasons) or None, wanted.event, wanted.key, wanted.before)
