"""Values that the parts of the daemon hand to each other. Frozen, and free of behaviour.

A leased job goes from `engine.leasing` to `engine.delivery`, which turns it into an `Answer`; `engine.outcome` turns that
into an `Outcome`; `engine.settling` writes the outcome down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job this daemon holds. It may be delivered while the daemon's worker row is trusted, and settled under `lease`."""

    id: int
    lease: int
    """The number of this lease of this job; rises with every lease, so a write under an older one is stale."""
    queue: str
    """As stored: may be an alias of a pool's name."""
    job_key: str | None
    attempts: int
    """Deliveries so far, this one included (1 on the first)."""
    max_attempts: int
    payload: str
    """JSON text, exactly as stored in Postgres (type `json`)."""
    patches: str | None
    """JSON text of `[[step name, value], ...]`: what waits and invocations have added to the payload's `cache`."""
    serial_queue: str | None
    waited: float
    """Seconds from due to leased, by the database's clock."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """How an endpoint answered one delivery, or why there is no answer."""

    result: CallbackResult
    status: int | None = None
    body: bytes = b""
    """The first bytes of the answer, 64 KiB at most."""
    retry_after: float | None = None
    """Seconds the endpoint asked to wait (429 and 503 only), already clamped."""
    error: str | None = None
    """One line for people: what went wrong. Never a payload, a URL's query or a secret."""
    duration: float = 0.0
    """Seconds from the start of the delivery to its end."""


class OutcomeKind(StrEnum):
    """The next state of a delivered job."""

    COMPLETED = "completed"
    RETRIED = "retried"
    DEAD = "dead"
    RELEASED = "released"
    """Given back undelivered or unfinished at shutdown: ready again, the attempt not counted."""


class DeadReason(StrEnum):
    """Why a job is a dead letter: the `reason` column of `slayq.dead_letter`."""

    ATTEMPTS_EXHAUSTED = "attempts-exhausted"
    NO_RETRY = "no-retry"
    NOT_FOUND = "not-found"
    BLOCKED = "blocked"
    UNDELIVERABLE = "undeliverable"
    """The payload cannot be turned into a callback at all."""
    LEASE_LOST = "lease-lost"
    """The daemon that delivered the last attempt died or lost its lease."""
    FAILED_BY_OPERATOR = "failed-by-operator"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be written down about one delivery."""

    kind: OutcomeKind
    delay: float = 0.0
    """Seconds until the next attempt (retried only)."""
    error: str | None = None
    reason: DeadReason | None = None
    """Set if and only if `kind` is DEAD."""
    remaining: tuple[int, ...] | None = None
    """Batch jobs only: the indexes of the array payload that failed and alone are tried again."""
