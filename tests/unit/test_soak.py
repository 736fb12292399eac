"""The soak's judgement: what levels off, what grows, and what was lost or came twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench.soak import work
from bench.soak.levels import levels
from bench.soak.picture import svg
from bench.soak.tally import Tally, summary

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 120


def sample(place: int, **more: Any) -> dict[str, Any]:
    """One in which nothing grows but what is kept."""
    rows = 2000 + 100 * place
    return {
        "at": 10.0 * place,
        "daemon_uss_mb": 47.0 + place % 3,
        "daemon_files": 50 + place % 5,
        "latency_p99_ms": 60.0 + place % 7,
        "tables": {
            "job": {"bytes": 9_000_000 + 8192 * (place % 9), "live": 500, "dead": 40_000 + 100 * (place % 11)},
            "sent": {"bytes": rows * 90, "live": rows, "dead": 0},
        },
        "indexes": {
            "job_match": {"table": "job", "bytes": 8_000_000 + 100_000 * place},
            "job_ready": {"table": "job", "bytes": 8_000_000},
            "sent_pkey": {"table": "sent", "bytes": rows * 60},
        },
        **more,
    }


def growing(change: Callable[[dict[str, Any], int], None]) -> list[str]:
    """What is found to grow in a run with a change to each of its samples."""
    samples = [sample(place) for place in range(LONG)]
    for place, each in enumerate(samples):
        change(each, place)
    assert svg(samples).startswith("<svg ")
    return [each.name for each in levels(samples) if not each.level]


def test_what_goes_up_and_down_levels_off() -> None:
    """So does what is kept for longer than the run, as long as a row takes up the same."""
    assert [] == growing(lambda each, place: None)


def test_dead_rows_that_are_as_many_as_at_first_level_off() -> None:
    """However many there were between, which depends on when autovacuum came by."""

    def dip(each: dict[str, Any], place: int) -> None:
        each["tables"]["job"]["dead"] -= 15_000 * (LONG // 4 <= place < 3 * LONG // 4)

    assert [] == growing(dip)


def _leak(each: dict[str, Any], place: int) -> None:
    each["daemon_uss_mb"] += 0.2 * place


def _files(each: dict[str, Any], place: int) -> None:
    each["daemon_files"] += place // 4


def _index(each: dict[str, Any], place: int) -> None:
    each["indexes"]["job_ready"]["bytes"] += 40_000 * place


def _boundless(each: dict[str, Any], place: int) -> None:
    each["indexes"]["job_match"]["bytes"] += 500_000 * place


def _bloat(each: dict[str, Any], place: int) -> None:
    each["tables"]["sent"]["bytes"] *= 1 + place / 50


def _dead(each: dict[str, Any], place: int) -> None:
    each["tables"]["job"]["dead"] += 1000 * place


def _slower(each: dict[str, Any], place: int) -> None:
    each["latency_p99_ms"] += 2.0 * place


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_leak, "daemon_uss_mb"),
        (_files, "daemon_files"),
        (_index, "job_ready: bytes"),
        (_boundless, "job_match: bytes"),
        (_bloat, "sent: bytes a row"),
        (_dead, "job: dead rows"),
        (_slower, "latency_p99_ms, by halves"),
    ],
)
def test_what_grows_is_named(change: Callable[[dict[str, Any], int], None], name: str) -> None:
    """And nothing else is."""
    assert [name] == growing(change)


def test_growth_in_the_first_half_is_allowed() -> None:
    """A table fills up, caches warm up: what counts is whether that ends."""

    def fills_up(each: dict[str, Any], place: int) -> None:
        each["tables"]["job"]["bytes"] = 100_000 * min(place, LONG // 2)

    assert [] == growing(fills_up)


def test_the_tally_finds_what_is_lost_and_what_comes_twice() -> None:
    """And what was never sent."""
    tally = Tally(300)
    for number in range(200):
        for _ in range(work.deliveries(number)):
            tally.note(number)
    assert [] == tally.wrong(200, work.deliveries)
    lost = next(number for number in range(200) if work.kind(number) == "plain")
    again = next(number for number in range(200) if work.kind(number) == "cancelled")
    tally._counts[lost] = 0
    tally.note(again)
    tally.note(250)
    found = summary(tally.wrong(200, work.deliveries))
    assert (1, 2) == (found["lost"], found["again"])
    assert {lost, again, 250} == {each["number"] for each in tally.wrong(200, work.deliveries)}


def test_all_kinds_come_up() -> None:
    """Of each hundred jobs as many as its share; serial ones rise in their lanes."""
    for start in (0, 700):
        kinds = [work.kind(number) for number in range(start, start + 100)]
        assert work.SHARES == {kind: kinds.count(kind) for kind in work.SHARES}
    assert set(range(work.LANES)) == {work.lane(number) for number in range(100 * work.LANES)}
