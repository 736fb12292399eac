"""I14, and I1 for runs: recorded steps never run again, outcomes are one, events are sent once, runs end."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.chaos.checker.history import History, Job, Violation
from tests.chaos.checker.jobs import ZOMBIES

if TYPE_CHECKING:
    from collections.abc import Iterator

SEGMENT = 30.0
"""Seconds that one request may run."""
WAITS = 40.0
"""Seconds that an order waits at least to be paid."""
RESULTS = {"chaos/short": 12, "chaos/order": 22, "chaos/child": 11}
"""What each function's steps add up to: the letters of their names, and a payment of 7."""


def check(history: History) -> Iterator[Violation]:
    """All of them."""
    yield from _recorded(history)
    yield from _outcomes(history)
    yield from _ended(history)
    yield from _events(history)


def _recorded(history: History) -> Iterator[Violation]:
    """No body begins where its own request says that the step is done, or an earlier one did.

    A request that was on its way for long, or whose daemon is frozen, may know less than one that came before it.
    """
    done: dict[tuple[str, str], float] = {}
    asked: dict[str, set[str]] = {}
    for record in history.app:
        if record["what"] == "request":
            # What a clock that is wrong has signed is refused, and tried again.
            if record["status"] != 200 and not history.touched(record["at"] - SEGMENT, record["at"], ("clock_",)):
                yield Violation("I2", f"a request was answered {record['status']}", record["run"])
            asked[record["token"]] = set(record["steps"])
            for name in record["steps"]:
                done.setdefault((record["run"], name), record["at"])
        elif record["what"] == "body":
            since = done.get((record["run"], record["name"]))
            if record["name"] in asked.get(record["token"], set()):
                yield Violation("I14", f"step {record['name']} ran again in spite of its request", record["run"])
            elif since is not None and not history.touched(since - SEGMENT, record["at"], ZOMBIES):
                yield Violation("I14", f"step {record['name']} ran again after it was recorded", record["run"])


def _outcomes(history: History) -> Iterator[Violation]:
    seen: dict[tuple[str, str], str] = {}
    for record in history.app:
        if record["what"] == "outcome":
            value = json.dumps(record["value"])
            first = seen.setdefault((record["run"], record["name"]), value)
            if first != value:
                yield Violation("I14", f"{record['name']} came out as {first} and as {value}", record["run"])


def _ended(history: History) -> Iterator[Violation]:
    finished = defaultdict(set)
    results = defaultdict(set)
    names: dict[str, str] = {}
    for record in history.app:
        if record["what"] == "finished":
            finished[record["id"]].add((record["event"], record["run"]))
            results[record["event"], record["run"]].add(record["result"])
            names[record["run"]] = record["id"]
    for (event, run), values in results.items():
        right = RESULTS.get(event)
        if right is not None and values != {right}:
            unpaid = event == "chaos/order" and values == {right - 7}
            if not unpaid:
                yield Violation("I14", f"{event} came to {sorted(values)} in place of {right}", run)
            elif _was_paid(history.jobs.get(names[run])):
                yield Violation(
                    "I14", "the event that it waited for was sent in time, and did not reach it", names[run]
                )
    dead = set(history.final.get("dead_runs", ()))
    for job in history.jobs.values():
        event = job.facts.get("event")
        if event is None:
            continue
        runs = {run for name, run in finished[job.id] if name == event}
        if job.state == "ok" and not runs and job.run not in dead:
            yield Violation("I1", f"the run {job.run} was created and never finished", job.id)
        if job.state == "ok" and (len(runs) > 1 or (runs and job.run is not None and runs != {job.run})):
            yield Violation("I2", f"{len(runs)} runs of one send: {sorted(runs)}, where {job.run} was created", job.id)
        if job.state == "fail" and runs:
            yield Violation("I2", "a run came of a send that was refused", job.id)


def _was_paid(job: Job | None) -> bool:
    """Whether its event was certainly sent after it was created, and before it had waited for too long."""
    if job is None or job.ok_at is None or job.pay_from is None or job.paid_at is None:
        return False
    return job.ok_at < job.pay_from and job.paid_at < job.ok_at + WAITS


def _events(history: History) -> Iterator[Violation]:
    """Each order's event started one run, and each order's invocation one callee."""
    runs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in history.app:
        if record["what"] == "finished" and record["event"] in ("chaos/received", "chaos/child", "chaos/order"):
            runs[record["event"], record["id"]].add(record["run"])
    for (event, name), orders in list(runs.items()):
        if event != "chaos/order":
            continue
        for other in ("chaos/received", "chaos/child"):
            if len(runs[other, name]) != len(orders):
                yield Violation("I14", f"{len(orders)} orders came to {len(runs[other, name])} runs of {other}", name)
