"""Histograms for the hot path: an observation costs a search in a list and two additions, and takes no lock.

What prometheus-client's own do for each observation (a lock for the sum, one for the bucket, a look at each bound) is a
good part of what a delivery may cost. These are of one thread, and are turned into its families when they are scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry


class Observations:
    """One series."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket, each its own alone; the last is above all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class HistogramFamily(Collector):
    """All series of one name, told apart by one label."""

    def __init__(
        self, name: str, text: str, bounds: tuple[float, ...], label: str, *, registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._label = label
        self._series: dict[str, Observations] = {}
        registry.register(self)

    def labels(self, value: str) -> Observations:
        """The series of a value of the label."""
        return self._series.setdefault(value, Observations(self._bounds))

    def remove(self, value: str) -> None:
        """Exports a series no longer."""
        self._series.pop(value, None)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The family without its series."""
        yield HistogramMetricFamily(self._name, self._text, labels=[self._label])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family as it is now."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        names = [*map(str, map(float, self._bounds)), "+Inf"]
        for value, series in list(self._series.items()):  # a reload may change them meanwhile
            family.add_metric([value], list(zip(names, accumulate(series.counts), strict=True)), series.sum)
        yield family
