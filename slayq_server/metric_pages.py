"""The metrics of a server of several processes on one page: every series once for each process, labelled `process`.

They are told apart, not added up, because each process is a daemon with counters of its own. One that starts again has
counters that start again, which Prometheus understands of a series and not of a sum. So the rules for several daemons
hold for several processes: `sum` the counters, take the `max` of what describes the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LABEL = "process"


@dataclass(frozen=True, slots=True)
class ProcessPage:
    """What one process exports."""

    number: int
    families: Sequence[Metric] | None
    """None: it did not answer."""
    restarts: int
    """How often it has been started again."""


def render(pages: Iterable[ProcessPage]) -> bytes:
    """All series in Prometheus's text format."""
    return generate_latest(_Joined(list(pages)))


class _Joined:
    """A collector, as the library calls what has series."""

    def __init__(self, pages: Sequence[ProcessPage]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("slayq_process_up", "1 while this process of the server answers.", labels=[LABEL])
        restarts = CounterMetricFamily(
            "slayq_process_restarts_total", "How often this process of the server was started again.", labels=[LABEL]
        )
        joined: dict[str, Metric] = {}
        for page in self._pages:
            up.add_metric([str(page.number)], page.families is not None)
            restarts.add_metric([str(page.number)], page.restarts)
            for family in page.families or ():
                whole = joined.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                whole.samples += [
                    sample._replace(labels={**sample.labels, LABEL: str(page.number)}) for sample in family.samples
                ]
        yield from joined.values()
        yield up
        yield restarts
