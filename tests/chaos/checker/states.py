"""I7 and I10, from what the database's own trigger has written down; and I11 and I12, from the fault runner's log."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from tests.chaos.checker.history import History, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.records import Record

MINUTE = 60
ALLOWED: dict[str | None, set[str | None]] = {
    None: {"scheduled", "ready", "blocked"},
    "scheduled": {"ready", "blocked", None},
    "ready": {"leased", "blocked", "scheduled", None},
    "blocked": {"ready", "scheduled", None},
    "leased": {"ready", "scheduled", "blocked", None},
}
"""The state diagram: from what to what. None is not there (any more)."""
LATENCY = 1.5
"""Seconds from sending to delivery, in the middle, once nothing is broken any more."""
LINES_PER_FAULT_SECOND = 30.0
CATCH_UP = 2.0


def check(history: History) -> Iterator[Violation]:
    """All of them."""
    yield from _states(history)
    yield from _ticks(history)
    yield from _stopping(history)
    yield from _life(history)


def _states(history: History) -> Iterator[Violation]:
    by_job: dict[int, list[Record]] = defaultdict(list)
    for change in history.audit:
        by_job[change["job"]].append(change)
    for job, changes in by_job.items():
        yield from _states_of(job, in_order(changes))


def in_order(changes: list[Record]) -> list[Record]:
    """A job's changes as they came about: what one transaction did may have been written down in another order."""
    ordered: list[Record] = []
    waiting = list(changes)
    state: str | None = None
    while waiting:
        first = waiting[0]
        following = next(
            (
                number
                for number, change in enumerate(waiting[:4])
                if change["was"] == state and change.get("transaction") == first.get("transaction")
            ),
            0,
        )
        ordered.append(waiting.pop(following))
        state = ordered[-1]["became"]
    return ordered


def _states_of(job: int, changes: list[Record]) -> Iterator[Violation]:
    state: str | None = None
    for change in changes:
        was, became = change["was"], change["became"]
        if was != state:
            yield Violation("I10", f"job {job} was {state} and then {was}, and nobody has changed it", str(job))
        if became not in ALLOWED[was] and not (was == became and change["lease"] == change["lease_was"]):
            yield Violation("I10", f"job {job} went from {was} to {became}", str(job))
        if was == "leased" and became == "leased":
            yield Violation("I10", f"job {job} went from worker {change['worker_was']} straight to {change['worker']}")
        if became == "leased" and change["lease"] != change["lease_was"] + 1:
            yield Violation("I4", f"job {job} was leased with number {change['lease']} after {change['lease_was']}")
        if became not in (None, "leased") and was is not None and change["lease"] < change["lease_was"]:
            yield Violation("I4", f"the lease number of job {job} sank")
        if change["attempts"] > change["max_attempts"]:
            yield Violation("I8", f"job {job} is at attempt {change['attempts']} of {change['max_attempts']}")
        state = became


def _ticks(history: History) -> Iterator[Violation]:
    """The minutes from when they were to fire until they no more were, each of each schedule once."""
    since, until = history.final.get("ticks_since"), history.final.get("ticks_until")
    if since is None or until is None:
        return
    expected = set(range(-(-int(since) // MINUTE), int(until) // MINUTE + 1))
    fired: dict[str, Counter[int]] = defaultdict(Counter)
    for change in history.audit:
        if change["was"] is None and change["event"].startswith(("chaos/minute", "chaos/tick")):
            fired[change["event"]][round(change["tick"]) // MINUTE] += 1
            if round(change["tick"], 3) % MINUTE:
                yield Violation("I7", f"{change['event']} fired at {change['tick']}, which is no full minute")
    for event in ("chaos/minute-0", "chaos/minute-1"):
        for minute, times in sorted(fired[event].items()):
            if times > 1:
                yield Violation("I7", f"the tick {minute} of {event} fired {times} times")
            if minute not in expected:
                yield Violation("I7", f"the tick {minute} of {event} is none, or had fired before the run")
        missing = expected - set(fired[event])
        if missing:
            yield Violation("I7", f"{event} has missed {sorted(missing)}")
        delivered = [each for each in history.deliveries if each.event == event]
        successes = sum(each.good for each in delivered)
        if successes < len(expected) or (history.faultless and len(delivered) != len(expected)):
            yield Violation("I7", f"{len(expected)} ticks of {event} came to {successes} successes")
    # A function's schedule catches up on the last tick only.
    for minute, times in sorted(fired["chaos/tick"].items()):
        if times > 1:
            yield Violation("I7", f"the tick {minute} of chaos/tick fired {times} times")
    gaps = [later - sooner for sooner, later in pairwise(sorted(fired["chaos/tick"])) if later - sooner > 1]
    if gaps and history.faultless:
        yield Violation("I7", f"chaos/tick left out {gaps} minutes")


def _stopping(history: History) -> Iterator[Violation]:
    names: dict[str, str] = history.final.get("workers", {})
    told = {record["name"]: record["at"] for record in history.faults if record["what"] == "term"}
    for change in history.audit:
        at = told.get(names.get(str(change["worker"]), ""))
        if change["became"] == "leased" and at is not None and change["at"] > at + CATCH_UP:
            yield Violation("I11", f"job {change['job']} was leased {change['at'] - at:.1f} s after SIGTERM")
    for record in history.faults:
        if record["what"] != "term_end":
            continue
        if record["code"] != 0:
            yield Violation("I11", f"daemon {record['name']} ended with {record['code']} after SIGTERM")
        if record["held"]:
            yield Violation("I11", f"daemon {record['name']} left {record['held']} jobs leased")


def _held(history: History) -> Iterator[Violation]:
    """While a transaction is open, nothing is cleaned up; deliveries may be slower then, but go on."""
    for window in history.windows:
        if not window.kind.startswith("vacuum_"):
            continue
        waits = [
            job.deliveries[0].start - job.ok_at
            for job in history.jobs.values()
            if job.ok_at is not None
            and window.on + CATCH_UP < job.invoked[0] < window.off
            and job.deliveries
            and job.facts.get("queue") == "mail"
        ]
        if len(waits) >= 10 and median(waits) > 2 * LATENCY:
            yield Violation("I12", f"{median(waits):.2f} s from sending to delivery, beside an open transaction")


def _life(history: History) -> Iterator[Violation]:
    left = history.final.get("left", [])
    if left:
        yield Violation("I12", f"{len(left)} jobs were left when the queues should have been empty: {left[:5]}")
    calm = history.final.get("calm_from")
    if calm is not None:
        waits = [
            job.deliveries[0].start - job.ok_at
            for job in history.jobs.values()
            if job.ok_at is not None and job.invoked[0] > calm and job.deliveries and job.facts.get("queue") == "mail"
        ]
        if len(waits) >= 10 and median(waits) > LATENCY:
            yield Violation("I12", f"{median(waits):.2f} s from sending to delivery, after all faults")
    yield from _held(history)
    lines = history.final.get("warnings", 0)
    allowed = 200 + LINES_PER_FAULT_SECOND * sum(
        min(window.off, 1e12) - window.on + history.lease for window in history.windows
    )
    if lines > allowed:
        yield Violation("I12", f"{lines} warnings and errors logged, where {allowed:.0f} are many")
    for what in history.final.get("unhealthy", []):
        yield Violation("I13", what)
