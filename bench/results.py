"""What was measured: medians, spreads, ratios and curves, as a table on the terminal and as a file."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Rounds = Sequence[Mapping[str, float]]

_DIGITS = 4
"""That count: more is noise, and makes two files hard to compare."""


def rounded(value: float) -> float:
    """With as many digits as count; a whole number as such."""
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short == int(short) else short


class Results:
    """The results of one run of the benchmark."""

    def __init__(self, scale: str, machine: Mapping[str, Any]) -> None:
        self.scale = scale
        self.machine = dict(machine)
        self.ratios: dict[str, float] = {}
        self.figures: dict[str, dict[str, float]] = {}
        """Medians of the rounds, by case and figure."""
        self.spreads: dict[str, dict[str, list[float]]] = {}
        """The least and the most of the rounds."""
        self.series: dict[str, list[dict[str, float]]] = {}
        """Curves: points in order."""
        self.seconds: dict[str, float] = {}
        """What each case took."""

    def add(self, name: str, rounds: Rounds, title: str) -> None:
        """Takes the rounds of one case in, and prints them."""
        print(f"\n{title}   [{name}]")
        self.figures[name] = {}
        self.spreads[name] = {}
        for figure in rounds[0]:
            values = [each[figure] for each in rounds]
            self.figures[name][figure] = rounded(statistics.median(values))
            self.spreads[name][figure] = [rounded(min(values)), rounded(max(values))]
            spread = f"   {min(values):.4g} to {max(values):.4g} in {len(values)} rounds" if len(values) > 1 else ""
            print(f"  {figure.replace('_', ' '):36} {self.figures[name][figure]:>12}{spread}", flush=True)

    def ratio(self, name: str, ours: str, theirs: str, figure: str, other: str | None = None) -> None:
        """The ratio of two cases' medians, where both were measured; `other`: of another figure of the second case."""
        if ours not in self.figures or theirs not in self.figures:
            return
        first, second = self.figures[ours][figure], self.figures[theirs][other or figure]
        # Of nothing to nothing: alike. Of something to nothing there is no ratio to print; a large one says as much.
        self.ratios[name] = rounded(first / second) if second else (1.0 if not first else 999.0)

    def curve(self, name: str, points: Sequence[Mapping[str, float]]) -> None:
        """A curve, for a plot."""
        self.series[name] = [{key: rounded(value) for key, value in point.items()} for point in points]

    def missing(self, ratios: Sequence[str], figures: Sequence[str]) -> list[str]:
        """Those of the names that have not been measured."""
        return [name for name in ratios if name not in self.ratios] + [
            name for name in figures if name not in self.figures
        ]

    def complete_with(self, earlier: Mapping[str, Any]) -> None:
        """Takes over what an earlier run of other cases has measured."""
        for name in ("ratios", "figures", "spreads", "series", "seconds"):
            setattr(self, name, {**earlier[name], **getattr(self, name)})

    def show_ratios(self) -> None:
        """Prints them."""
        print("\nRatios: ours to theirs, full to empty, with to without")
        for name, value in self.ratios.items():
            print(f"  {name:42} {value:>8.3g}")

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "scale": self.scale,
                    "machine": self.machine,
                    "ratios": self.ratios,
                    "figures": self.figures,
                    "spreads": self.spreads,
                    "series": self.series,
                    "seconds": self.seconds,
                },
                indent=2,
            )
            + "\n"
        )
