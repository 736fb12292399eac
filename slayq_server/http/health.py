"""What the daemon says of itself, and what the three health endpoints make of it. Pure.

- live: the event loop turns. Nothing else: a database that is away is no reason to kill the process.
- ready: this daemon takes and delivers jobs now.
- healthy: ready, or only kept from it by a database that has been away for less than `DATABASE_GRACE`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE_GRACE: Final = 30.0
"""Seconds that a database may be away before `/healthz` says so."""


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

    def report(self, *, ok: bool) -> dict[str, Any]:
        """The JSON body of a probe's answer: the verdict, each check by itself, and the details."""
        checks = {
            "database": self.database,
            "schema": self.schema,
            "worker": self.worker,
            "leasing": self.leasing,
            "not_draining": not self.draining,
        }
        return {
            "status": "ok" if ok else "unavailable",
            "checks": checks,
            "database_down_for_seconds": round(self.database_down_for, 1),
            "detail": dict(self.detail),
        }
