"""How long a failed job waits for its next attempt.

One formula covers every shape, so that the database can compute the same from the five fields alone:

    delay after attempt n = min(max, base * factor ** (min(n, cap) - 1)) * (1 ± jitter)

A fixed delay is a factor of 1; the default (base and factor e, cap 10) is exp(min(n, 10)) seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST: Final = 365 * 86_400.0
"""Seconds that a policy may make a job wait at most, jitter aside."""


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """A queue's rule. Raises ValueError, with the field's name, for values that make none."""

    base: float = math.e
    """Seconds after the first attempt; 0 or more."""
    factor: float = math.e
    """What each further attempt multiplies the delay by; 1 or more."""
    cap: int = 10
    """The attempt from which the delay grows no more; 1 or more."""
    max: float | None = None
    """Seconds at most, before the jitter; None: what base, factor and cap come to."""
    jitter: float = 0.1
    """The share of the delay by which chance may lengthen or shorten it, from 0 to 1."""

    def __post_init__(self) -> None:
        _number("base", self.base, at_least=0)
        _number("factor", self.factor, at_least=1)
        if isinstance(self.cap, bool) or not isinstance(self.cap, int) or self.cap < 1:
            raise ValueError(f"cap must be a whole number of 1 or more, not {self.cap!r}")
        if self.max is not None:
            _number("max", self.max, at_least=0)
        if _number("jitter", self.jitter, at_least=0) > 1:
            raise ValueError(f"jitter must be a share from 0 to 1, not {self.jitter!r}")
        try:
            grown = self.base * math.pow(self.factor, self.cap - 1)
        except OverflowError:
            grown = math.inf
        # Refused even where `max` would hide it: in SQL the overflow is an error.
        if math.isinf(grown):
            raise ValueError(f"base * factor ** (cap - 1) is too large a number: lower cap ({self.cap}) or factor")
        longest = grown if self.max is None else min(self.max, grown)
        if longest > LONGEST:
            raise ValueError(
                f"a job would wait up to {longest:.0f} seconds, more than a year: set max, or lower base, factor or cap"
            )

    @classmethod
    def default(cls) -> Self:
        """exp(min(n, 10)) seconds after attempt n, give or take 10 %: from 2.7 s to 6.1 h."""
        return cls()

    @classmethod
    def fixed(cls, delay: float, *, jitter: float = 0.0) -> Self:
        """The same `delay`, in seconds, after every attempt."""
        return cls(base=delay, factor=1, cap=1, jitter=jitter)

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds from the end of attempt `attempt` (1 is the first) to the next; `random` gives numbers in [0, 1)."""
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, not {attempt}")
        seconds = self.base * math.pow(self.factor, min(attempt, self.cap) - 1)
        if self.max is not None:
            seconds = min(self.max, seconds)
        return seconds * (1 + self.jitter * (2 * random() - 1))


def _number(name: str, value: object, *, at_least: float) -> float:
    """The value, if it is a finite number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < at_least:
        raise ValueError(f"{name} must be a number of {at_least:g} or more, not {value!r}")
    return value
