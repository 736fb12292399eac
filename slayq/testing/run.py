"""A run as the model of the server holds it: what is recorded, what is pending, when it is due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from slayq.protocol_v2 import INVOCATION_FAILED, ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from slayq.function import Function

Status = Literal["running", "done", "failed", "cancelled"]
_FIRST_BACKOFF: Final = timedelta(seconds=1)
_OWN_PREFIX: Final = "slayq:"


class NotDeterministic(AssertionError):
    """A function did not ask again for a step that it has taken: what it does depends on more than data and steps."""


@dataclass(slots=True)
class Pending:
    """A step without an outcome. `due`: when its sleep, its time-out or its retry is up; None: never."""

    kind: str
    due: datetime | None = None
    event: str | None = None
    key: str | None = None
    value: Any = None
    attempts: int = 0
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step as tests see it. `output` is JSON; `attempts` counts the failures of its body."""

    name: str
    kind: str
    state: str
    output: Any = None
    error: ErrorRecord | None = None
    attempts: int = 0


class Run:
    """A run of a function. `Engine.start` makes them."""

    def __init__(self, id: UUID, function: Function[Any, Any], data: dict[str, Any], now: datetime) -> None:
        self.id = id
        self.function = function
        self.data = data
        self.created_at = now
        self.status: Status = "running"
        self.attempt = 1
        self.output: Any = None
        """What the function returned, as JSON."""
        self.error: ErrorRecord | None = None
        """Why it failed for good, or last failed."""
        self.segments = 0
        """How often the function was called."""
        self.due: datetime | None = now
        """When it is to be called again; None: when a pending step has an outcome."""
        self.recorded: dict[str, dict[str, Any]] = {}
        self.pending: dict[str, Pending] = {}
        self.taken: set[int] = set()
        """The numbers of the events that its waits have taken: they count for no later wait."""

    @property
    def max_attempts(self) -> int:
        """How many attempts the function has."""
        return self.function.retries + 1

    @property
    def ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.status != "running"

    @property
    def result(self) -> Any:
        """What the function returned, as its annotation says. Raises AssertionError if it did not return."""
        if self.status != "done":
            raise AssertionError(f"the run has no result: {self.describe()}")
        return self.function.output.load(self.output)

    @property
    def steps(self) -> list[StepView]:
        """All steps: those with an outcome first, in the order of their outcomes."""
        return [view for view in self._views() if not view.name.startswith(_OWN_PREFIX)]

    def step(self, name: str) -> StepView:
        """The step of that name. Raises AssertionError if there is none (yet)."""
        for view in self.steps:
            if view.name == name:
                return view
        names = ", ".join(view.name for view in self.steps) or "none"
        raise AssertionError(f"the run has no step {name!r}; it has {names}")

    def describe(self) -> str:
        """How it stands, in words."""
        if self.status == "failed" and self.error is not None:
            return f"it failed with {self.error.type}: {self.error.message}\n{self.error.trace or ''}"
        if self.ended:
            return f"it is {self.status}"
        waiting = [f"{name} ({pending.kind})" for name, pending in self.pending.items()]
        return f"it waits for {', '.join(waiting) or 'its next attempt'}"

    def _views(self) -> Iterator[StepView]:
        for name, step in self.recorded.items():
            error = None if "error" not in step else _error(step["error"])
            yield StepView(name, step["kind"], step["state"], step.get("output"), error, step.get("attempts", 0))
        for name, pending in self.pending.items():
            error = None if pending.error is None else _error(pending.error)
            yield StepView(name, pending.kind, "pending", None, error, pending.attempts)

    # What the model does

    def wire_steps(self, now: datetime) -> list[dict[str, Any]]:
        """The steps as they go over the wire."""
        steps = [{"name": name, **step} for name, step in self.recorded.items()]
        for name, pending in self.pending.items():
            step: dict[str, Any] = {"name": name, "kind": pending.kind, "state": "pending"}
            if pending.kind == "run":
                left = (pending.due - now).total_seconds() * 1000 if pending.due else 0
                step |= {"attempts": pending.attempts, "error": pending.error, "retry_in_ms": round(left)}
            steps.append(step)
        return steps

    def record(self, name: str, kind: str, state: str = "done", **members: Any) -> None:
        """Give a step its outcome."""
        before = self.pending.pop(name, None)
        attempts = {"attempts": before.attempts} if before is not None and before.attempts else {}
        self.recorded[name] = {"kind": kind, "state": state, **attempts, **members}

    def wake(self, name: str, now: datetime, state: str = "done", **members: Any) -> None:
        """Give a pending step its outcome, and have the function called."""
        self.record(name, self.pending[name].kind, state, **members)
        self.due = now

    def next_due(self) -> datetime | None:
        """When something is to happen by itself."""
        times = [self.due, *(pending.due for pending in self.pending.values())] if not self.ended else []
        return min((time for time in times if time is not None), default=None)

    def pass_time(self, now: datetime) -> None:
        """Resolve what is due."""
        for name, pending in list(self.pending.items()):
            if pending.due is None or pending.due > now:
                continue
            if pending.kind == "run":
                self.due = min(self.due or now, now)
                pending.due = None
            elif pending.kind == "sleep":
                self.wake(name, now, output=None)
            else:
                self.wake(name, now, "timed_out")

    def end(self, status: Status) -> None:
        """Nothing happens to it any more."""
        self.status = status
        self.due = None
        self.pending.clear()

    def fail(self, error: dict[str, Any], *, retry: bool, after: float | None, now: datetime) -> None:
        """An attempt has failed."""
        self.error = _error(error)
        if not retry or self.attempt >= self.max_attempts:
            self.end("failed")
            return
        delay = _FIRST_BACKOFF * 2 ** min(self.attempt - 1, 16) if after is None else timedelta(seconds=after)
        self.attempt += 1
        self.due = now + delay

    def invocation_failure(self) -> dict[str, Any]:
        """What the run that invoked this one is told."""
        message = "the invoked run was cancelled" if self.error is None else f"{self.error.type}: {self.error.message}"
        return {"type": INVOCATION_FAILED, "message": message}


def _error(error: dict[str, Any]) -> ErrorRecord:
    return ErrorRecord(error["type"], error["message"], error.get("trace"))
