"""Where a lease begins to look: not always at the very first job. Pure.

The index of ready jobs is read from its beginning, and there stand the entries of jobs that are done: Postgres keeps
them until vacuum comes by, and cannot remove them while an old transaction is open. A busy queue leaves tens of
thousands a second, and each lease would pass over all of them.

So of a pool that has more ready jobs than a lease takes, the next leases begin at the first job that one found which
looked from the very beginning. What has become ready before that place meanwhile (of a higher priority, say, or due
again) is seen by the next look from the beginning. These take a twentieth of the time or less: they are the rarer the
longer they take, and while they take no longer than others do, all leases begin there. A lease that finds less than it
asks for is followed by one from the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from slayq_server.model import Place

_SHARE: Final = 0.05
"""Of the time, how much may be lost to looks from the beginning."""
LONGEST: Final = 5.0
"""Seconds for which leases begin elsewhere at the most."""


@dataclass(slots=True)
class Head:
    """Where the ready jobs of one pool begin, for a while."""

    _place: Place | None = None
    _until: float = 0.0
    _whole: tuple[float, float] = (0.0, 0.0)
    """Seconds that the last two looks from the beginning took. The lesser counts: any statement may once be slow."""
    _short: tuple[float, float] = (0.0, 0.0)
    """The same of others."""

    def at(self, now: float) -> Place | None:
        """Where a lease is to begin; None: at the very beginning."""
        return self._place if now < self._until else None

    def found(self, first: Place, *, whole: bool, now: float, seconds: float) -> None:
        """A lease took so many seconds and brought all that it asked for, this job first."""
        if not whole:
            self._short = self._short[1], seconds
            return
        self._whole = self._whole[1], seconds
        self._place = first
        self._until = now + min((min(self._whole) - min(self._short)) / _SHARE, LONGEST)

    def forget(self) -> None:
        """The next lease begins at the very beginning."""
        self._place = None
