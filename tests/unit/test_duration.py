"""Durations as text mean what npm's `ms` makes of them, and what it does not take is refused in clear words."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slayq.duration import GOOD_FORMS, has_unit, parse_duration

# Milliseconds as ms 2.1.3 prints them for these texts.
AS_MS_DOES = {
    "100": 100,
    "1": 1,
    "0": 0,
    ".5": 0.5,
    "500ms": 500,
    "500 msecs": 500,
    "1 millisecond": 1,
    "2 Milliseconds": 2,
    "1msec": 1,
    "30s": 30_000,
    "1 sec": 1_000,
    "2 secs": 2_000,
    "1 second": 1_000,
    "1.5 seconds": 1_500,
    "5m": 300_000,
    "1 min": 60_000,
    "2 mins": 120_000,
    "1 minute": 60_000,
    "3 MINUTES": 180_000,
    "1.5h": 5_400_000,
    ".5h": 1_800_000,
    "1 hr": 3_600_000,
    "2 hrs": 7_200_000,
    "1 hour": 3_600_000,
    "48 hours": 172_800_000,
    "1d": 86_400_000,
    "1 day": 86_400_000,
    "2 days": 172_800_000,
    "1w": 604_800_000,
    "1 week": 604_800_000,
    "3 weeks": 1_814_400_000,
    "1y": 31_557_600_000,
    "1 yr": 31_557_600_000,
    "2 yrs": 63_115_200_000,
    "1 year": 31_557_600_000,
    "3 years": 94_672_800_000,
    "1    day": 86_400_000,
}

NO_DURATIONS = (
    *(
        "",
        " ",
        "5 m ",
        " 5m",
        "5m\n",
        "m",
        "ms",
        "five minutes",
        "5x",
        "5 months",
        "1h30m",
        "1,5h",
        "1.h",
        "1e3",
        "+5m",
    ),
    *("0x10", "5\tm", "٥m", "5ſ", "--5m", "NaN", "Infinity", "1.2.3s", "9" * 98 + "ms"),
)


@pytest.mark.parametrize(("text", "milliseconds"), AS_MS_DOES.items())
def test_reads_what_ms_reads(text: str, milliseconds: float) -> None:
    """Each unit, in each of its spellings, in any case, with or without a space; without a unit: milliseconds."""
    assert timedelta(milliseconds=milliseconds) == parse_duration(text)


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_refuses_what_ms_does_not_read(text: str) -> None:
    """Anything else is a ValueError that shows the text, shortened, and the good forms."""
    with pytest.raises(ValueError, match=re.escape(GOOD_FORMS)) as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["-5m", "-1", "-.5h", "-0s"])
def test_refuses_negative_durations(text: str) -> None:
    """ms reads them, but there is nothing to do for less than no time."""
    with pytest.raises(ValueError, match="is negative"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["2737910 years", "9" * 99, "999999999999 days"])
def test_refuses_what_no_timedelta_can_hold(text: str) -> None:
    """No OverflowError for a number that is absurdly large."""
    with pytest.raises(ValueError, match="longer than any duration can be"):
        parse_duration(text)


@given(st.text(max_size=120))
@example("2737907 years")
@example("86399999999999999")
@example("86399999999999984")
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No other error, whatever the text; and a duration is never negative."""
    try:
        duration = parse_duration(text)
    except ValueError:
        return
    assert duration >= timedelta(0)


@pytest.mark.parametrize(("text", "named"), [("5m", True), ("5 days", True), ("100", False), ("1.5", False)])
def test_tells_whether_a_unit_is_named(text: str, named: bool) -> None:
    """For those who must not take milliseconds for seconds."""
    assert named is has_unit(text)
