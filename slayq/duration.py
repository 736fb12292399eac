"""Durations as text: what npm's `ms` accepts, so that what is written for an app in TypeScript means the same here."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

_LONGEST_TEXT: Final = 100
_LONGEST: Final = timedelta(days=366 * 1000)
"""The server takes none that is longer."""
_MILLISECONDS: Final = {
    "milliseconds": 1.0,
    "seconds": 1_000.0,
    "minutes": 60_000.0,
    "hours": 3_600_000.0,
    "days": 86_400_000.0,
    "weeks": 604_800_000.0,
    "years": 31_557_600_000.0,  # 365.25 days
}
_SPELLINGS: Final = {
    "milliseconds": "milliseconds millisecond msecs msec ms",
    "seconds": "seconds second secs sec s",
    "minutes": "minutes minute mins min m",
    "hours": "hours hour hrs hr h",
    "days": "days day d",
    "weeks": "weeks week w",
    "years": "years year yrs yr y",
}
_UNITS: Final = {word: _MILLISECONDS[unit] for unit, words in _SPELLINGS.items() for word in words.split()}
_TEXT: Final = re.compile(r"(?P<sign>-?)(?P<number>[0-9]*\.?[0-9]+) *(?P<unit>[a-z]*)", re.IGNORECASE | re.ASCII)

GOOD_FORMS: Final = '"500ms", "30s", "5m", "1.5h", "2 days", "1 week" or "3 years"'
"""How durations may be written, for messages."""


def parse_duration(text: str) -> timedelta:
    """The duration that a text says: a number, then a unit from milliseconds to years, in any case ("5m", "2 Days").

    A number without a unit is milliseconds; a year is 365.25 days. The result is exact to the microsecond. Raises
    ValueError, with the good forms in its message, for anything else: a negative one, two units, a text of over 100
    characters, or more than a timedelta can hold.
    """
    match = _TEXT.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    unit = _UNITS.get(match["unit"].lower() or "ms") if match else None
    if match is None or unit is None:
        raise ValueError(f"{_quoted(text)} is not a duration: write one as {GOOD_FORMS}")
    if match["sign"]:
        raise ValueError(f"{_quoted(text)} is negative, and a duration cannot be: write one as {GOOD_FORMS}")
    milliseconds = float(match["number"]) * unit
    if not math.isfinite(milliseconds) or milliseconds > timedelta.max // timedelta(milliseconds=1):
        raise ValueError(f"{_quoted(text)} is longer than any duration can be: write one as {GOOD_FORMS}")
    return timedelta(milliseconds=milliseconds)


def has_unit(text: str) -> bool:
    """Whether a duration's text names its unit, and so cannot be mistaken for a number of something else."""
    return text[-1:].isalpha()


def seconds_of(duration: timedelta | str) -> float:
    """The seconds of a duration: a timedelta, or a text that `parse_duration` reads.

    Raises ValueError, with the good forms in its message, for a negative one, one of more than a thousand years, or
    anything else.
    """
    checked = _checked(duration)
    if checked > _LONGEST:
        raise ValueError(f"{duration!r:.80} is longer than a thousand years: pass a shorter one, or leave it out")
    return checked.total_seconds()


def _checked(duration: object) -> timedelta:
    if isinstance(duration, str):
        return parse_duration(duration)
    if isinstance(duration, timedelta) and duration >= timedelta():
        return duration
    problem = "negative, and a duration cannot be" if isinstance(duration, timedelta) else "not a duration"
    raise ValueError(f"{duration!r:.80} is {problem}: pass a timedelta, or a text such as {GOOD_FORMS}")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_TEXT else text[:40] + "…")
