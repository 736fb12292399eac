"""Judges a run by its logs: every invariant of the reliability requirement that can be judged from outside."""

from __future__ import annotations

from tests.chaos.checker import jobs, queues, states, steps
from tests.chaos.checker.history import History, Violation, load, of

__all__ = ["History", "Violation", "check", "explain", "load", "of"]


def check(history: History) -> list[Violation]:
    """Everything that is wrong; nothing, where all held."""
    odd = [Violation("suite", f"the suite itself is broken: {record}") for record in history.odd]
    return odd + [each for part in (jobs, queues, states, steps) for each in part.check(history)]


def explain(history: History, violation: Violation) -> str:
    """A violation with all that the logs know of its job, in the order of time, and the faults of that time."""
    lines = [f"{violation}"]
    subject = violation.subject
    if subject is None:
        return lines[0]
    records = list(history.records.get(subject, ()))
    job = history.jobs.get(subject)
    runs = {subject, job.run if job else None}
    records += [record for record in history.app if record.get("run") in runs or record.get("id") == subject]
    if not records:
        records = [record for record in history.audit if str(record["job"]) == subject]
    records.sort(key=lambda record: record["at"])
    if records:
        first, last = records[0]["at"] - 1, records[-1]["at"] + 1
        records += [record for record in history.faults if first <= record["at"] <= last]
        records.sort(key=lambda record: record["at"])
    for record in records[:60]:
        more = {key: value for key, value in record.items() if key not in ("at", "what", "plan_", "id")}
        lines.append(f"    {record['at']:.3f} {record['what']:12} {more}")
    return "\n".join(lines)
