"""The run as a picture: small curves, one for each figure, drawn as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.soak.probe import Sample

FIGURES = (
    "deliveries_per_second", "latency_p50_ms", "latency_p99_ms", "loop_lag_ms",
    "daemon_uss_mb", "daemon_files", "tasks", "connections",
    "app_uss_mb", "backend_mb", "jobs_ready", "jobs_scheduled",
)  # fmt: skip
TABLES = ("job", "step", "wait", "event")
WIDTH, HEIGHT, ACROSS, MARGIN = 260, 90, 4, 24
MOST_POINTS = 120


def curves(samples: Sequence[Sample]) -> dict[str, list[tuple[float, float]]]:
    """Points by name."""
    found = {name: [(each["at"], each[name]) for each in samples if each.get(name) is not None] for name in FIGURES}
    for name in TABLES:
        rows = [(each["at"], each["tables"][name]) for each in samples if name in each["tables"]]
        found[f"{name}: MB"] = [(at, row["bytes"] / 2**20) for at, row in rows]
        found[f"{name}: dead rows"] = [(at, row["dead"]) for at, row in rows]
    for name in ("job_ready", "job_scheduled", "job_match", "job_key"):
        found[f"{name}: MB"] = [
            (each["at"], each["indexes"][name]["bytes"] / 2**20) for each in samples if name in each["indexes"]
        ]
    return {name: points for name, points in found.items() if points}


def svg(samples: Sequence[Sample]) -> str:
    """The document."""
    cells = []
    for place, (name, points) in enumerate(curves(samples).items()):
        left = place % ACROSS * (WIDTH + MARGIN) + MARGIN
        top = place // ACROSS * (HEIGHT + 2 * MARGIN) + 2 * MARGIN
        cells.append(_cell(name, points, left, top))
    rows = -(-len(cells) // ACROSS)
    width, height = ACROSS * (WIDTH + MARGIN) + MARGIN, rows * (HEIGHT + 2 * MARGIN) + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(cells)}</svg>\n'
    )


def _cell(name: str, points: Sequence[tuple[float, float]], left: float, top: float) -> str:
    most = max(value for _, value in points) or 1.0
    longest = points[-1][0] or 1.0
    points = points[:: -(-len(points) // MOST_POINTS)]
    line = " ".join(
        f"{left + at / longest * WIDTH:.0f},{top + HEIGHT - value / most * HEIGHT:.1f}" for at, value in points
    )
    return (
        f'<text x="{left}" y="{top - 6}">{escape(name)}: up to {most:.4g}</text>'
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="1.2"/>'
    )
