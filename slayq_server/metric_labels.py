"""The closed sets of values that the labels of the daemon's series may take, and the buckets of its histograms.

`queue` and `schedule` are not here: their values are the configuration's names and `OTHER_NAME`. Those of `result` for
callbacks are `slayq_server.model.CallbackResult`. docs/metrics.md says what each value means.
"""

from __future__ import annotations

from typing import Final, Literal

OTHER_NAME: Final = "_other"
"""The `queue` or `schedule` of whatever the configuration does not name."""
OTHER: Final = "other"
"""The value, where a label has it, of whatever is not listed here."""

AttemptOutcome = Literal["completed", "retried", "dead", "cancelled", "suspended", "expired"]
AuthReason = Literal["missing", "invalid", "expired", "other"]
AuthSurface = Literal["metrics", "rpc", "v2", "other"]
BlockedReason = Literal[
    "malformed",
    "scheme",
    "credentials",
    "not_allowed",
    "denied",
    "loopback",
    "private",
    "link_local",
    "metadata",
    "reserved",
    "other",
]
CircuitState = Literal["open", "closed"]
DatabaseErrorKind = Literal["connection", "timeout", "read_only", "storage", "statement", "other"]
JobState = Literal["ready", "scheduled", "blocked", "leased", "dead"]
LeaseResult = Literal["ok", "empty", "error"]
PoolState = Literal["idle", "in_use"]
RenewalResult = Literal["ok", "failed", "lost"]
StaleKind = Literal["completed", "retried", "dead", "released", "suspended", "undelivered", "put_off", "other"]
TickResult = Literal["fired", "caught_up", "skipped", "missed", "other"]
WaitKind = Literal["event", "invocation"]
WakeupSource = Literal["notify", "poll", "timer", "rpc"]

RpcTask = Literal[
    "add-worker-job",
    "wait-for-worker-event",
    "wait-for-invocation",
    "trigger-waiting-workers",
    "trigger-waiting-invoker",
    "cancel-pending-tasks",
    "events",
    "functions",
    "cancel",
    "other",
]
RpcCode = Literal["200", "400", "401", "413", "500", "503", "other"]

CALLBACK_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
WAIT_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600)
LEASE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""All in seconds; `+Inf` follows by itself."""
