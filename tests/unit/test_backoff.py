"""Back-off: one formula for every shape, the same that the database computes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slayq_server.engine.backoff import LONGEST, BackoffPolicy


def middle() -> float:
    """Chance that changes nothing: the jitter's middle."""
    return 0.5


def test_default_is_the_documented_table() -> None:
    """After attempt n, exp(min(n, 10)) seconds: 2.7, 7.4, 20, 55, 148, 403, 1097, 2981, 8103, then 22026."""
    policy = BackoffPolicy.default()
    delays = [policy.delay(attempt, middle) for attempt in range(1, 13)]
    expected = [2.7, 7.4, 20.1, 54.6, 148.4, 403.4, 1096.6, 2981.0, 8103.1, 22026.5, 22026.5, 22026.5]
    assert expected == [round(delay, 1) for delay in delays]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.9), (0.5, 1.0), (1 - 1e-9, 1.1)])
def test_default_jitter_is_ten_per_cent_either_way(chance: float, share: float) -> None:
    """The least and the most that chance gives are 10 % under and over."""
    delay = BackoffPolicy.default().delay(3, lambda: chance)
    assert pytest.approx(math.exp(3) * share) == delay


def test_jitter_can_be_none() -> None:
    """With a jitter of 0, chance does not matter."""
    policy = BackoffPolicy(jitter=0)
    assert [math.exp(2)] * 3 == pytest.approx([policy.delay(2, lambda c=c: c) for c in (0.0, 0.3, 0.99)])


def test_fixed_is_the_same_after_every_attempt() -> None:
    """A fixed delay does not grow."""
    policy = BackoffPolicy.fixed(30)
    assert [30.0, 30.0, 30.0] == [policy.delay(attempt, middle) for attempt in (1, 2, 500)]


def test_growth_stops_at_max() -> None:
    """base * factor ** (n - 1), but no more than max."""
    policy = BackoffPolicy(base=1, factor=2, cap=50, max=10, jitter=0)
    assert [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] == [policy.delay(attempt, middle) for attempt in range(1, 7)]


def test_growth_stops_at_cap() -> None:
    """From attempt `cap` on the delay stays."""
    policy = BackoffPolicy(base=1, factor=2, cap=3, jitter=0)
    assert [1.0, 2.0, 4.0, 4.0] == [policy.delay(attempt, middle) for attempt in range(1, 5)]


def test_jitter_comes_after_max() -> None:
    """Many jobs that have all reached max are spread out, too."""
    policy = BackoffPolicy(base=100, factor=1, max=10, jitter=0.5)
    assert [5.0, 10.0] == [policy.delay(1, lambda: 0.0), policy.delay(1, middle)]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"base": -1}, "base"),
        ({"base": math.nan}, "base"),
        ({"base": math.inf}, "base"),
        ({"base": "2"}, "base"),
        ({"base": True}, "base"),
        ({"factor": 0.5}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"cap": 0}, "cap"),
        ({"cap": 2.0}, "cap"),
        ({"cap": True}, "cap"),
        ({"max": -1}, "max"),
        ({"max": math.nan}, "max"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": None}, "jitter"),
        ({"base": 1, "factor": 10, "cap": 400, "max": 5}, "cap"),
        ({"base": 1, "factor": 2, "cap": 30}, "set max"),
        ({"max": LONGEST + 1, "base": LONGEST + 1}, "a year"),
    ],
)
def test_values_that_make_no_policy_are_refused(fields: dict[str, Any], named: str) -> None:
    """The error names the field to put right."""
    with pytest.raises(ValueError, match=named):
        BackoffPolicy(**fields)


def test_attempts_count_from_one() -> None:
    """A delay after attempt 0 is a fault of the caller."""
    with pytest.raises(ValueError, match="counted from 1"):
        BackoffPolicy.default().delay(0, middle)


@given(
    base=st.floats(0, 1000),
    factor=st.floats(1, 4),
    cap=st.integers(1, 40),
    most=st.none() | st.floats(0, LONGEST),
    jitter=st.floats(0, 1),
    attempt=st.integers(1, 2**31 - 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_delay_is_bounded_whatever_the_policy(
    base: float, factor: float, cap: int, most: float | None, jitter: float, attempt: int, chance: float
) -> None:
    """A policy that is accepted gives a finite delay that is not negative and, before the jitter, at most a year."""
    try:
        policy = BackoffPolicy(base, factor, cap, most, jitter)
    except ValueError:
        return
    delay = policy.delay(attempt, lambda: chance)
    assert 0 <= delay <= LONGEST * (1 + jitter) * (1 + 1e-9)
