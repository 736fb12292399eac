"""docs/performance.md is what the last full run of the benchmark has measured, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.__main__ import CASES, FULL, names
from bench.page import PAGE, PARTS, filled, parts_of
from bench.plots import FOLDER, drawn
from bench.scale import FULL as FULL_SCALE


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """The results of the last full run."""
    results: dict[str, Any] = json.loads(FULL.read_text(encoding="utf-8"))
    return results


def test_the_tables_are_those_of_the_results(measured: dict[str, Any]) -> None:
    """No figure is written by hand: `python -m bench --render` changes nothing."""
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, measured) == text


def test_the_pictures_are_those_of_the_results(measured: dict[str, Any]) -> None:
    """Each is there as it is drawn of the file, and there is no other."""
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert drawn(measured) == there


def test_every_table_and_every_picture_has_its_place() -> None:
    """The page shows all that there is."""
    text = PAGE.read_text(encoding="utf-8")
    assert sorted(PARTS) == sorted(parts_of(text))
    assert [] == [path.name for path in FOLDER.iterdir() if f"](performance/{path.name})" not in text]


def test_the_results_have_every_name(measured: dict[str, Any]) -> None:
    """All ratios and figures of all cases, and no others."""
    ratios, figures = names(CASES, FULL_SCALE)
    assert sorted(ratios) == sorted(measured["ratios"])
    assert sorted(figures) == sorted(measured["figures"])


def test_the_names_that_others_read() -> None:
    """Whoever compares two versions of us looks these up: they keep their names."""
    ratios, _ = names(CASES, FULL_SCALE)
    wanted = {"drain_c50_vs_fetch", "drain_c50_vs_undici", "latency_p99_20_vs_undici", "backlog_lease_1m"}
    assert wanted <= set(ratios)
    assert len(ratios) == len(set(ratios))
