"""The rules of durable runs (protocol v2) in memory: runs, steps, events and letters as they must be after a call.

Times are not modelled but for their kind: come, or not yet. What is before what is told by a count of the calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PLACED, RENDER, PAID, CANCELLED = "shop/placed", "shop/render", "shop/paid", "shop/cancelled"
MAX_ATTEMPTS = {PLACED: 3, RENDER: 26}
DELIVERY_BUDGET = 25


@dataclass
class Step:
    """A row of slayq.step."""

    name: str
    kind: str
    state: str
    number: int | None = None
    """Which outcome it was, of all."""
    value: Any = None
    """Its output, or its error."""
    attempts: int = 0
    due: int | None = None
    """The call at which its time came; None: not yet, or it has none."""
    ends: bool = False
    """It ends by itself some day."""
    order: int | None = None
    """What a wait waits for."""
    callee: str | None = None
    event: int | None = None
    """The event that a wait took."""
    blamed: bool = False
    lease: int | None = None


@dataclass
class Run:
    """A row of slayq.job, or of slayq.dead_letter."""

    id: int
    run: str
    event: str
    order: int
    created: int
    state: str
    due: bool
    attempts: int = 0
    failures: int = 0
    """Deliveries in a row that came to nothing."""
    lease: int = 0
    worker: int | None = None
    parked: bool = False
    cancelled: bool = False
    reason: str | None = None
    """Why it is a dead letter."""
    steps: dict[str, Step] = field(default_factory=dict)

    def pending(self, *kinds: str) -> list[Step]:
        return [step for step in self.steps.values() if step.state == "pending" and (not kinds or step.kind in kinds)]

    @property
    def seen(self) -> int:
        return max((step.number or 0 for step in self.steps.values()), default=0)


@dataclass
class Event:
    """A row of slayq.event: an event that some wait for, or the end of a callee."""

    id: int
    made: int
    order: int | None = None
    callee: str | None = None
    failed: bool = False
    value: Any = None
    matched: bool = False


@dataclass
class Runs:
    """The tables."""

    live: dict[int, Run] = field(default_factory=dict)
    letters: dict[int, Run] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ids: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """What was sent under the ids that senders gave: (event, run)."""
    ended: dict[int, str] = field(default_factory=dict)
    calls: int = 0
    numbers: int = 0
    """Of outcomes and of events, so far."""

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def all(self) -> list[Run]:
        return [*self.live.values(), *self.letters.values()]

    def invokers(self, callee: str) -> list[Step]:
        return [step for run in self.all() for step in run.pending("invoke") if step.callee == callee]

    # Ends

    def _gone(self, run: Run, how: str) -> None:
        """A row of slayq.job is deleted."""
        del self.live[run.id]
        if how == "dead":
            run.state, run.worker, run.parked = "dead", None, False
            self.letters[run.id] = run
        else:
            self.ended[run.id] = how
        told = any(not event.matched and event.callee == run.run for event in self.events)
        if self.invokers(run.run) and not told:
            self.events.append(Event(self.number(), self.calls, callee=run.run, failed=True))

    def bury(self, run: Run, reason: str) -> None:
        run.reason = reason
        self._gone(run, "dead")

    # Sending

    def send(self, event: str, order: int, made: tuple[int, str] | None, due: bool = True) -> None:
        """An event that made the run (job id, run id)."""
        if event == CANCELLED:
            for run in list(self.live.values()):
                if run.event == PLACED and run.order == order:
                    self.cancel(run)
        elif event == PAID:
            self.events.append(Event(self.number(), self.calls, order=order, value={"order": order}))
        else:
            assert made is not None
            self.create(event, order, made, due=due)

    def create(self, event: str, order: int, made: tuple[int, str], *, due: bool = True) -> None:
        job_id, run_id = made
        assert job_id not in self.live
        assert job_id not in self.letters
        assert job_id not in self.ended
        self.live[job_id] = Run(job_id, run_id, event, order, self.calls, "ready" if due else "scheduled", due=due)

    def cancel(self, run: Run) -> None:
        if run.state == "leased":
            run.cancelled = True
        else:
            self._gone(run, "cancelled")

    # Delivering

    def lease(self, worker: int, taken: list[int]) -> None:
        for job_id in taken:
            run = self.live[job_id]
            run.state, run.worker = "leased", worker
            run.lease += 1
            run.attempts += 1

    def step(self, run: Run, name: str, value: Any) -> None:
        step = run.steps.setdefault(name, Step(name, "run", "pending"))
        step.state, step.number, step.value, step.due, step.ends = "done", self.number(), value, None, False

    def step_failed(self, run: Run, name: str, value: Any, attempt: int, *, final: bool) -> None:
        step = run.steps.setdefault(name, Step(name, "run", "pending"))
        step.state, step.value, step.attempts = "failed" if final else "pending", value, max(step.attempts, attempt)
        step.number = self.number() if final else None
        step.due, step.ends = None, not final

    def sleep(self, run: Run, name: str) -> None:
        run.steps[name] = Step(name, "sleep", "pending", ends=True)

    def _first_event(self, run: Run, order: int | None) -> Event | None:
        """The first that a wait of a run may take."""
        taken = {step.event for step in run.steps.values()}
        fitting = (e for e in self.events if e.order is not None and e.order == order and e.made >= run.created)
        return next((event for event in fitting if event.id not in taken), None)

    def wait(self, run: Run, name: str, order: int, *, ends: bool) -> bool:
        """False: refused."""
        if run.event != PLACED:
            return False
        step = run.steps[name] = Step(name, "wait", "pending", order=order, ends=ends, lease=run.lease)
        event = self._first_event(run, order)
        if event is not None:
            self._take(step, event)
        return True

    def invoke(self, run: Run, name: str, callee: str, *, ends: bool) -> None:
        run.steps[name] = Step(name, "invoke", "pending", callee=callee, ends=ends, lease=run.lease)

    def sent(self, run: Run, name: str, runs: list[str | None]) -> None:
        run.steps[name] = Step(name, "send", "done", self.number(), runs, lease=run.lease)

    def _take(self, step: Step, event: Event) -> None:
        step.state, step.number, step.value = "failed" if event.failed else "done", self.number(), event.value
        step.event = event.id if event.order is not None else None

    def end(self, run: Run, how: str, seen: int, value: Any = None) -> None:
        """How a segment ended that has told all it had."""
        if how == "done":
            if self.invokers(run.run):
                self.events.append(Event(self.number(), self.calls, callee=run.run, value=value))
            self._gone(run, "done")
            return
        if how == "dead":
            self.bury(run, "attempts-exhausted")
            for name in value or []:
                if run.steps[name].state == "failed":
                    run.steps[name].blamed = True
            return
        run.worker = None
        if how == "suspended":
            fresh = any(s.kind in ("sleep", "wait", "invoke") and (s.number or 0) > seen for s in run.steps.values())
            at_once = fresh or not run.pending()
            run.state, run.parked, run.failures = "ready" if at_once else "scheduled", not at_once, 0
            run.attempts = run.attempts - 1 if run.pending("run") else 0
            run.due = at_once or any(step.due is not None for step in run.pending())
            return
        run.parked = False
        run.state = "ready" if how == "released" else "scheduled"
        run.due = run.due if how == "released" else False
        if how == "undelivered":
            run.failures += 1
        if how == "retried":
            run.failures = 0
        else:
            run.attempts -= 1

    def reap(self, dead_workers: set[int]) -> dict[int, str]:
        fates = {}
        for run in [run for run in self.live.values() if run.worker in dead_workers]:
            if run.cancelled:
                fates[run.id] = "dropped"
                self._gone(run, "cancelled")
            elif run.failures + 1 >= DELIVERY_BUDGET:
                fates[run.id] = "dead"
                self.bury(run, "lease-lost")
            else:
                fates[run.id] = "ready"
                run.state, run.worker = "ready", None
                run.attempts -= 1
                run.failures += 1
        return fates

    # What is waited for

    def match(self) -> None:
        """Events go to those who wait for them, in the order in which they came: to one wait of each run."""
        for event in [event for event in self.events if not event.matched]:
            for run in self.all():
                waiting = [
                    step
                    for step in run.pending("wait", "invoke")
                    if (step.order, step.callee) == (event.order, event.callee)
                    and (event.order is None or event.made >= run.created)
                ]
                if event.order is not None and any(step.event == event.id for step in run.steps.values()):
                    waiting = []
                for step in waiting[:1]:
                    self._take(step, event)
                    if run.state == "scheduled" and run.parked:
                        run.state, run.parked, run.due = "ready", False, True
            event.matched = True
        self.events = [event for event in self.events if event.callee is None]

    def time_passes(self, run: Run) -> None:
        """All that ends by itself does, as does a back-off."""
        for step in run.pending():
            if step.ends and step.due is None:
                step.due = self.calls
        if run.state == "scheduled" and (not run.parked or any(step.ends for step in run.pending())):
            run.due = True

    def promote(self) -> None:
        for run in self.live.values():
            if run.state != "scheduled" or not run.due:
                continue
            run.state, run.parked = "ready", False
            expired = [step for step in run.pending("sleep", "wait", "invoke") if step.due is not None]
            for step in sorted(expired, key=lambda step: (step.due or 0, step.name)):
                self._expire(run, step)

    def _expire(self, run: Run, step: Step) -> None:
        event = None
        if step.kind == "wait":
            event = self._first_event(run, step.order)
        elif step.kind == "invoke":
            event = next((event for event in self.events if event.callee == step.callee), None)
        if event is not None and event.made <= (step.due or 0):
            self._take(step, event)
        else:
            step.state, step.number = "done" if step.kind == "sleep" else "timed_out", self.number()

    # Putting back

    def redrive(self, run: Run) -> None:
        del self.letters[run.id]
        run.reason, run.state, run.due, run.attempts, run.failures = None, "ready", True, 0, 0
        run.steps = {name: step for name, step in run.steps.items() if not step.blamed}
        self.live[run.id] = run

    def purge(self, run: Run) -> None:
        del self.letters[run.id]
        self.ended[run.id] = "purged"
