"""Where leases begin: elsewhere than at the first job only for as long as that gains something."""

from __future__ import annotations

import pytest

from slayq_server.engine.heads import LONGEST, Head

FIRST = (0, 1_000_000, 7)
LATER = (0, 2_000_000, 9)


def whole(head: Head, seconds: float, now: float, times: int = 1) -> None:
    for _ in range(times):
        head.found(FIRST, whole=True, now=now, seconds=seconds)


def short(head: Head, seconds: float, now: float, times: int = 1) -> None:
    for _ in range(times):
        head.found(LATER, whole=False, now=now, seconds=seconds)


def test_at_first_it_is_the_beginning() -> None:
    assert Head().at(5.0) is None


def test_slow_looks_from_the_beginning_are_rare() -> None:
    """Twice 0.1 s, where others take nothing: for 2 s leases begin where the last of these ended."""
    head = Head()
    whole(head, 0.1, now=10.0, times=2)
    assert (FIRST, FIRST, None) == (head.at(10.0), head.at(11.99), head.at(12.0))


def test_once_slow_is_not_slow() -> None:
    """Of the last two the quicker one counts: a statement may have waited for anything."""
    head = Head()
    whole(head, 0.001, now=10.0)
    whole(head, 3.0, now=13.0)
    assert head.at(13.03) is None


def test_what_is_no_quicker_elsewhere_begins_at_the_beginning() -> None:
    """All leases are slow, from wherever: there is nothing to gain."""
    head = Head()
    short(head, 0.1, now=9.0, times=2)
    whole(head, 0.1, now=10.0, times=2)
    assert head.at(10.0) is None


def test_the_window_is_for_as_long_as_what_is_gained_is_worth() -> None:
    """0.1 s are 0.04 s more than twice what others take, when that has faded a little: 20 times as long."""
    head = Head()
    whole(head, 0.1, now=11.0)
    short(head, 0.03 / 0.8, now=11.0, times=2)
    whole(head, 0.1, now=12.0)
    assert (FIRST, None) == (head.at(12.79), head.at(12.81))


def test_others_that_were_slow_once_are_tried_again() -> None:
    """What they took counts for less with each look from the beginning; while they are as slow, not for long."""
    head = Head()
    short(head, 0.9, now=1.0, times=2)
    for second in range(20):
        whole(head, 0.1, now=float(second))
    assert FIRST == head.at(19.1)


def test_what_is_quick_is_always_done() -> None:
    """A look from the beginning that takes no time to speak of is not left out."""
    head = Head()
    whole(head, 0.002, now=10.0, times=2)
    assert head.at(10.0) is None


def test_others_do_not_move_the_place() -> None:
    head = Head()
    whole(head, 0.1, now=10.0, times=2)
    short(head, 0.001, now=10.5)
    assert (FIRST, None) == (head.at(11.99), head.at(12.0))


def test_sooner_where_something_has_become_ready() -> None:
    """A quarter of the time may then be lost; the next look from the beginning has seen it."""
    head = Head()
    whole(head, 0.1, now=10.0, times=2)
    head.hurry()
    assert (FIRST, None) == (head.at(10.39), head.at(10.41))
    whole(head, 0.1, now=11.0)
    assert FIRST == head.at(12.9)


def test_one_that_fails_is_put_off() -> None:
    """Leases go on where they were, where that is known."""
    head = Head()
    head.failed(5.0)
    assert head.at(5.0) is None
    whole(head, 0.1, now=10.0, times=2)
    head.failed(20.0)
    assert (FIRST, None) == (head.at(24.9), head.at(25.0))


@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_never_for_long(seconds: float) -> None:
    """What has become ready before that place waits for five seconds at the most."""
    head = Head()
    whole(head, seconds, now=10.0, times=2)
    assert (FIRST, None) == (head.at(10.0 + LONGEST - 0.01), head.at(10.0 + LONGEST))
    short(head, 0.001, now=14.0)
    assert head.at(10.0 + LONGEST) is None


def test_forgotten() -> None:
    head = Head()
    whole(head, 0.1, now=10.0, times=2)
    head.forget()
    assert head.at(10.0) is None
