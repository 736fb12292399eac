"""Which fault comes when: made from a seed, before the run begins, so that a run can be had again."""

from __future__ import annotations

import random as randomness
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = {
    # what: (seconds at least, at most); 0 is a moment. In units of the lease where `LEASES` says so.
    "daemon_kill": (0.2, 2.0),  # kill -9; started again after so long
    "daemon_freeze": (2.0, 2.2),  # SIGSTOP, then SIGCONT
    "daemon_stall": (1.3, 1.6),  # its event loop stands still
    "daemon_term": (0.2, 1.0),  # SIGTERM while deliveries run; started again once it has ended, and after so long
    "pg_restart": (0.0, 1.0),  # immediate: a crash
    "pg_backend_kill": (0.0, 0.0),  # kill -9 of one of its processes: Postgres ends all sessions, and recovers
    "pg_terminate": (0.0, 0.0),  # pg_terminate_backend of each of the daemons' connections
    "pg_crowded": (1.5, 3.0),  # others hold every connection that it has
    "pg_disk_full": (2.5, 5.0),  # not a byte is left under its data folder
    "pg_readonly": (1.0, 3.0),  # as after a failover
    "pg_delay": (2.0, 4.0),  # from here on on the wire between one daemon and Postgres
    "pg_cut": (0.0, 0.0),
    "pg_silence": (1.2, 1.6),
    "pg_hold": (1.3, 1.6),  # what is sent arrives long after the lease is over
    "pg_bytes": (1.0, 3.0),  # each connection is cut after so many bytes
    "pg_swallow": (1.0, 3.0),  # cut between COMMIT and its answer
    "producer_swallow": (1.0, 3.0),  # the same on the producer's wire: it cannot know what became of its job
    "http_delay": (1.0, 3.0),  # on the wires to the endpoint and to the app
    "http_cut": (0.0, 0.0),
    "http_silence": (1.0, 3.0),
    "http_bytes": (1.0, 3.0),
    "app_kill": (0.1, 1.0),  # kill -9 of the app of durable functions
    "clock_jump": (2.0, 4.0),  # a daemon's wall clock is an hour ahead, then an hour behind, then right
    "vacuum_held": (4.0, 8.0),  # a transaction is open: nothing that has gone since can be cleaned up
}
LEASES = frozenset({"daemon_freeze", "daemon_stall", "pg_silence", "pg_hold"})
PRIVILEGED = frozenset({"pg_disk_full"})
"""What only who may mount a file system can do."""


@dataclass(frozen=True)
class Fault:
    """One fault. Times are seconds from the start of the run."""

    kind: str
    at: float
    seconds: float
    target: int
    """Which daemon."""
    draw: float
    """Between 0 and 1, for what else there is to choose."""

    def as_record(self) -> dict[str, Any]:
        """For the log."""
        return asdict(self)


def schedule(
    seed: int,
    seconds: float,
    kinds: Sequence[str],
    *,
    daemons: int,
    lease: float,
    gap: tuple[float, float] = (1.0, 4.0),
    each_once: bool = False,
) -> list[Fault]:
    """Faults one after another, with some calm in between, the last one over within `seconds`.

    `each_once`: each kind once, in an order by the seed, as short as it may be, however long that takes.
    """
    random = randomness.Random(f"faults-{seed}")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"no fault is named {', '.join(unknown)}: there are {', '.join(KINDS)}")
    faults: list[Fault] = []
    bag: list[str] = []
    at = random.uniform(*gap) + 1.0
    while kinds:
        if not bag:
            if each_once and faults:
                break
            # Each kind comes up once before any comes up again.
            bag = random.sample(list(kinds), len(kinds))
        kind = bag.pop()
        low, high = KINDS[kind]
        length = (low if each_once else random.uniform(low, high)) * (lease if kind in LEASES else 1.0)
        if not each_once and at + length > seconds:
            break
        faults.append(Fault(kind, round(at, 3), round(length, 3), random.randrange(daemons), random.random()))
        at += length + random.uniform(*gap)
    return faults
