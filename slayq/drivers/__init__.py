"""How an app reaches the server: what every driver takes, gives and raises. Each driver is a module of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event on its way to the server. `data` is JSON already; `run_at` has a time zone.

    `id` makes it one run however often it is sent. `priority` 0 is the highest; None is the function's own.
    """

    event: str
    data: Mapping[str, Any]
    id: str | None = None
    run_at: datetime | None = None
    priority: int | None = None
    traceparent: str | None = None

    def wire(self) -> dict[str, Any]:
        """The event as an object of the protocol: what is None is left out, the time is ISO 8601."""
        run_at = None if self.run_at is None else self.run_at.isoformat()
        optional = {"id": self.id, "run_at": run_at, "priority": self.priority, "traceparent": self.traceparent}
        return {
            "event": self.event,
            "data": dict(self.data),
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class Registered:
    """What the server says to a manifest: how many functions it has now, and what it wonders about."""

    functions: int
    warnings: tuple[str, ...] = ()


@runtime_checkable
class Driver(Protocol):
    """A way to the server. It connects when it is first used, and again after `close`.

    Every method raises `slayq.errors.Unavailable` and `Unauthorized`, beside what it says.
    """

    async def send(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """Send all of them or none; the ids of the runs, in order, None where no function takes the event.

        Raises UnknownEvent and InvalidEvent.
        """
        ...

    async def cancel(self, run: UUID) -> bool:
        """Cancel a run that has not ended. False: there is none of that id (any more)."""
        ...

    async def register(self, manifest: Mapping[str, Any]) -> Registered:
        """Replace all that the server knows of the app by this manifest. Raises RegistrationFailed."""
        ...

    async def close(self) -> None:
        """Let go of connections. May be called more than once."""
        ...
