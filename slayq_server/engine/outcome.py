"""From an endpoint's answer to the job's next state. Pure.

Of a job (protocol v1, section 2, and batches), `decide`:

| answer                                          | outcome                                              |
| ----------------------------------------------- | ---------------------------------------------------- |
| 2xx                                             | completed                                            |
| 2xx to a batch that names elements which failed | retried with those alone                             |
| 666                                             | dead, `no-retry`                                     |
| 404, 410                                        | dead, `not-found`; completed where the queue says so |
| 429, 503 with Retry-After                       | retried, not before that time                        |
| none: the address guard refused the URL         | dead, `blocked`: no retry would change that          |
| none: the payload makes no callback             | dead, `undeliverable`                                |
| anything else, or none                          | retried after the back-off                           |

What would be retried is dead, `attempts-exhausted`, once all attempts are used.

Of a durable run (protocol v2), `decide_segment`:

| answer                                          | outcome                                                          |
| ----------------------------------------------- | ---------------------------------------------------------------- |
| done                                            | completed                                                        |
| suspend                                         | suspended                                                        |
| failed, to be retried                           | retried; dead, `attempts-exhausted`, once all attempts are used  |
| failed, not to be retried                       | dead, `no-retry`                                                 |
| none: the address guard refused the URL         | dead, `blocked`                                                  |
| none: the run makes no request                  | dead, `undeliverable`                                            |
| anything else, or none: a delivery failure      | undelivered: tried again, no attempt used; dead once there were  |
|                                                 | `DELIVERY_FAILURES`, `not-found` after a 404 or 410, else        |
|                                                 | `delivery-failed`                                                |
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from slayq_server.model import CallbackResult, DeadReason, Done, Failed, Outcome, OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq_server.engine.backoff import BackoffPolicy
    from slayq_server.model import Answer

DELIVERY_FAILURES: Final = 25
"""Deliveries of a run, one after the other, that may come to nothing."""
_NOT_FOUND: Final = (404, 410)
_REPORT_BEGINS: Final = re.compile(rb'\s*(\{\s*"failed"\s*:\s*)?\[\s*[0-9]')
_COMPLETED: Final = Outcome(OutcomeKind.COMPLETED)
_SUSPENDED: Final = Outcome(OutcomeKind.SUSPENDED)


def decide(
    answer: Answer,
    *,
    attempts: int,
    max_attempts: int,
    backoff: BackoffPolicy,
    random: Callable[[], float],
    not_found_is_done: bool = False,
) -> Outcome:
    """What becomes of a job after its delivery number `attempts` (from 1).

    Args:
        answer: how the endpoint answered.
        attempts: deliveries so far, this one included.
        max_attempts: deliveries that the job may have in all.
        backoff: the queue's rule.
        random: numbers in [0, 1), for the jitter.
        not_found_is_done: 404 and 410 complete the job.
    """
    error = answer.error
    if answer.undeliverable:
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.UNDELIVERABLE)
    if answer.result is CallbackResult.BLOCKED:
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.BLOCKED)
    if answer.result is CallbackResult.NO_RETRY:
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.NO_RETRY)
    if answer.result is CallbackResult.CLIENT_ERROR and answer.status in _NOT_FOUND:
        if not_found_is_done:
            return _COMPLETED
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.NOT_FOUND)

    remaining: tuple[int, ...] | None = None
    if answer.result is CallbackResult.OK:
        report = _failed_elements(answer)
        if report is None:
            return _COMPLETED
        error, remaining = report.error, report.remaining
    if attempts >= max_attempts:
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.ATTEMPTS_EXHAUSTED, remaining=remaining)
    delay = max(backoff.delay(attempts, random), answer.retry_after or 0.0)
    return Outcome(OutcomeKind.RETRIED, delay=delay, error=error, remaining=remaining)


def decide_segment(
    answer: Answer,
    *,
    attempts: int,
    max_attempts: int,
    delivery_failures: int,
    backoff: BackoffPolicy,
    random: Callable[[], float],
) -> Outcome:
    """What becomes of a run after a delivery.

    Args:
        answer: how the endpoint answered.
        attempts: attempts at the function so far, this one included.
        max_attempts: attempts at the function that there may be in all.
        delivery_failures: deliveries before this one, and since one succeeded, that came to nothing.
        backoff: the queue's rule, for attempts as for deliveries.
        random: numbers in [0, 1), for the jitter.
    """
    match answer.terminal:
        case Done(output):
            return Outcome(OutcomeKind.COMPLETED, output=output)
        case Failed(error, retry, retry_after, steps):
            if not retry:
                return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.NO_RETRY, output=steps)
            if attempts >= max_attempts:
                return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.ATTEMPTS_EXHAUSTED, output=steps)
            delay = backoff.delay(attempts, random) if retry_after is None else retry_after
            return Outcome(OutcomeKind.RETRIED, delay=delay, error=error)
        case None:
            return _undelivered(answer, delivery_failures + 1, backoff, random)
        case _:
            return _SUSPENDED


def _undelivered(answer: Answer, failures: int, backoff: BackoffPolicy, random: Callable[[], float]) -> Outcome:
    error = answer.error
    if answer.undeliverable:
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.UNDELIVERABLE)
    if answer.result is CallbackResult.BLOCKED:
        return Outcome(OutcomeKind.DEAD, error=error, reason=DeadReason.BLOCKED)
    if failures >= DELIVERY_FAILURES:
        reason = DeadReason.NOT_FOUND if answer.status in _NOT_FOUND else DeadReason.DELIVERY_FAILED
        return Outcome(OutcomeKind.DEAD, error=error, reason=reason)
    delay = max(backoff.delay(failures, random), answer.retry_after or 0.0)
    return Outcome(OutcomeKind.UNDELIVERED, delay=delay, error=error)


@dataclass(frozen=True, slots=True)
class _FailedElements:
    error: str
    remaining: tuple[int, ...] | None
    """None: all of the batch, for want of a report that can be relied on."""


def _failed_elements(answer: Answer) -> _FailedElements | None:
    """What a 2xx answer says has failed of a batch: `{"failed": [indexes]}` or just the indexes. None: nothing.

    An array is only taken for a report if each of its elements is an index of the batch: it may be anything else that
    the app returns. A `failed` that holds something is one in any case. What cannot be made out of a report is lost
    work if the job were completed, so the whole batch is tried again.
    """
    size = answer.batch_size
    if size is None:
        return None
    if answer.truncated:
        if not _REPORT_BEGINS.match(answer.body):
            return None
        return _FailedElements("the answer to the batch is too long to be read in full: all of it is tried again", None)
    reported = _parsed(answer.body)
    is_report = isinstance(reported, dict)
    if is_report:
        reported = reported.get("failed")
    if not isinstance(reported, list) or not reported:
        return None
    if not all(type(index) is int and 0 <= index < size for index in reported):
        if not is_report:
            return None
        return _FailedElements(f'"failed" in the answer must be indexes of the batch: 0 to {size - 1}', None)
    remaining = tuple(sorted(set(reported)))
    return _FailedElements(f"{len(remaining)} of the batch's {size} elements failed", remaining)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
