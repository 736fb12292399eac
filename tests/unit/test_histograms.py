"""Our histograms against those of prometheus-client: what is scraped is the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from slayq_server.histograms import HistogramFamily

BOUNDS = (0.005, 0.25, 1, 300)
VALUES = st.floats(0, 1000) | st.sampled_from(BOUNDS)


@given(st.lists(st.tuples(st.sampled_from(["mail", "_other"]), VALUES), max_size=30))
def test_what_is_scraped_is_what_prometheus_client_makes_of_the_same(observed: list[tuple[str, float]]) -> None:
    """Values on a bound count below it; a series that has seen nothing is there, too."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = HistogramFamily("wait_seconds", "How long.", BOUNDS, "queue", registry=ours)
    reference = Histogram("wait_seconds", "How long.", ["queue"], buckets=BOUNDS, registry=theirs)
    for name in ("mail", "_other"):
        family.labels(name)
        reference.labels(name)
    for name, value in observed:
        family.labels(name).observe(value)
        reference.labels(name).observe(value)
    assert generate_latest(theirs) == generate_latest(ours)


def test_a_series_that_was_removed_is_exported_no_longer() -> None:
    """Until it is asked for again, empty."""
    registry = CollectorRegistry()
    family = HistogramFamily("wait_seconds", "How long.", BOUNDS, "queue", registry=registry)
    family.labels("mail").observe(1)
    family.remove("mail")
    family.remove("mail")
    assert b"mail" not in generate_latest(registry)
    family.labels("mail")
    assert b'wait_seconds_count{queue="mail"} 0.0' in generate_latest(registry)
