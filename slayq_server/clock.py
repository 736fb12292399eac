"""The daemon's clock: durations come from `monotonic`, wall time is only ever shown or signed, never compared.

What is due and whose lease is good is decided by the database's clock alone (see docs/design of the engine).
"""

from __future__ import annotations

import time
from typing import Final, Protocol

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux leaves the time in which a machine is suspended out of its monotonic clock."""


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
        """Seconds since the machine started, those in which it was suspended included: leases run out in them, too."""
        return time.clock_gettime(_CLOCK)

    def wall(self) -> float:
        """Seconds of `time.time`."""
        return time.time()
