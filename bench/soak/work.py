"""What is sent: which kind a job or an order is, and what must come of it, follows from its number alone.

So neither side needs a log of what was sent, and the account of an hour fits into a few megabytes.
"""

from __future__ import annotations

SHARES = {
    "plain": 47,  # in bulk, as most of these
    "slow": 1,  # answered after a while
    "delayed": 12,
    "fails": 4,  # the first time
    "urgent": 6,  # another priority
    "serial": 8,  # in lanes, in order
    "tight": 2,  # a limit of the whole cluster
    "keyed": 8,
    "readded": 4,  # under its own key, before it is due
    "rpc": 2,  # over HTTP
    "waits": 3,  # for an event that comes
    "times_out": 1,  # for one that does not
    "cancelled": 1,  # before it is due
    "dies": 1,  # told not to be tried again
}
"""Of a hundred jobs."""
_KINDS = [kind for kind, share in SHARES.items() for _ in range(share)]
DELIVERIES = {"fails": 2, "waits": 2, "times_out": 2, "cancelled": 0}
"""How often each kind arrives, where nothing is broken; the others once."""
IN_BULK = frozenset({"plain", "slow", "delayed", "fails", "urgent", "serial", "tight", "dies"})
LANES = 10
EVENT_OF = {"cancelled": "soak/cancelled"}

STEPS = ("reserve", "pack", "send", "first", "note")
"""Of an order, and of the two runs that come of it."""
RUNS = ("order", "child", "received")


def kind(number: int) -> str:
    """Of a job. Neighbours are of different kinds."""
    return _KINDS[number * 37 % 100]


def deliveries(number: int) -> int:
    """How often a job must arrive, no more and no less."""
    return DELIVERIES.get(kind(number), 1)


def delay(number: int) -> float:
    """Seconds from sending a job until it is due."""
    return 1.0 + number % 30 if kind(number) == "delayed" else 0.0


def lane(number: int) -> int:
    """Of a serial job. In each the numbers rise."""
    return number // 100 % LANES


def recalled(number: int) -> bool:
    """Whether an order is cancelled before it begins."""
    return number % 50 == 49


def unpaid(number: int) -> bool:
    """Whether an order waits in vain."""
    return number % 20 == 7


def stumbles(number: int) -> bool:
    """Whether an order's packing fails the first time."""
    return number % 33 == 5


def bodies(number: int, step: str) -> int:
    """How often a step's body must run."""
    if recalled(number):
        return 0
    return 2 if step == "pack" and stumbles(number) else 1
