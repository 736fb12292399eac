"""The daemon's clock: durations come from `monotonic`, wall time is only ever shown or signed, never compared.

What is due and whose lease is good is decided by the database's clock alone (see docs/design of the engine).
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time, passed in so that tests can drive it."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds of `time.time`."""
        return time.time()
