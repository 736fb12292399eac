"""What the command line asks of runs and functions. Frozen rows; field names are the keys of `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from slayq_server.db.pool import Pool


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run that has not ended, without its data."""

    id: int
    """Of its job."""
    run: UUID
    event: str
    queue: str
    state: str
    """scheduled, ready, leased."""
    suspended: bool
    """It waits for what stands in `waits_for`, not for its next attempt."""
    attempts: int
    max_attempts: int
    delivery_failures: int
    """Deliveries in a row that did not get through."""
    steps: int
    """How many have an outcome."""
    waits_for: list[str]
    run_at: datetime
    created_at: datetime
    last_error: str | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run, wherever it is."""

    id: int
    run: UUID
    event: str
    queue: str
    state: str
    """Of a live run its job's, or suspended; `dead: REASON`; done."""
    attempts: int
    max_attempts: int | None
    delivery_failures: int | None
    cancelled: bool
    run_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
    last_error: str | None
    worker: str | None
    """The name of the worker that holds it."""
    payload: str
    """JSON text as stored."""
    output: str | None
    """JSON text; of a run that is done."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """What is recorded of one step."""

    name: str
    kind: str
    """run, send, sleep, wait, invoke."""
    state: str
    """done, failed, timed_out, pending."""
    attempts: int
    """How often it has failed."""
    due_at: datetime | None
    """Of a pending one: when it ends by itself, or is tried again."""
    target: str
    """Of a wait: its event and match; of an invocation: the run."""
    output: str | None
    """JSON text."""
    error: str | None
    """JSON text of {type, message, trace}."""


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """A function that an app has registered."""

    event: str
    app: str
    name: str
    url: str
    queue: str
    max_attempts: int
    priority: int
    cron: str | None
    invokes: list[str]
    cancel_on: list[str]
    waits_on: list[str]
    runs: int
    """How many have not ended."""
    sdk: str | None
    registered_at: datetime


class AdminRuns:
    """The statements over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list(
        self, queues: Sequence[str], states: Sequence[str], event: str | None, *, below: int | None, limit: int
    ) -> list[RunRow]:
        """Runs that fit, newest first, only those whose job has an id less than `below`; empty and None mean any."""
        found = await self._pool.fetch(
            "admin_runs_list", list(queues) or None, list(states) or None, event, below, limit
        )
        return [RunRow(*row) for row in found]

    async def show(self, run: UUID) -> tuple[RunDetail, Sequence[StepRow]] | None:
        """One run with its steps; None if there is none, or no history of it."""
        row = await self._pool.fetchrow("admin_run_show", run)
        if row is None:
            return None
        return RunDetail(*row), [StepRow(*step) for step in await self._pool.fetch("admin_run_steps", row["id"])]

    async def cancel(self, run: UUID) -> bool:
        """Whether there was such a run: nothing of it comes back."""
        cancelled: bool = await self._pool.fetchval("admin_run_cancel", run)
        return cancelled

    async def functions(self) -> Sequence[FunctionRow]:
        """All functions, by app."""
        return [FunctionRow(*row) for row in await self._pool.fetch("admin_functions")]
