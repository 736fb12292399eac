"""The metrics of several processes on one page."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from slayq_server.metric_pages import ProcessPage, render
from slayq_server.metrics import Metrics
from tests.support.promtool import promtool

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def made(completed: int) -> Metrics:
    """A process that has completed so many jobs."""
    metrics = Metrics(["mail"], [], "1.2.3", 7)
    metrics.attempt("mail", "completed", completed)
    return metrics


def page() -> bytes:
    """Three processes, the last of which does not answer."""
    families = [made(number).families() for number in (2, 3)]
    return render([ProcessPage(1, families[0], 0), ProcessPage(2, families[1], 4), ProcessPage(3, None, 1)])


def values(name: str, **labels: str) -> dict[str, float]:
    """A series of each process."""
    return {
        sample.labels["process"]: sample.value
        for family in text_string_to_metric_families(page().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


def test_every_series_is_there_for_each_process_that_answers() -> None:
    """Told apart by a label, each metric described once, and nothing is lost."""
    text = page().decode()
    assert {"1": 2.0, "2": 3.0} == values("slayq_job_attempts_total", queue="mail", outcome="completed")
    described = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(described)) == len(described)
    alone = [line for line in made(2).render().decode().splitlines() if not line.startswith("#")]
    assert 2 * len(alone) == len(re.findall(r"^slayq_(?!process_)", text, flags=re.MULTILINE))


def test_the_page_says_who_is_missing() -> None:
    """And how often each was started again."""
    assert {"1": 1.0, "2": 1.0, "3": 0.0} == values("slayq_process_up")
    assert {"1": 0.0, "2": 4.0, "3": 1.0} == values("slayq_process_restarts_total")


def test_promtool_finds_nothing_to_say() -> None:
    """The page is as Prometheus wants it."""
    assert (0, "") == promtool("check", "metrics", stdin=page())
