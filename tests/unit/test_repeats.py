"""Repeated errors: the first and the recovery always, in between ever fewer, and a count of what was left out."""

from __future__ import annotations

from logging import WARNING
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from slayq_server.repeats import FIRST_PAUSE, LONGEST_PAUSE, QUIET, Repeats

if TYPE_CHECKING:
    from collections.abc import Iterator


class Watch:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def shown(lines: list[Any]) -> list[tuple[str, int]]:
    """Event and count of those lines that are not for debugging."""
    return [(line["event"], line.get("left_out", 0)) for line in lines if line["log_level"] != "debug"]


def test_the_first_is_logged_and_then_ever_fewer(lines: list[Any]) -> None:
    """An error ten times a second for an hour: a score of lines, which account for every one that was left out."""
    watch = Watch()
    repeats = Repeats(watch)
    for _ in range(36_000):
        repeats.log(WARNING, "it_failed", kind="timeout", error="late")
        watch.now += 0.1
    said = shown(lines)
    assert ("it_failed", 0) == said[0]
    assert 8 < len(said) < 25
    watch.now += LONGEST_PAUSE
    repeats.log(WARNING, "it_failed", kind="timeout", error="late")
    said = shown(lines)
    assert 36_001 == len(said) + sum(left_out for _, left_out in said)
    assert 36_001 == len(lines)  # with debug, all of them


def test_another_kind_or_owner_is_logged_in_its_own_right(lines: list[Any]) -> None:
    """What is new is never left out."""
    repeats = Repeats(Watch())
    for kind, of in [("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("a", "y")]:
        repeats.log(WARNING, "it_failed", kind=kind, of=of, which=kind + of)
    assert ["ax", "bx", "ay"] == [line["which"] for line in lines if line["log_level"] == "warning"]


def test_a_recovery_is_logged_once_with_what_was_left_out(lines: list[Any]) -> None:
    """Of all kinds of the error together; and not where nothing had failed."""
    repeats = Repeats(Watch())
    repeats.recovered("it_failed", "it_works")
    for kind in ("a", "a", "a", "b"):
        repeats.log(WARNING, "it_failed", kind=kind)
    repeats.recovered("something_else", "it_works")
    repeats.recovered("it_failed", "it_works", of="somebody else")
    repeats.recovered("it_failed", "it_works")
    repeats.recovered("it_failed", "it_works")
    assert [("it_failed", 0), ("it_failed", 0), ("it_works", 2)] == shown(lines)


def test_what_flaps_does_not_fill_the_log(lines: list[Any]) -> None:
    """Failing and recovering by turns: a recovery is logged for each failure that was, and no other."""
    watch = Watch()
    repeats = Repeats(watch)
    for _ in range(6_000):
        repeats.log(WARNING, "it_failed")
        repeats.recovered("it_failed", "it_works")
        watch.now += 0.1
    events = [event for event, _ in shown(lines)]
    assert ["it_failed", "it_works"] * (len(events) // 2) == events
    assert len(events) < 25


def test_after_some_quiet_an_error_is_a_first_one(lines: list[Any]) -> None:
    """It is logged at once, and so is the next but one after a short pause."""
    watch = Watch()
    repeats = Repeats(watch)
    for pause in (0.0, 0.1, QUIET + 1, FIRST_PAUSE):
        watch.now += pause
        repeats.log(WARNING, "it_failed")
    assert [("it_failed", 0), ("it_failed", 1), ("it_failed", 0)] == shown(lines)


def test_a_crowd_of_owners_takes_up_bounded_memory_and_log(lines: list[Any]) -> None:
    """Beyond a thousand that fail at once, the others share one place; the quiet make room."""
    watch = Watch()
    repeats = Repeats(watch)
    for number in range(5_000):
        repeats.log(WARNING, "it_failed", of=f"host-{number}")
    assert 1_001 == len(shown(lines))
    watch.now += QUIET + 1
    repeats.log(WARNING, "it_failed", of="host-new")
    assert 1_002 == len(shown(lines))
