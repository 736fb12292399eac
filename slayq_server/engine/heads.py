"""Where a lease begins to look: not always at the very first job. Pure.

The index of ready jobs is read from its beginning, and there stand the entries of jobs that are done: Postgres keeps
them until vacuum comes by, and cannot remove them while an old transaction is open. A busy queue leaves tens of
thousands a second, and each lease would pass over all of them.

So of a pool with more ready jobs than a lease takes, the next leases begin where one ended that looked from the very
beginning. What has become ready before that place meanwhile (of a higher priority, say, or due again) is passed over
until the next look from the beginning. Those are the rarer the longer they take: they cost a twentieth of the time, or
a quarter where it is known that something has become ready, or what it takes to make one each five seconds. Where they
take hardly longer than others, all leases begin there. A lease that fills not even the free slots is followed by one
from the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from slayq_server.model import Place

_SHARE: Final = 0.05
"""Of the time, how much may be lost to looks from the beginning."""
_HURRIED: Final = 0.25
"""The same where something has become ready."""
LONGEST: Final = 5.0
"""Seconds for which leases begin elsewhere at the most."""
_WORTH: Final = 0.002
"""Seconds: a look from the beginning that takes no longer is always made."""
_FADING: Final = 0.8
"""By how much what others took counts less with each look from the beginning. At length another one is tried."""


@dataclass(slots=True)
class Head:
    """Where the ready jobs of one pool begin, for a while."""

    _place: Place | None = None
    _since: float = 0.0
    _gain: float = 0.0
    """Seconds that a lease saves which begins at the place."""
    _hurried: bool = False
    _whole: tuple[float, float] = (0.0, 0.0)
    """Seconds that the last two looks from the beginning took. The lesser counts: any statement may once be slow."""
    _short: tuple[float, float] = (0.0, 0.0)
    """The same of others."""

    def at(self, now: float) -> Place | None:
        """Where a lease is to begin; None: at the very beginning."""
        window = min(self._gain / (_HURRIED if self._hurried else _SHARE), LONGEST)
        return self._place if now < self._since + window else None

    def found(self, place: Place, *, whole: bool, now: float, seconds: float) -> None:
        """A lease took so many seconds, brought what it asked for, and ended at this place."""
        if not whole:
            self._short = self._short[1], seconds
            return
        self._whole = self._whole[1], seconds
        self._short = self._short[0] * _FADING, self._short[1] * _FADING
        took = min(self._whole)
        self._gain = max(0.0, took - 2 * min(self._short)) if took > _WORTH else 0.0
        self._place, self._since, self._hurried = place, now, False

    def hurry(self) -> None:
        """Something has become ready, perhaps before that place."""
        self._hurried = True

    def failed(self, now: float) -> None:
        """A look from the beginning came to nothing, perhaps because it took too long: not again at once."""
        self._since, self._gain, self._hurried = now, LONGEST, False

    def forget(self) -> None:
        """The next lease begins at the very beginning."""
        self._place = None
