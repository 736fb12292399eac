"""What the commands of the command line get from the database. Frozen; field names are the keys of `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; None and empty mean any."""

    queues: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    """scheduled, ready, blocked, leased."""
    event: str | None = None
    key: str | None = None
    match: tuple[str, str] | None = None
    """A member of the payload's data and its text; needs `event`."""
    failed: bool | None = None
    """True: only those that have been delivered at least once."""


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters; None and empty mean any."""

    queues: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    event: str | None = None
    key: str | None = None
    before: datetime | None = None
    """Died before that time."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job, without its payload."""

    id: int
    queue: str
    state: str
    event: str
    key: str | None
    serial_queue: str | None
    priority: int
    run_at: datetime
    attempts: int
    max_attempts: int
    last_error: str | None
    flags: list[str]
    created_at: datetime
    updated_at: datetime
    worker_id: int | None
    leased_at: datetime | None


@dataclass(frozen=True, slots=True)
class WaitRow:
    """What a parked job waits for: an event with a match, or the end of the job with `target_key`."""

    kind: str
    step: str
    event: str | None
    match_key: str | None
    match_value: str | None
    target_key: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class JobDetail:
    """A job with all there is to say about it."""

    job: JobRow
    lease: int
    revision: int
    superseded: bool
    """Its key was taken over while it was being delivered: it is never tried again."""
    cancelled: bool
    worker: str | None
    """The name of the worker that holds it."""
    waits: tuple[WaitRow, ...]
    payload: str
    """JSON text as stored."""
    patches: str | None
    """JSON text of `[[step, value], ...]`: what waits and invocations have added to the payload's cache."""


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A dead letter, without its payload."""

    id: int
    queue: str
    reason: str
    event: str
    key: str | None
    serial_queue: str | None
    priority: int
    attempts: int
    max_attempts: int
    last_error: str | None
    flags: list[str]
    run_at: datetime
    created_at: datetime
    died_at: datetime


@dataclass(frozen=True, slots=True)
class DeadDetail:
    """A dead letter with its payload."""

    letter: DeadRow
    payload: str
    patches: str | None


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue: how many jobs are in it by state, and who serves it."""

    name: str
    paused: bool
    ready: int
    scheduled: int
    blocked: int
    leased: int
    dead: int
    oldest_ready_seconds: float | None
    """How long the job has been due that has waited longest; None where none is ready."""
    workers: list[str]
    """Live workers that serve it, as NAME#ID."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A daemon process."""

    id: int
    name: str
    version: str
    queues: list[str]
    started_at: datetime
    renewed_at: datetime
    expires_at: datetime
    live: bool
    leased: int
    """Jobs that it holds."""


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint that is away."""

    endpoint: str
    """Scheme, host and port."""
    worker: str | None
    """The live worker that finds it away, as NAME#ID; None: none does any more."""
    since: datetime | None
    failures: int | None
    """Deliveries in a row that found it away."""
    result: str | None
    """What the last of them came to."""
    put_off: int
    """Jobs that are put off until it is back, of all workers."""


@dataclass(frozen=True, slots=True)
class CronRow:
    """A schedule as the database has it."""

    id: str
    cron: str
    queue: str
    event: str
    url: str
    kind: str
    """config: of a configuration file; tick: the minute tick of protocol v1; function: of a registered function."""
    priority: int
    max_attempts: int | None
    key: str | None
    catch_up: str
    next_at: datetime | None
    """None: no daemon has set its first tick yet."""
    last_at: datetime | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class NewJob:
    """What `send` adds. None means the default."""

    queue: str
    payload: str
    """JSON text."""
    serial_queue: str | None = None
    run_at: datetime | None = None
    delay: float | None = None
    """Seconds from now, by the database's clock; in place of `run_at`."""
    max_attempts: int | None = None
    key: str | None = None
    priority: int | None = None
    flags: tuple[str, ...] = ()
    key_mode: str | None = None


@dataclass(frozen=True, slots=True)
class SentJob:
    """A job as `send` left it."""

    id: int
    queue: str
    state: str
    event: str
    key: str | None
    priority: int
    run_at: datetime
    max_attempts: int
    revision: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of jobs that were cancelled, by id."""

    removed: tuple[int, ...]
    marked: tuple[int, ...]
    """Being delivered: nothing of them comes back once that delivery ends."""
