"""Values that the parts of the daemon hand to each other. Not to be changed, and free of behaviour.

A leased job goes from `engine.leasing` to `engine.delivery`, which turns it into an `Answer`; `engine.outcome` turns
that into an `Outcome`; `engine.settling` writes the outcome down. A durable run (protocol v2) goes to `engine.segment`
instead, whose `Op`s and outcome `engine.journal` writes down. The rest is what the engine and `db.store` exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from datetime import datetime

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def quick_dataclass(cls: type[_T]) -> type[_T]:
    """A dataclass that type checkers hold for frozen, and that is not: to make one that is takes eight times as long.

    For what every job has one of.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass(frozen=True, slots=True)
class Run:
    """What a lease brings along about a durable run, beside the job that carries it."""

    id: str
    """A UUID."""
    url: str | None
    """Where its function is, as last registered; None: no app has it any more."""
    created_at: str
    """ISO 8601."""
    steps: str
    """JSON text of its steps as they go over the wire: first those with an outcome, in the order of that."""
    seen: int
    """How far the run's record had come when it was leased: says at its suspension whether something came meanwhile."""
    delivery_failures: int = 0
    """Deliveries in a row that came to nothing. They do not use up the function's attempts."""
    traceparent: str | None = None
    bytes: int = 0
    """Of what is recorded of it. Where that is more than an app reads, `steps` lacks it."""


Place: TypeAlias = "tuple[int, int | None, int]"
"""Where a job stands among the ready ones of its queue: its priority, when it was due, and its id.

The time in microseconds since 1970, because Postgres knows years that Python does not; None: before all times.
"""


@quick_dataclass
class LeasedJob:
    """A job this daemon holds: delivered only while the daemon's worker row is trusted, settled only under `lease`."""

    id: int
    lease: int
    """The number of this lease of this job; rises with every lease, so a write under an older one is stale."""
    queue: str
    """As stored: may be an alias of a pool's name."""
    job_key: str | None
    attempts: int
    """Deliveries so far, this one included (1 on the first); of a run, attempts at its function."""
    max_attempts: int
    payload: str
    """JSON text, exactly as stored in Postgres (type `json`)."""
    patches: str | None
    """JSON text of `[[step name, value], ...]`: what waits and invocations have added to the payload's `cache`."""
    serial_queue: str | None
    waited: float
    """Seconds from due to leased, by the database's clock."""
    run: Run | None = None
    """Set if and only if the job is a durable run."""
    place: Place | None = None
    """Of the last of each queue in a batch; None of all others."""


@dataclass(frozen=True, slots=True)
class Op:
    """A line of protocol v2's answer that is to be written down. Texts of JSON are as the app has spelled them."""

    kind: str
    """step, step_failed, send, sleep, wait or invoke."""
    name: str
    """The step's."""
    value: str | None = None
    """JSON text: a step's output, its error, the events to be sent, the data of what is invoked."""
    event: str | None = None
    """What is waited for or invoked."""
    key: str | None = None
    """The member of the event's data that a wait looks at."""
    match_value: str | None = None
    """What that member must be, as JavaScript prints it."""
    seconds: float | None = None
    """How long to sleep; until a wait or an invocation times out; until a failed step is tried again."""
    until: datetime | None = None
    """When a sleep ends."""
    attempt: int | None = None
    """How often the step has failed, this time included."""
    final: bool | None = None
    """The failure is the step's outcome."""

    @property
    def size(self) -> int:
        """Characters, roughly."""
        return 200 if self.value is None else 200 + len(self.value)


@dataclass(frozen=True, slots=True)
class Suspend:
    """The run is parked until a pending step has an outcome."""


@dataclass(frozen=True, slots=True)
class Done:
    """The run has ended."""

    output: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The function threw."""

    error: str
    """One line for people: the error's type and message."""
    retry: bool
    retry_after: float | None = None
    """Seconds."""
    steps: str | None = None
    """JSON text of the names of the steps whose failures nobody caught."""


Terminal: TypeAlias = Suspend | Done | Failed
"""The last op of an answer."""


class CallbackResult(StrEnum):
    """What a delivery came to: the `result` label of `slayq_callback_responses_total`."""

    OK = "2xx"
    REDIRECT = "3xx"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"
    NO_RETRY = "no_retry"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    DNS_ERROR = "dns_error"
    TLS_ERROR = "tls_error"
    BLOCKED = "blocked"
    TOO_LARGE = "too_large"
    PROTOCOL_ERROR = "protocol_error"


@quick_dataclass
class Answer:
    """How an endpoint answered one delivery, or why there is no answer."""

    result: CallbackResult
    status: int | None = None
    body: bytes = b""
    """The first bytes of the answer, 64 KiB at most."""
    truncated: bool = False
    """The answer went on after `body`."""
    batch_size: int | None = None
    """How many elements were posted, if the job is a batch."""
    undeliverable: bool = False
    """Nothing was sent, nor ever can be: no callback can be made of the payload."""
    retry_after: float | None = None
    """Seconds the endpoint asked to wait (429 and 503 only), already clamped."""
    error: str | None = None
    """One line for people: what went wrong. Never a payload, a URL's query or a secret."""
    endpoint: str = field(default="", compare=False)
    """Host and port, as messages name it."""
    origin: str = field(default="", compare=False)
    """Its scheme, too; empty where the delivery did not come as far as knowing it."""
    duration: float = 0.0
    """Seconds from the start of the delivery to its end."""
    sent_after: float | None = None
    """Seconds from the start of the delivery to its first byte sent (connecting comes before); None: nothing sent."""
    terminal: Terminal | None = None
    """How a run's segment ended; None: the answer was no whole one of protocol v2."""


class OutcomeKind(StrEnum):
    """The next state of a delivered job."""

    COMPLETED = "completed"
    RETRIED = "retried"
    DEAD = "dead"
    RELEASED = "released"
    """Given back undelivered or unfinished at shutdown: ready again, the attempt not counted."""
    SUSPENDED = "suspended"
    """A run that waits for a pending step."""
    UNDELIVERED = "undelivered"
    """A run whose delivery came to nothing: tried again, the function's attempt not counted."""
    PUT_OFF = "put_off"
    """Not delivered, because its endpoint is away: later, the attempt not counted."""


class DeadReason(StrEnum):
    """Why a job is a dead letter: the `reason` column of `slayq.dead_letter`."""

    ATTEMPTS_EXHAUSTED = "attempts-exhausted"
    NO_RETRY = "no-retry"
    NOT_FOUND = "not-found"
    BLOCKED = "blocked"
    UNDELIVERABLE = "undeliverable"
    """The payload cannot be turned into a callback at all."""
    DELIVERY_FAILED = "delivery-failed"
    """No delivery of a run has brought an answer of protocol v2, as often as it was tried."""
    LEASE_LOST = "lease-lost"
    """The daemon that delivered the last attempt died or lost its lease."""
    FAILED_BY_OPERATOR = "failed-by-operator"


@quick_dataclass
class Outcome:
    """What is to be written down about one delivery."""

    kind: OutcomeKind
    delay: float = 0.0
    """Seconds until the next attempt (retried, undelivered and put off only)."""
    error: str | None = None
    reason: DeadReason | None = None
    """Set if and only if `kind` is DEAD."""
    remaining: tuple[int, ...] | None = None
    """Batch jobs only: the indexes of the array payload that failed and alone are tried again."""
    output: str | None = None
    """JSON text: what a completed run ended with; the names of the steps whose failures made a run dead."""
    endpoint: str | None = None
    """What is away. Set if and only if `kind` is PUT_OFF."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a renewal brings along."""

    held: bool
    """False: the worker row's time is up, nothing it holds may be trusted."""
    ready: tuple[str, ...]
    """Queues, of those asked about, that have something to lease."""
    due_in: float | None
    """Seconds until the next scheduled job is due (negative: overdue); None where there is none."""
    tick_in: float | None
    """Seconds until the next tick of any schedule."""
    reapable: bool
    """Some worker's time is up, or a job is held by nobody alive."""
    blocked: bool
    """Some serial queue has jobs waiting for their turn."""
    paused: frozenset[str]
    unmatched: bool = False
    """Some event has not been matched with the waits of runs, or an ended run with its invokers."""
    unplanned: bool = False
    """Some function's schedule has no next tick yet."""
    stranded: tuple[str, ...] = ()
    """Endpoints for which jobs are put off, and which no daemon finds away."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What one pool, whose queue has one or several names, has room for."""

    names: tuple[str, ...]
    free: int
    """Its free slots."""
    ahead: int = 0
    """How much more it takes. No last attempt of a job: one that is lost unsent, with its daemon, must not end it."""
    start: Place | None = None
    """Where to begin; None: at the first ready job."""

    @property
    def most(self) -> int:
        """All that it takes."""
        return self.free + self.ahead


@quick_dataclass
class Settlement:
    """An outcome that is to be written down under a lease."""

    job_id: int
    lease: int
    queue: str
    """As people know it: the pool's name."""
    outcome: Outcome
    strict: bool = False
    """The job keeps its serial queue while it waits for its retry."""
    payload: str | None = None
    """Replaces the payload: a batch job goes on with the elements that failed."""
    serial: bool = True
    """The job is, or may be, of a serial queue."""


@dataclass(slots=True)
class Settled:
    """What became of a batch of settlements."""

    verdicts: dict[int, str] = field(default_factory=dict)
    """By job id: settled, dropped (superseded or cancelled: gone without a retry), locked (try again), stale."""
    ready: set[str] = field(default_factory=set)
    """Queues in which a serial queue's next job has become ready."""


@dataclass(frozen=True, slots=True)
class RunWrite:
    """What is to be written down about one run in one flush: ops in order, and how it goes on after them."""

    job_id: int
    lease: int
    seen: int
    ops: tuple[Op, ...]
    end: Outcome | None
    """None: it is still being delivered."""


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """What became of a `RunWrite`."""

    verdict: str
    """ok (written, goes on), settled (ended), locked (try again), stale (the lease is no longer ours), dropped (the run
    is cancelled), refused (the ops before one of them are written, the end is not)."""
    note: str | None = None
    """Why an op is refused."""


@dataclass(slots=True)
class Flushed:
    """What became of a flush."""

    verdicts: dict[int, RunVerdict] = field(default_factory=dict)
    """By job id."""
    ready: set[str] = field(default_factory=set)
    """Queues that have a run to lease again."""
    due_in: float | None = None
    """Seconds until the first of the runs is due; None: none of them will be by itself."""
    heard: tuple[str, ...] = ()
    """Those of our own words that nobody else was told."""


@dataclass(frozen=True, slots=True)
class Matched:
    """What a pass over unmatched events found."""

    count: int
    ready: tuple[str, ...]
    """Queues that have something new to lease."""
    more: bool
    """There are some left, after `last`."""
    left_over: bool
    """Some are to be looked at again a little later: a run that they are for was locked."""
    last: int = 0
    """The event up to which this pass came."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """What a pass of the promoter found due."""

    count: int
    ready: tuple[str, ...]
    """Queues that have something new to lease."""
    expired_events: int
    expired_invocations: int
    due_in: float | None
    """Seconds until the next job is due, after those found; None where there is none."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """A job taken back from a dead worker."""

    job_id: int
    queue: str
    fate: str
    """ready, dead (that was its last attempt), or dropped."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What the SQL side must know of a queue's configuration (see engine/backoff.py for the formula)."""

    name: str
    max_attempts: int | None
    base: float
    factor: float
    cap: int
    max: float | None
    jitter: float
    paused: bool


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule with a tick due, locked by the transaction that fires it."""

    id: str
    cron: str
    queue: str
    event: str
    url: str
    data: str
    priority: int
    max_attempts: int | None
    job_key: str | None
    kind: str
    catch_up: str
    catch_up_window: float
    next_at: datetime
    last_at: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class ScheduleTimes:
    """When a schedule fires next and has fired last."""

    id: str
    next_at: datetime
    last_at: datetime | None
    due_in: float
    """Seconds until the next tick, by the database's clock."""
