"""What the benchmark makes of what it has measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from bench.__main__ import CASES, names
from bench.bloat import Watch
from bench.driving import waits
from bench.page import filled, number
from bench.results import Results, rounded
from bench.scale import FULL, QUICK

if TYPE_CHECKING:
    from pathlib import Path


def test_waits_are_percentiles_from_commit_to_arrival() -> None:
    """In milliseconds; a job that arrived before the client knew of its commit waited not at all."""
    committed = dict.fromkeys(range(100), 10.0)
    arrivals = {str(number): 10.0 + number / 1000 for number in range(100)} | {"0": 9.0}
    expected = {"p50_ms": 49.5, "p95_ms": 95.0, "p99_ms": 99.0, "max_ms": 99.0}
    assert waits(committed, arrivals) == pytest.approx(expected)


def test_a_tenth_begins_and_ends_between_two_looks() -> None:
    """The producer's clock ticks every now and then: what lies between is interpolated."""
    watch = Watch(cast("Any", None), cast("Any", None), 1_000)
    watch.points = [
        {"seconds": 0.0, "delivered": 0, "table_mb": 0.0},
        {"seconds": 1.0, "delivered": 50, "table_mb": 2.0},
        {"seconds": 3.0, "delivered": 150, "table_mb": 4.0},
        {"seconds": 4.0, "delivered": 1_000, "table_mb": 8.0},
    ]
    assert watch.at(0.1, "table_mb") == 3.0
    assert watch.rate(0) == 50.0


def test_results_are_medians_with_their_spread(tmp_path: Path) -> None:
    """And a ratio is one of two medians; where a side was not measured there is none."""
    results = Results("quick", {"cores": 2})
    results.add("drain", [{"rate": 3.0}, {"rate": 1.0}, {"rate": 2.00049}], "A drain")
    results.add("drain_fetch", [{"rate": 0.5}], "Another")
    results.ratio("drain_vs_fetch", "drain", "drain_fetch", "rate")
    results.ratio("drain_vs_undici", "drain", "drain_undici", "rate")
    results.write(tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["figures"] == {"drain": {"rate": 2}, "drain_fetch": {"rate": 0.5}}
    assert written["spreads"]["drain"] == {"rate": [1, 3]}
    assert written["ratios"] == {"drain_vs_fetch": 4}
    assert results.missing(["drain_vs_fetch", "drain_vs_undici"], ["drain"]) == ["drain_vs_undici"]


def test_a_ratio_to_nothing_is_no_error() -> None:
    """A short drain may use no processor time that the system has counted."""
    results = Results("smoke", {})
    results.add("ours", [{"cpu": 1.0, "wal": 0.0}], "Ours")
    results.add("theirs", [{"cpu": 0.0, "wal": 0.0}], "Theirs")
    results.ratio("cpu", "ours", "theirs", "cpu")
    results.ratio("wal", "ours", "theirs", "wal")
    assert results.ratios == {"cpu": 999, "wal": 1}


def test_one_case_measured_again_leaves_the_others() -> None:
    """So that one that went wrong need not cost the whole run."""
    results = Results("full", {})
    results.add("drain", [{"rate": 2.0}], "A drain")
    earlier: dict[str, Any] = {name: {} for name in ("ratios", "spreads", "series", "seconds")}
    results.complete_with({**earlier, "figures": {"drain": {"rate": 1}, "idle": {"rss": 60}}})
    assert results.figures == {"drain": {"rate": 2}, "idle": {"rss": 60}}


@pytest.mark.parametrize(("value", "expected"), [(123_456.0, 123_500), (0.123456, 0.1235), (3.0, 3), (0.0, 0)])
def test_what_is_noise_is_not_written(value: float, expected: float) -> None:
    """Four digits, and a whole number as such."""
    assert rounded(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(None, "–"), (12_345.0, "12,300"), (0.12345, "0.123"), (7.0, "7")])
def test_numbers_on_the_page(value: float | None, expected: str) -> None:
    """Three digits that count."""
    assert number(value) == expected


def test_a_part_of_the_page_that_is_not_known_is_an_error() -> None:
    """A marker with a slip in it would keep old figures for good."""
    with pytest.raises(KeyError, match="drian"):
        filled("<!-- begin drian -->\n<!-- end drian -->\n", {})


def test_a_run_without_the_rival_owes_nothing_of_it() -> None:
    """Nor does one without the long drains owe those."""
    ratios, figures = names(CASES, FULL, rival=False)
    assert [name for name in ratios + figures if "undici" in name or "fetch" in name] == []
    assert "backlog_lease_1m" in ratios
    assert [name for name in names(CASES, QUICK)[0] if name.startswith("drain_100k")] == []
