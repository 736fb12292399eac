"""Protocol v1's names: what goes over the wire between the server and an app, in both directions.

The server posts a callback to the app: a JSON object whose keys stand in the order of `BODY_KEYS`, signed in the header
`SIGNATURE_HEADER` (see `slayq.signing`). The app posts tasks to the server: `POST {base}/{task}`, signed the same way.
"""

from __future__ import annotations

from enum import StrEnum

SIGNATURE_HEADER = "X-SlayQ-Signature"
"""Carries the signature of a body, in both directions. HTTP header names ignore case."""

CONTENT_TYPE = "application/json"

BODY_KEYS = ("job_key", "retry", "time", "event", "data", "cache")
"""The keys of a callback, in the one order that signs. The last three are left out where the payload lacks them."""

CRON_JOB_KEY = "cron"
"""What a callback says as `job_key` for a job that has none."""

MAX_BODY_AGE = 15.0
"""Seconds after its `time` for which an app accepts a callback."""

NO_RETRY_STATUS = 666
"""The HTTP status by which an app says: this job failed, do not try it again."""


class Task(StrEnum):
    """What an app may ask of the server over HTTP: the last part of the URL."""

    ADD_WORKER_JOB = "add-worker-job"
    WAIT_FOR_WORKER_EVENT = "wait-for-worker-event"
    WAIT_FOR_INVOCATION = "wait-for-invocation"
    TRIGGER_WAITING_WORKERS = "trigger-waiting-workers"
    TRIGGER_WAITING_INVOKER = "trigger-waiting-invoker"
    CANCEL_PENDING_TASKS = "cancel-pending-tasks"
