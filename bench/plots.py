"""The pictures of docs/performance.md, as SVG. The same results make the same files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pygal
from pygal.style import Style

from bench.backlog import BACKLOGS, STEPS
from bench.context import of
from bench.drain import CONCURRENCIES
from bench.latency import RATES

# It puts a finder of its own kind of plugin among Python's, which has no `find_spec`: with that there, each import of
# what does not exist warns, in whatever else this process does.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

if TYPE_CHECKING:
    from collections.abc import Callable

    Measured = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "docs" / "performance"
NAMES = {"ours": "slayq-server", "fetch": "Graphile Worker, fetch", "undici": "Graphile Worker, undici"}
_STYLE = Style(
    background="#ffffff",
    plot_background="#ffffff",
    foreground="#333333",
    foreground_strong="#111111",
    foreground_subtle="#bbbbbb",
    colors=("#1b6ca8", "#d1495b", "#edae49", "#66a182", "#7b5ea7", "#555555"),
    font_family="sans-serif",
)
_LOOK: dict[str, Any] = {
    "style": _STYLE,
    "js": [],
    "no_prefix": True,
    "disable_xml_declaration": True,
    "width": 800,
    "height": 400,
    "explicit_size": False,
    "legend_at_bottom": True,
    "legend_at_bottom_columns": 4,
    "margin_bottom": 24,
    "truncate_legend": -1,
    "show_minor_x_labels": True,
}


def _figure(measured: Measured, case: str, figure: str) -> float | None:
    found: float | None = measured["figures"].get(case, {}).get(figure)
    return found


def drain(measured: Measured) -> Any:
    """Deliveries a second against concurrency."""
    chart = pygal.Bar(**_LOOK, title="Draining 10,000 jobs: deliveries a second, by concurrency")
    chart.x_labels = [str(each) for each in CONCURRENCIES]
    for side, name in NAMES.items():
        chart.add(
            name, [_figure(measured, of(f"drain_c{each}", side), "deliveries_per_second") for each in CONCURRENCIES]
        )
    return chart


def cost(measured: Measured) -> Any:
    """CPU of worker and Postgres."""
    chart = pygal.StackedBar(**_LOOK, title="CPU seconds for 1,000 jobs, concurrency 50")
    chart.x_labels = list(NAMES.values())
    for name, figure in (("worker", "worker_cpu_seconds_per_1000"), ("Postgres", "postgres_cpu_seconds_per_1000")):
        chart.add(name, [_figure(measured, of("drain_c50", side), figure) for side in NAMES])
    return chart


def latency(measured: Measured) -> Any:
    """Percentiles at each rate."""
    look = {**_LOOK, "legend_at_bottom_columns": 2}
    chart = pygal.Bar(**look, title="Milliseconds from commit to arrival, by jobs a second")
    chart.x_labels = [f"{rate:,}" for rate in RATES]
    for percentile in ("p50", "p99"):
        for side in ("ours", "undici"):
            values = [_figure(measured, of(f"latency_{rate}", side), f"{percentile}_ms") for rate in RATES]
            chart.add(f"{NAMES[side]}, {percentile}", values)
    return chart


def backlog(measured: Measured) -> Any:
    """Milliseconds of each statement."""
    chart = pygal.Bar(**_LOOK, title="Milliseconds a statement, by what is in the table")
    chart.x_labels = [step.replace("_", " ") for step in STEPS]
    titles = ("empty", "100,000 parked", "1,000,000 parked", "100,000 blocked")
    for name, title in zip(BACKLOGS, titles, strict=True):
        chart.add(title, [_figure(measured, f"backlog_{name}", f"{step}_ms") for step in STEPS])
    return chart


def bloat_rate(measured: Measured) -> Any:
    """Deliveries a second, tenth by tenth."""
    chart = pygal.Line(
        **_LOOK, title="Deliveries a second, each tenth of the jobs", include_x_axis=True, show_legend=False
    )
    points = measured["series"].get("bloat_rates", [])
    chart.x_labels = [str(point["tenth"]) for point in points]
    chart.add("slayq-server", [point["per_second"] for point in points])
    return chart


def bloat_size(measured: Measured) -> Any:
    """Sizes over time."""
    chart = pygal.XY(**_LOOK, title="Size of table and indexes, MB, by seconds", show_dots=False, include_x_axis=True)
    points = measured["series"].get("bloat_sizes", [])
    for key, name in (("table_mb", "table"), ("indexes_mb", "indexes")):
        chart.add(name, [(point["seconds"], point[key]) for point in points])
    return chart


PLOTS: dict[str, Callable[[Measured], Any]] = {
    plot.__name__: plot for plot in (drain, cost, latency, backlog, bloat_rate, bloat_size)
}


def drawn(measured: Measured) -> dict[str, str]:
    """Each picture by the name of its file."""
    return {f"{name}.svg": _bare(plot(measured).render(is_unicode=True)) for name, plot in PLOTS.items()}


def _bare(picture: str) -> str:
    """Without the comments, which name the day."""
    return re.sub(r"<!--.*?-->", "", picture, flags=re.DOTALL) + "\n"
