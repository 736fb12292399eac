"""The pools: how many deliveries of each queue may be in flight here, under all of its names; which are paused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import exp
from time import monotonic
from typing import TYPE_CHECKING, Final

from slayq_server.engine.backoff import BackoffPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_AHEAD_SECONDS: Final = 0.02
"""What is leased ahead is to begin within so long: until then it can be neither changed nor overtaken."""
_AHEAD_MOST: Final = 200
_QUICK: Final = 30.0
"""Deliveries a second. One that has just ended counts for ten."""
_OF_LATE: Final = 0.1
"""Seconds over which the rate is an average."""


@dataclass(slots=True, eq=False)
class Pool:
    """One queue of the configuration. Changed only on the event loop."""

    name: str
    names: tuple[str, ...]
    """The name and its aliases: all share the limit."""
    limit: int
    timeout: float = 300.0
    """Seconds for a whole delivery."""
    connect_timeout: float = 10.0
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy.default)
    max_attempts: int | None = None
    """For jobs that say nothing themselves."""
    strict: bool = False
    """A failed job keeps its serial queue until it is done or dead."""
    not_found_is_done: bool = False
    cluster: bool = False
    """The limit counts for all daemons: what may run here is also bounded by the slots held."""
    slots: int = 0
    """Slots of the cluster's limit that this daemon holds. Those of a pool whose limit changed count once asked for."""
    paused: bool = False
    in_flight: int = 0
    reserved: int = 0
    """What a lease statement that is on its way may bring."""
    ahead: int = 0
    """Jobs leased that wait for a slot."""
    rate: float = 0.0
    """Deliveries that ended, a second, at `rated_at` and shortly before."""
    rated_at: float = 0.0

    @property
    def room(self) -> int:
        """Slots of this daemon's own limit that are free (never negative: a limit may have sunk)."""
        return max(0, self.limit - self.in_flight - self.reserved)

    @property
    def full(self) -> bool:
        """Every slot has a delivery in it. What a lease on its way has reserved may yet be free."""
        return self.in_flight >= (min(self.limit, self.slots) if self.cluster else self.limit)

    @property
    def free(self) -> int:
        """Slots that may be leased for now."""
        if self.paused:
            return 0
        if self.cluster:
            return max(0, min(self.room, self.slots - self.in_flight - self.reserved))
        return self.room

    @property
    def wanted(self) -> int:
        """Jobs to lease for now: for the free slots, and ahead."""
        return self.free + self.wanted_ahead

    @property
    def wanted_ahead(self) -> int:
        """Jobs to lease beyond the free slots: what will begin very soon, if deliveries go on ending as they do."""
        if self.paused or self.cluster or self.limit < 2 or self.rate * _AHEAD_SECONDS < 1.0:
            return 0
        most = min(_AHEAD_MOST, int(self._rate_at(monotonic()) * _AHEAD_SECONDS))
        # Not for each slot that becomes free, but by halves: a statement should be worth its while.
        return most - self.ahead if 2 * self.ahead <= most else 0

    @property
    def quick(self) -> bool:
        """Whether so many deliveries end that a job which is passed over for a moment finds a slot soon."""
        return self.rate > _QUICK and self._rate_at(monotonic()) > _QUICK

    def note_end(self) -> None:
        """A delivery has ended."""
        now = monotonic()
        self.rate = self._rate_at(now) + 1.0 / _OF_LATE
        self.rated_at = now

    def _rate_at(self, now: float) -> float:
        return self.rate * exp((self.rated_at - now) / _OF_LATE)


class Pools:
    """The pools by any of their names."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools: list[Pool] = []
        self._departed: list[Pool] = []
        self._by_name: dict[str, Pool] = {}
        self.replace(pools)

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools)

    def get(self, name: str) -> Pool | None:
        """The pool that serves the queue `name`, if this daemon does."""
        return self._by_name.get(name)

    @property
    def all(self) -> list[Pool]:
        """The pools, and those that a reload took away while they had something in flight or slots in hand."""
        return self._pools + self._departed

    @property
    def names(self) -> list[str]:
        """Every queue name served, sorted."""
        return sorted(self._by_name)

    @property
    def in_flight(self) -> int:
        """Deliveries running in all pools."""
        return sum(pool.in_flight for pool in self.all)

    def replace(self, pools: Iterable[Pool]) -> None:
        """Takes over new pools (reload); one that stays or comes back, by name, keeps what it has in flight."""
        old = {pool.name: pool for pool in self.all}
        self._pools = []
        for new in pools:
            pool = old.pop(new.name, new)
            if (pool.cluster, pool.limit) != (new.cluster, new.limit) and new.cluster:
                pool.slots = 0  # which of them count under the new limit is for the database to say
            # Deliveries in flight hold the old object: it stays, with the new rules and its own counts.
            for rule in fields(Pool):
                if rule.name not in ("slots", "in_flight", "reserved", "ahead", "rate", "rated_at"):
                    setattr(pool, rule.name, getattr(new, rule.name))
            self._pools.append(pool)
        self._departed = [pool for pool in old.values() if pool.in_flight or pool.reserved or pool.slots]
        for pool in self._departed:
            pool.limit = 0
        self._by_name = {name: pool for pool in self._pools for name in pool.names}

    def set_paused(self, paused: frozenset[str]) -> list[Pool]:
        """Applies what the database says is paused; returns the pools that may go on now."""
        resumed = []
        for pool in self._pools:
            now = all(name in paused for name in pool.names)
            if pool.paused and not now:
                resumed.append(pool)
            pool.paused = now
        return resumed
