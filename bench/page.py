"""docs/performance.md: its tables are made of a results file, between markers, so that no figure is written by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.adds import CLIENTS, STATES
from bench.backlog import BACKLOGS, STEPS
from bench.context import of
from bench.daemons import COUNTS
from bench.drain import COMPARED, CONCURRENCIES
from bench.latency import RATES
from bench.runs import STEPS as RUN_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Measured = dict[str, Any]

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_PART = re.compile(r"(<!-- begin (?P<name>[a-z]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)
NONE = "–"
NAMES = ("slayq-server", "Graphile Worker, fetch", "Graphile Worker, undici")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: float | None) -> str:
    """Three digits that count, and no more; whole from a hundred on."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


class Reader:
    """The figures of a results file."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured

    def figure(self, case: str, figure: str) -> str:
        """One figure with its spread where there were rounds."""
        found = self.measured["figures"].get(case, {}).get(figure)
        least, most = self.measured["spreads"].get(case, {}).get(figure, (found, found))
        if found is None or least == most:
            return number(found)
        return f"{number(found)} ({number(least)}–{number(most)})"

    def plain(self, case: str, figure: str) -> str:
        """One figure."""
        return number(self.measured["figures"].get(case, {}).get(figure))

    def ratio(self, name: str) -> str:
        """One ratio."""
        found = self.measured["ratios"].get(name)
        return NONE if found is None else f"{found:.2f}"


def machine(read: Reader) -> str:
    """What it was measured on, and what the endpoint can take."""
    here = read.measured["machine"]
    minutes = sum(read.measured["seconds"].values()) / 60
    ceilings = " · ".join(read.plain(f"ceiling_c{each}", "requests_per_second") for each in CONCURRENCIES)
    rows = [
        ["machine", f"{here['cores']} cores, {here['processor']}"],
        ["versions", f"Python {here['python']}, PostgreSQL {here['postgres']}, Node {here['node']}"],
        [
            "measured",
            f"{here['date']}, scale `{read.measured['scale']}`, in {minutes:.0f} minutes",
        ],
        ["load of the machine before the first case, after the last", f"{here['load_before']}, {here['load_after']}"],
        ["what the endpoint takes from a bare client, requests a second at 10 · 50 · 200 connections", ceilings],
    ]
    return table(["", ""], rows)


def drain(read: Reader) -> str:
    """Deliveries a second."""
    figure = "deliveries_per_second"
    kinds = [("10,000, just started", f"drain_c{each}", each) for each in CONCURRENCIES]
    kinds += [("10,000, warm", "drain_warm_c50", 50)]
    kinds += [("100,000", f"drain_100k_c{each}", each) for each in CONCURRENCIES]
    rows = []
    for what, name, concurrency in kinds:
        sides = [read.figure(of(name, side), figure) for side in ("ours", "fetch", "undici")]
        rows.append([what, str(concurrency), *sides, *(read.ratio(f"{name}_vs_{way}") for way in ("fetch", "undici"))])
    return table(["jobs", "concurrency", *NAMES, "to fetch", "to undici"], rows)


def latency(read: Reader) -> str:
    """Milliseconds from commit to arrival."""
    rows = [
        [
            f"{rate:,}",
            whose,
            *(read.figure(of(f"latency_{rate}", side), f"{each}_ms") for each in ("p50", "p95", "p99", "max")),
        ]
        for rate in RATES
        for side, whose in (("ours", "slayq-server"), ("undici", "Graphile Worker, undici"))
    ]
    return table(["jobs a second", "", "p50 ms", "p95 ms", "p99 ms", "max ms"], rows)


def cost(read: Reader) -> str:
    """What 1,000 jobs cost."""
    wanted = {
        "worker_cpu_": "CPU seconds of the worker, 1,000 jobs",
        "postgres_cpu_": "CPU seconds of Postgres, 1,000 jobs",
        "cpu_": "both",
        "commits_": "transactions that write, a job",
        "wal_": "bytes of WAL, a job",
    }
    rows = [
        [
            jobs,
            what,
            *(read.figure(of(name, side), COMPARED[label]) for side in ("ours", "fetch", "undici")),
            *(read.ratio(f"{name}_{label}vs_{way}") for way in ("fetch", "undici")),
        ]
        for jobs, name in (("10,000", "drain_c50"), ("100,000", "drain_100k_c50"))
        for label, what in wanted.items()
    ]
    return table(["jobs", "", *NAMES, "to fetch", "to undici"], rows)


def idle(read: Reader) -> str:
    """What nothing to do costs."""
    wanted = {
        "statements_per_minute": "statements a minute",
        "transactions_per_minute": "transactions a minute",
        "connections": "connections",
        "rss_mb": "resident memory, MB",
        "worker_cpu_percent": "CPU, percent of a core",
    }
    rows = [[what, read.plain("idle", figure), read.plain("idle_fetch", figure)] for figure, what in wanted.items()]
    return table(["", "slayq-server", "Graphile Worker, fetch"], rows)


def backlog(read: Reader) -> str:
    """Ratios to an empty table."""
    named = {
        "add": "add for later, with a key",
        "wait": "wait for an event",
        "trigger": "trigger one that waits",
        "cancel": "cancel one",
        "cancel_nothing": "cancel what is not there",
        "add_ready": "add for now",
        "lease": "lease one",
        "complete": "complete one",
    }
    rows = [
        [
            named[step],
            read.plain("backlog_empty", f"{step}_ms"),
            *(read.ratio(f"backlog_{step}_{each}") for each in BACKLOGS[1:]),
        ]
        for step in STEPS
    ]
    return table(["statement", "empty, ms", "100,000 parked", "1,000,000 parked", "100,000 blocked"], rows)


def spread(read: Reader) -> str:
    """The cold queues' latency."""
    rows = [
        [
            whose,
            *(
                read.figure(of("spread", side), f"cold_{each}_ms_{when}")
                for when in ("quiet", "hot")
                for each in ("p50", "p99")
            ),
            read.plain(of("spread", side), "hot_deliveries_per_second"),
        ]
        for side, whose in (("ours", "slayq-server"), ("undici", "Graphile Worker, undici"))
    ]
    return table(
        ["", "p50 ms, quiet", "p99 ms, quiet", "p50 ms, one hot", "p99 ms, one hot", "the hot one, deliveries/s"], rows
    )


def daemons(read: Reader) -> str:
    """Deliveries a second of several."""
    figure = "deliveries_per_second"
    rows = [
        [
            str(count),
            *(read.figure(of(f"daemons_{count}", side), figure) for side in ("ours", "undici")),
            read.ratio(f"daemons_{count}_vs_undici"),
        ]
        for count in COUNTS
    ]
    rows.append(["`--processes 2`", read.figure("processes_2", figure), NONE, NONE])
    return table(["workers", "slayq-server", "Graphile Worker, undici", "to undici"], rows)


def runs(read: Reader) -> str:
    """Durable functions."""
    rates = ("runs_per_second", "steps_per_second", "commits_per_step")
    wanted = (*rates, *(f"{whose}_cpu_ms_per_step" for whose in ("worker", "postgres", "app")))
    rows = [[str(steps), *(read.figure(f"runs_{steps}_steps", figure) for figure in wanted)] for steps in RUN_STEPS]
    return table(
        ["steps a run", "runs/s", "steps/s", "commits a step", "daemon, CPU ms a step", "Postgres", "app"], rows
    )


def adds(read: Reader) -> str:
    """Adds a second."""
    named = {"none": "no worker", "full": "one with all slots taken", "serving": "one that delivers them"}
    rows = []
    for side, whose in (("ours", "slayq-server"), ("undici", "Graphile Worker, undici")):
        for state in STATES:
            name = of(f"adds_{state}", side)
            singly = [read.figure(name, f"{client}_per_second") for client in CLIENTS]
            rows.append([whose, named[state], *singly, read.figure(name, "bulk_per_second")])
    return table(["", "worker", "one client", "eight clients", "1,000 a statement"], rows)


def bloat(read: Reader) -> str:
    """Millions of jobs."""
    rows = [
        ["deliveries/s, first tenth", read.plain("bloat", "first_tenth_per_second")],
        ["deliveries/s, slowest tenth", read.plain("bloat", "slowest_tenth_per_second")],
        ["deliveries/s, last tenth", read.plain("bloat", "last_tenth_per_second")],
        ["last to first", read.ratio("bloat_last_vs_first_tenth")],
        *(
            [
                f"table and indexes at {part} %, MB",
                ", ".join(read.plain("bloat", f"{what}_mb_at_{part}_percent") for what in ("table", "indexes")),
            ]
            for part in (30, 60, 80, 100)
        ),
    ]
    return table(["", ""], rows)


def sizing(read: Reader) -> str:
    """Cores for a steady rate, and WAL."""
    rows = []
    for rate in RATES:
        costs = read.measured["figures"].get(f"latency_{rate}", {})
        cores = [costs.get(f"{whose}_cpu_seconds_per_1000", 0) / 1000 * rate for whose in ("worker", "postgres")]
        gigabytes = costs.get("wal_bytes_per_job", 0) * rate * 86_400 / 1e9
        rows.append([f"{rate:,}", *(f"{each:.2f}" for each in cores), number(gigabytes)])
    return table(["jobs a second", "cores, daemon", "cores, Postgres", "WAL, GB a day"], rows)


_ALL = (machine, drain, latency, cost, idle, backlog, spread, daemons, runs, adds, bloat, sizing)
PARTS: dict[str, Callable[[Reader], str]] = {part.__name__: part for part in _ALL}


def filled(text: str, measured: Measured) -> str:
    """The page with its tables made anew. Raises KeyError for a part that there is not."""
    read = Reader(measured)
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part['name']](read)}\n{part[3]}", text)


def parts_of(text: str) -> list[str]:
    """The names of the page's parts, in order."""
    return [part["name"] for part in _PART.finditer(text)]
