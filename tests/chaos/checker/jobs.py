"""I1 to I4, I8 and I9: what is sent arrives, as it was, as often as it must, and by one holder at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tests.chaos.checker.history import Delivery, History, Job, Violation
from tests.chaos.plans import must_die

if TYPE_CHECKING:
    from collections.abc import Iterator

GONE_LAG = 0.6
"""Seconds within which the endpoint notices that its caller has closed the connection, on a busy machine."""
SETTLES_WITHIN = 2.0
"""Seconds from an answer to its being written down, beyond a lease."""
CAUSES = ("daemon_kill", "daemon_freeze", "daemon_stall", "pg_")
"""Faults that may keep a success from being written down. Those of `http_` may keep its answer from arriving."""
ZOMBIES = ("daemon_freeze", "daemon_stall", "http_")
"""Faults under which the endpoint cannot know that a delivery is over: its caller is frozen, or its wire is broken."""


def check(history: History) -> Iterator[Violation]:
    """All of them."""
    dead = set(history.final.get("dead", ()))
    for job in history.jobs.values():
        if "event" in job.facts:
            continue  # a run: see `steps`
        yield from _delivered(job, dead)
        yield from _unchanged(job)
        yield from _duplicates(job, history)
        yield from _one_holder(job, history)
        yield from _budget(job, dead)
    yield from _from_nowhere(history, dead)


def _delivered(job: Job, dead: set[str]) -> Iterator[Violation]:
    if job.facts.get("cancels"):
        return
    if "tls" in job.facts.get("plan", ()):
        # Nothing is there to see but its dead letter: see `_budget`.
        if job.deliveries:
            yield Violation("I2", "it was delivered to somebody whose certificate nobody vouches for", job.id)
        return
    if job.state == "ok" and not job.deliveries:
        yield Violation("I1", "it was taken and never delivered", job.id)
    if not job.deliveries or job.id in dead:
        return
    last = job.deliveries[-1]
    if not any(delivery.good for delivery in job.deliveries):
        yield Violation("I1", f"it ended without a success and without a dead letter, after {last.answer}", job.id)
    elif not last.good and not _zombie(last, job):
        yield Violation("I9", f"its last delivery was answered {last.answer}, and it was not tried again", job.id)


def _zombie(last: Delivery, job: Job) -> bool:
    """A delivery that was closed by its caller, beside another that had a success: its job has ended meanwhile."""
    overlapping = [each for each in job.deliveries if each is not last and each.good and each.end > last.start]
    return last.answer in ("abandoned", None) and bool(overlapping)


def _unchanged(job: Job) -> Iterator[Violation]:
    for delivery in job.deliveries:
        if delivery.hash != job.facts.get("hash"):
            yield Violation("I2", "its data have changed", job.id)
            return


def _from_nowhere(history: History, dead: set[str]) -> Iterator[Violation]:
    for delivery in history.deliveries:
        if not delivery.signed:
            yield Violation("I2", f"delivery {delivery.seq} is not signed as it must be", delivery.id)
        if delivery.id is None:
            continue  # a tick
        job = history.jobs.get(delivery.id)
        if job is None:
            yield Violation("I2", "it was delivered and never sent", delivery.id)
        elif job.state == "fail":
            yield Violation("I2", "it was delivered although its sender was told that it was not taken", delivery.id)
        elif _came_back(job, delivery, history):
            yield Violation("I2", "it was delivered after it was cancelled", delivery.id)
    if history.followed:
        yield Violation("I2", f"{history.followed} redirects were followed")
    for name in dead:
        if name not in history.jobs:
            yield Violation("I2", "a dead letter of a job that was never sent", name)


def _came_back(job: Job, delivery: Delivery, history: History) -> bool:
    if job.cancelled_at is None or delivery.start <= job.cancelled_at + GONE_LAG or len(job.invoked) > 1:
        return False
    return not history.touched(job.cancelled_at - SETTLES_WITHIN, delivery.start)


def _duplicates(job: Job, history: History) -> Iterator[Violation]:
    for number, delivery in enumerate(job.deliveries[:-1]):
        if not delivery.good:
            continue
        following = job.deliveries[number + 1]
        if job.sent_again_after(delivery.start):
            continue  # sent again
        settled = delivery.end + history.lease + SETTLES_WITHIN
        if not (
            # A worker row that could not be renewed from its beginning on may run out a lease later.
            history.touched(delivery.start - 0.5, settled, CAUSES, at_least=history.lease)
            or history.touched(delivery.start - 0.5, delivery.end + GONE_LAG, ("http_",))
        ):
            yield Violation(
                "I3", f"it was delivered again ({following.seq}) after a success, and nothing was broken then", job.id
            )


def _one_holder(job: Job, history: History) -> Iterator[Violation]:
    for before, after in pairwise(job.deliveries):
        if job.sent_again_after(before.start):
            continue
        lag = 0.0 if isinstance(before.answer, int) else GONE_LAG
        if after.start < before.end - lag and not history.touched(before.start, before.end, ZOMBIES):
            yield Violation(
                "I4", f"delivery {after.seq} began while {before.seq} ran, whose daemon was not frozen", job.id
            )
        if after.attempt < before.attempt and not history.touched(before.start - history.lease, after.start):
            yield Violation("I4", f"attempt {after.attempt} came after attempt {before.attempt}", job.id)


def _budget(job: Job, dead: set[str]) -> Iterator[Violation]:
    most = job.facts.get("max_attempts", 25)
    plan = job.facts.get("plan", [])
    for delivery in job.deliveries:
        if delivery.attempt > most:
            yield Violation("I8", f"attempt {delivery.attempt} of {most}", job.id)
    finished = any(delivery.good for delivery in job.deliveries)
    if (
        job.state == "ok"
        and not job.facts.get("cancels")
        and must_die(plan, most)
        and job.id not in dead
        and not finished
    ):
        yield Violation("I8", "it must end as a dead letter, and there is none", job.id)
    if job.id in dead and finished and len(job.invoked) == 1 and not must_die(plan, most):
        # A duplicate delivery may fail, but its plan has it succeed within its attempts.
        yield Violation("I1", "it was delivered with success, and is a dead letter", job.id)
