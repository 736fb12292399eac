"""Whether a figure levels off: the median of the last quarter of the run beside that of the third."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.soak.probe import Sample

GROWTH = 0.05
"""What a figure may grow by from the third quarter to the last."""
SLACK = {
    "daemon_uss_mb": 3.0,
    "daemon_rss_mb": 3.0,
    "daemon_files": 5,
    "daemon_threads": 1,
    "tasks": 10,
    "app_uss_mb": 3.0,
    "app_files": 5,
    "app_threads": 1,
    "connections": 1,
    "connections_all": 2,
    "backend_mb": 3.0,
    "wal_mb": 128.0,
    "loop_lag_ms": 3.0,
    "jobs_ready": 100,
    "jobs_scheduled": 200,
    "jobs_blocked": 50,
    "jobs_leased": 20,
}
"""What else it may grow by, where that is more: it goes up and down by so much."""
PAGES = 64 * 8192
"""The same for a table or an index, in bytes."""
BYTES_A_ROW = 16.0
DEAD_ROWS = 5000
KEPT = frozenset({"sent", "event", "trigger", "dead_letter"})
"""What is kept for longer than the run: rows for an hour and more. Judged by bytes a row."""
BOUNDED = {"job_match": 48 * 2**20}
"""What may grow until it has all the hashes there are, in bytes."""
LATENCY_GROWTH, LATENCY_SLACK = 0.5, 20.0


@dataclass(frozen=True)
class Level:
    """A figure of the third quarter and of the last; or of the first half and the second."""

    name: str
    first: float
    """The median of the first quarter, for people to look at."""
    before: float
    after: float
    allowed: float
    """The most that `after` may be."""

    @property
    def level(self) -> bool:
        """Whether it levels off."""
        return self.after <= self.allowed

    @property
    def growth(self) -> float:
        """As a share of what it was."""
        return (self.after - self.before) / self.before if self.before else 0.0


def levels(samples: Sequence[Sample]) -> list[Level]:
    """Of all figures."""
    found = [_quarters(name, samples, _figure(name), slack) for name, slack in SLACK.items()]
    tables = {name: name for name in samples[-1]["tables"]}
    indexes = {name: index["table"] for name, index in samples[-1]["indexes"].items()}
    for kind, owners in (("tables", tables), ("indexes", indexes)):
        for name, table in owners.items():
            if table in KEPT:
                found.append(_quarters(f"{name}: bytes a row", samples, _per_row(kind, name, table), BYTES_A_ROW))
            else:
                most = BOUNDED.get(name, 0)
                found.append(_quarters(f"{name}: bytes", samples, _part(kind, name, "bytes"), PAGES, most))
    found += [
        # They rise until autovacuum comes by, once a minute, so that no quarter's median is quite like another's.
        _quarters(f"{name}: dead rows", samples, _part("tables", name, "dead"), DEAD_ROWS, or_as_first=True)
        for name in tables
        if name not in KEPT
    ]
    return [each for each in found if each is not None] + list(_latencies(samples))


def _quarters(
    name: str,
    samples: Sequence[Sample],
    figure: Callable[[Sample], float | None],
    slack: float,
    most: float = 0.0,
    *,
    or_as_first: bool = False,
) -> Level | None:
    """`or_as_first`: it may also be what it was in the first quarter."""
    quarter = max(1, len(samples) // 4)
    first, before, after = (
        _median(figure(sample) for sample in part)
        for part in (samples[:quarter], samples[-2 * quarter : -quarter], samples[-quarter:])
    )
    if before is None or after is None:
        return None
    first = before if first is None else first
    reference = max(first, before) if or_as_first else before
    return Level(name, first, before, after, max(most, reference + max(GROWTH * reference, slack)))


def _latencies(samples: Sequence[Sample]) -> Iterable[Level]:
    half = len(samples) // 2
    for name in ("latency_p50_ms", "latency_p99_ms"):
        before, after = (_median(map(_figure(name), part)) for part in (samples[:half], samples[half:]))
        if before is not None and after is not None:
            allowed = before + max(LATENCY_GROWTH * before, LATENCY_SLACK)
            yield Level(f"{name}, by halves", before, before, after, allowed)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _figure(name: str) -> Callable[[Sample], float | None]:
    return lambda sample: sample.get(name)


def _part(kind: str, name: str, what: str) -> Callable[[Sample], float | None]:
    return lambda sample: sample[kind][name][what] if name in sample[kind] else None


def _per_row(kind: str, name: str, table: str) -> Callable[[Sample], float | None]:
    def figure(sample: Sample) -> float | None:
        rows = sample["tables"][table]["live"] + sample["tables"][table]["dead"]
        return sample[kind][name]["bytes"] / rows if rows > 1000 else None

    return figure


def table(found: Sequence[Level]) -> str:
    """For people."""
    lines = [f"{'':42} {'1st quarter':>12} {'3rd':>12} {'last':>12} {'growth':>8}"]
    for each in found:
        small = each.name.endswith(": bytes") and max(each.before, each.after) < PAGES
        if small or max(each.before, each.after) == 0:
            continue
        verdict = "" if each.level else "   GROWS"
        figures = " ".join(f"{value:12.4g}" if value < 1e6 else f"{value:12.0f}" for value in (
            each.first, each.before, each.after
        ))  # fmt: skip
        lines.append(f"{each.name:42} {figures} {each.growth:8.1%}{verdict}")
    return "\n".join(lines)
