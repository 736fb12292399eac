"""I5 and I6: limits are never exceeded; of a serial queue one job at a time is delivered, in order."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.chaos.checker.history import Delivery, History, Job, Violation
from tests.chaos.checker.jobs import GONE_LAG, ZOMBIES

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(history: History) -> Iterator[Violation]:
    """Both."""
    limits: dict[str, int] = history.setting.get("limits", {})
    by_queue: dict[str, list[tuple[Delivery, Job]]] = defaultdict(list)
    by_lane: dict[int, list[Job]] = defaultdict(list)
    for job in history.jobs.values():
        if "queue" not in job.facts:
            continue
        by_queue[job.facts["queue"]] += [(delivery, job) for delivery in job.deliveries]
        if job.facts.get("lane") is not None:
            by_lane[job.facts["lane"]].append(job)
    for queue, limit in limits.items():
        yield from _limit(queue, limit, by_queue[queue], history)
    for lane, jobs in sorted(by_lane.items()):
        yield from _limit(f"lane {lane}", 1, [(each, job) for job in jobs for each in job.deliveries], history)
        yield from _order(lane, jobs, history)


def _limit(name: str, limit: int, deliveries: list[tuple[Delivery, Job]], history: History) -> Iterator[Violation]:
    """Sweeps over the intervals. One whose end the endpoint could not see counts up to where that began."""
    changes: list[tuple[float, int, str]] = []
    for delivery, job in deliveries:
        end = _certain_end(delivery, history)
        if end > delivery.start:
            changes += [(delivery.start, 1, job.id), (end, -1, job.id)]
    changes.sort(key=lambda change: (change[0], change[1]))
    running: list[str] = []
    reported = False
    for at, step, job_id in changes:
        if step < 0:
            running.remove(job_id)
            continue
        running.append(job_id)
        if len(running) > limit and not reported:
            reported = True  # the first one tells enough
            invariant = "I6" if name.startswith("lane") else "I5"
            yield Violation(
                invariant,
                f"{len(running)} of {name} at once at {at:.3f}: {', '.join(running)}; the limit is {limit}",
                job_id,
            )


def _certain_end(delivery: Delivery, history: History) -> float:
    """Until when it certainly ran for the daemon."""
    end = delivery.end if isinstance(delivery.answer, int) else delivery.end - GONE_LAG
    for window in history.windows:
        if window.kind.startswith(ZOMBIES) and window.on <= delivery.end and delivery.start <= window.off:
            end = min(end, window.on)
    return end


def _order(lane: int, jobs: list[Job], history: History) -> Iterator[Violation]:
    """Strict: a job begins when those that were sent before it have ended."""
    sent = sorted((job for job in jobs if job.state == "ok" and job.deliveries), key=lambda job: job.invoked[0])
    for before, after in pairwise(sent):
        if before.ok_at is None or before.ok_at > after.invoked[0]:
            continue
        if before.facts.get("priority", 0) != after.facts.get("priority", 0):
            continue
        success = next((each for each in before.deliveries if each.good), None)
        first = after.deliveries[0]
        if success is not None and first.start < success.start and success.end != float("inf"):
            yield Violation(
                "I6", f"of lane {lane}, it began before {before.id}, which was sent before it, had ended", after.id
            )
