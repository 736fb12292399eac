"""What the daemon says of itself, and what the three health endpoints make of it. Pure.

- live: the event loop turns. Nothing else: a database that is away is no reason to kill the process.
- ready: this daemon takes and delivers jobs now.
- healthy: ready, or only kept from it by a database that has been away for less than `DATABASE_GRACE`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DATABASE_GRACE: Final = 30.0
"""Seconds that a database may be away before `/healthz` says so."""


class Health(Protocol):
    """What a probe asks for."""

    @property
    def ready(self) -> bool: ...
    @property
    def healthy(self) -> bool: ...
    def report(self, *, ok: bool) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class HealthState:
    """How the daemon is at one moment, from memory: answering a probe asks nobody."""

    database: bool
    """The last operation on the database succeeded."""
    database_down_for: float
    """Seconds since the database went away (or since the start, if it was never there); 0 while `database` is true."""
    schema: bool
    """The database's schema fits this server."""
    worker: bool
    """This daemon's worker row is held, and its trust deadline has not passed."""
    leasing: bool
    """The lease loop runs."""
    draining: bool
    """The daemon is stopping: it leases nothing new."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """More for people, as JSON values: the queues nobody serves, say. Never a secret or a connection string."""

    @property
    def ready(self) -> bool:
        """This daemon takes and delivers jobs now."""
        return self.database and self.schema and self.worker and self.leasing and not self.draining

    @property
    def healthy(self) -> bool:
        """As `ready`, but a database that is away, and what follows from that, is forgiven for `DATABASE_GRACE`."""
        return self.ready or (not self.database and self.database_down_for < DATABASE_GRACE and not self.draining)

    @property
    def checks(self) -> dict[str, bool]:
        """What must be so for it to be ready, one by one."""
        return {
            "database": self.database,
            "schema": self.schema,
            "worker": self.worker,
            "leasing": self.leasing,
            "not_draining": not self.draining,
        }

    def report(self, *, ok: bool) -> dict[str, Any]:
        """The JSON body of a probe's answer: the verdict, each check by itself, and the details."""
        return {
            "status": "ok" if ok else "unavailable",
            "checks": self.checks,
            "database_down_for_seconds": round(self.database_down_for, 1),
            "detail": dict(self.detail),
        }


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """One of several processes, as the others see it."""

    number: int
    state: HealthState | None
    """None: it does not answer, or is not there."""
    silent_for: float = 0.0
    """For how many seconds that has been so."""


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """How a server of several processes is: as well as the one that is worst off.

    A process that is missing is being started again. `/healthz` forgives it for `DATABASE_GRACE`, while another one is
    there.
    """

    processes: Sequence[ProcessHealth]

    @property
    def ready(self) -> bool:
        """All processes take and deliver jobs now."""
        return bool(self.processes) and all(each.state is not None and each.state.ready for each in self.processes)

    @property
    def healthy(self) -> bool:
        """All are well, or kept from it by what passes."""
        there = [each.state for each in self.processes if each.state is not None]
        missing = [each for each in self.processes if each.state is None]
        return (
            bool(there)
            and all(state.healthy for state in there)
            and all(each.silent_for < DATABASE_GRACE for each in missing)
        )

    def report(self, *, ok: bool) -> dict[str, Any]:
        """As that of one process: a check is passed if all have passed it. The details are those of each."""
        there = [each.state for each in self.processes if each.state is not None]
        names = there[0].checks if there else ()
        return {
            "status": "ok" if ok else "unavailable",
            "checks": {
                "processes": len(there) == len(self.processes) > 0,
                **{name: all(state.checks[name] for state in there) for name in names},
            },
            "database_down_for_seconds": round(max((state.database_down_for for state in there), default=0.0), 1),
            "detail": {"processes": [_detail(each) for each in self.processes]},
        }


def _detail(process: ProcessHealth) -> dict[str, Any]:
    if process.state is None:
        return {"process": process.number, "silent_for_seconds": round(process.silent_for, 1)}
    failed = [name for name, good in process.state.checks.items() if not good]
    return {"process": process.number, "not_so": failed, **process.state.detail}
