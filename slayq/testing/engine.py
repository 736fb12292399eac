"""The engine of tests: a model of the server, which calls functions by the protocol, on a virtual clock."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from slayq.background import background
from slayq.client import SlayQ
from slayq.codec import settled_output
from slayq.drivers import OutgoingEvent
from slayq.duration import seconds_of
from slayq.events import event_from
from slayq.function import Function
from slayq.protocol_v2 import parse_request
from slayq.receiver import OpStream
from slayq.segment.failure import record_of
from slayq.segment.runner import Runner
from slayq.testing.run import NotDeterministic, Pending, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pydantic import BaseModel

    from slayq.events import Sendable

_OPS: Final = 1000
_ONE_STEP: Final = 4
"""The limit of ops with which a segment takes one step: hello, the op, and room for the end."""
_MOST_SEGMENTS: Final = 10_000
_URL: Final = "https://app.test/slayq"


@dataclass(frozen=True, slots=True)
class _Sent:
    """An event that happened."""

    number: int
    event: OutgoingEvent


class Engine:
    """Runs the functions of an app. Nothing happens but by its methods, and time passes only with `advance`."""

    def __init__(
        self,
        functions: SlayQ | Iterable[Function[Any, Any]],
        *,
        now: datetime | None = None,
        replay_every_step: bool = False,
    ) -> None:
        """
        Args:
            functions: an app, or some functions.
            now: what the virtual clock begins with, with a time zone; without it, the time of day.
            replay_every_step: call the function anew after each step, as if the app were started anew each time, and
                raise NotDeterministic when it does not ask for all of the steps that it has taken.
        """
        if now is not None and now.tzinfo is None:
            raise ValueError(f"now={now.isoformat()} has no time zone: pass an aware datetime, such as in UTC")
        made = functions.functions.values() if isinstance(functions, SlayQ) else functions
        self._functions = {function.event.name: function for function in made}
        self.now = datetime.now(UTC) if now is None else now
        self._replay = replay_every_step
        self._stubs: dict[str, deque[Any]] = {}
        self._happened: list[_Sent] = []
        self._created_after: dict[UUID, int] = {}
        self._invokers: dict[UUID, tuple[Run, str]] = {}
        self._ids: dict[str, Run] = {}
        self._later: list[tuple[datetime, OutgoingEvent]] = []
        self.runs: list[Run] = []
        """All runs, in the order of their creation."""
        self.sent: list[OutgoingEvent] = []
        """The events that functions have sent."""

    # What tests do

    def stub(self, step: str, *outcomes: Any) -> None:
        """Have the steps of that name come out like this instead of running a body or invoking a function.

        The outcomes are taken in turn, and the last one again and again; an exception, or a class of them, is raised.
        What a body's stub gives must fit the body's return annotation.
        """
        if not outcomes:
            raise ValueError("a stub needs at least one outcome: a value, or an exception to raise")
        self._stubs[step] = deque(outcomes)

    async def start(
        self,
        what: Function[Any, Any] | Sendable | str,
        data: Mapping[str, Any] | BaseModel | None = None,
    ) -> Run:
        """Create a run and take it as far as it goes: of a function and its data, or of an event."""
        event = event_from(what.event.name, data or {}) if isinstance(what, Function) else event_from(what, data)
        if event.event not in self._functions:
            raise AssertionError(f"no function has the event {event.event!r}: the engine knows {list(self._functions)}")
        run = self._deliver(event)
        assert run is not None
        await self._settle()
        return run

    async def send(self, event: Sendable | str, data: Mapping[str, Any] | BaseModel | None = None) -> Run | None:
        """Send an event: it cancels, ends waits and starts a run, which is returned, as the server would have it."""
        run = self._deliver(event_from(event, data))
        await self._settle()
        return run

    async def advance(self, by: timedelta | str) -> None:
        """Let time pass, and do what becomes due, in its order."""
        target = self.now + timedelta(seconds=seconds_of(by))
        while (due := self._next_due()) is not None and due <= target:
            self.now = max(self.now, due)
            await self._settle()
        self.now = target

    async def finish(self, run: Run) -> Run:
        """Let time pass until the run ends. Raises AssertionError if it waits for something that only a test can do."""
        while not run.ended:
            due = self._next_due()
            if due is None:
                raise AssertionError(f"the run does not end by itself: {run.describe()}")
            self.now = max(self.now, due)
            await self._settle()
        return run

    async def cancel(self, run: Run) -> bool:
        """Cancel a run. False: it has ended."""
        if run.ended:
            return False
        self._end(run, "cancelled")
        await self._settle()
        return True

    # Events

    def _deliver(self, event: OutgoingEvent) -> Run | None:
        if event.run_at is not None and event.run_at > self.now and event.event not in self._functions:
            self._later.append((event.run_at, event))
            return None
        if event.id is not None and event.id in self._ids:
            return self._ids[event.id]
        data = json.loads(json.dumps(event.data))
        alive = [run for run in self.runs if not run.ended]
        for run in alive:
            if any(_matches(match.event.name, match.key, run.data, event) for match in run.function.cancel_on):
                self._end(run, "cancelled")
        self._happened.append(_Sent(len(self._happened), event))
        for run in alive:
            for name, pending in list(run.pending.items()):
                if pending.kind == "wait" and _meets(pending, event):
                    run.taken.add(self._happened[-1].number)
                    run.wake(name, self.now, output=data)
        return self._create(event, data)

    def _create(self, event: OutgoingEvent, data: dict[str, Any]) -> Run | None:
        function = self._functions.get(event.event)
        if function is None:
            return None
        run = Run(uuid4(), function, data, self.now)
        run.due = self.now if event.run_at is None else max(event.run_at, self.now)
        self.runs.append(run)
        self._created_after[run.id] = len(self._happened)
        if event.id is not None:
            self._ids[event.id] = run
        return run

    # Time

    def _next_due(self) -> datetime | None:
        times = [run.next_due() for run in self.runs] + [when for when, _ in self._later]
        return min((each for each in times if each is not None), default=None)

    async def _settle(self) -> None:
        """Do all that is due now."""
        for _ in range(_MOST_SEGMENTS):
            for when, event in [each for each in self._later if each[0] <= self.now]:
                self._later.remove((when, event))
                self._deliver(event)
            for run in self.runs:
                run.pass_time(self.now)
            due = [run for run in self.runs if not run.ended and run.due is not None and run.due <= self.now]
            if not due:
                return
            await self._segment(due[0])
        raise AssertionError(f"something goes round in circles: {_MOST_SEGMENTS} segments without time passing")

    # Segments

    async def _segment(self, run: Run) -> None:
        run.due = None
        run.segments += 1
        token = f"{run.id}.{run.segments}"
        recorded = set(run.recorded)
        segment = parse_request(self._request(run, token))
        runner: list[Runner] = []

        def start() -> Runner:
            runner.append(Runner(run.function, segment, stand_in=self._stand_in))
            return runner[0]

        ops = [json.loads(line) async for line in OpStream(start) if line.strip()]
        assert ops[0] == {**ops[0], "op": "hello", "lease": token}, "the answer does not begin with hello"
        for op in ops[1:]:
            if run.ended:
                return  # cancelled by an event that it sent
            getattr(self, f"_on_{op['op']}")(run, op)
        if self._replay and ops[-1]["op"] in ("suspend", "done"):
            _check_replay(run, recorded - runner[0].asked)

    def _request(self, run: Run, token: str) -> bytes:
        deadline = time.time() * 1000 + 300_000
        request = {
            "v": 2,
            "audience": _URL,
            "lease": {"token": token, "deadline": deadline},
            "run": {
                "id": str(run.id),
                "event": run.function.event.name,
                "data": run.data,
                "attempt": run.attempt,
                "max_attempts": run.max_attempts,
                "created_at": run.created_at.isoformat(),
            },
            "steps": run.wire_steps(self.now),
            "limits": {"ops": _ONE_STEP if self._replay else _OPS},
        }
        return json.dumps(request).encode()

    def _stand_in(self, step: str) -> Callable[[], Any] | None:
        outcomes = self._stubs.get(step)
        return None if outcomes is None else partial(_come_out, outcomes)

    # Ops

    def _on_step(self, run: Run, op: dict[str, Any]) -> None:
        run.record(op["name"], "run", output=op["output"])

    def _on_step_failed(self, run: Run, op: dict[str, Any]) -> None:
        name, error = op["name"], op["error"]
        if op["final"]:
            run.record(name, "run", "failed", error=error)
            run.recorded[name]["attempts"] = op["attempt"]
            return
        after = op.get("retry_after")
        due = None if after is None else self.now + timedelta(seconds=after)
        run.pending[name] = Pending("run", due, attempts=op["attempt"], error=error)

    def _on_send(self, run: Run, op: dict[str, Any]) -> None:
        events = [_received(event) for event in op["events"]]
        self.sent += events
        started = [self._deliver(event) for event in events]
        run.record(op["name"], "send", output=[None if each is None else str(each.id) for each in started])

    def _on_sleep(self, run: Run, op: dict[str, Any]) -> None:
        until = datetime.fromisoformat(op["until"]) if "until" in op else self.now + timedelta(milliseconds=op["ms"])
        run.pending[op["name"]] = Pending("sleep", until)

    def _on_wait(self, run: Run, op: dict[str, Any]) -> None:
        match = op["match"]
        pending = Pending("wait", self._time_out(op), op["event"], match["key"], match["value"])
        run.pending[op["name"]] = pending
        for sent in self._happened[self._created_after[run.id] :]:
            if sent.number not in run.taken and _meets(pending, sent.event):
                run.taken.add(sent.number)
                run.wake(op["name"], self.now, output=json.loads(json.dumps(sent.event.data)))
                return

    def _on_invoke(self, run: Run, op: dict[str, Any]) -> None:
        name = op["name"]
        run.pending[name] = Pending("invoke", self._time_out(op), op["event"])
        if name in self._stubs:
            self._stub_invocation(run, name)
            return
        callee = self._create(event_from(op["event"], op["data"]), op["data"])
        if callee is not None:
            self._invokers[callee.id] = (run, name)

    def _stub_invocation(self, run: Run, name: str) -> None:
        function = self._functions.get(run.pending[name].event or "")
        try:
            value = _come_out(self._stubs[name])
        except Exception as error:
            run.wake(name, self.now, "failed", error=record_of(error).wire())
            return
        output = value if function is None else settled_output(function.output, value, f"the stub of {name!r}")[0]
        run.wake(name, self.now, output=output)

    def _on_suspend(self, run: Run, _op: dict[str, Any]) -> None:
        if not any(pending.kind == "run" and pending.due is None for pending in run.pending.values()):
            run.attempt = 1
        if not run.pending:
            run.due = self.now

    def _on_done(self, run: Run, op: dict[str, Any]) -> None:
        run.output = op["output"]
        run.error = None
        self._end(run, "done")

    def _on_failed(self, run: Run, op: dict[str, Any]) -> None:
        run.fail(op["error"], retry=op["retry"], after=op.get("retry_after"), now=self.now)
        if run.ended:
            self._end(run, "failed")

    def _end(self, run: Run, status: Any) -> None:
        run.end(status)
        invoker, name = self._invokers.pop(run.id, (None, ""))
        if invoker is None or invoker.ended or name not in invoker.pending:
            return
        if status == "done":
            invoker.wake(name, self.now, output=run.output)
        else:
            invoker.wake(name, self.now, "failed", error=run.invocation_failure())

    def _time_out(self, op: dict[str, Any]) -> datetime | None:
        return None if "timeout_ms" not in op else self.now + timedelta(milliseconds=op["timeout_ms"])


class SyncEngine:
    """`Engine`, for tests that are not async. Functions run in a loop in the background."""

    def __init__(
        self,
        functions: SlayQ | Iterable[Function[Any, Any]],
        *,
        now: datetime | None = None,
        replay_every_step: bool = False,
    ) -> None:
        """As `Engine`."""
        self.engine = Engine(functions, now=now, replay_every_step=replay_every_step)

    @property
    def now(self) -> datetime:
        """The virtual clock."""
        return self.engine.now

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their creation."""
        return self.engine.runs

    @property
    def sent(self) -> list[OutgoingEvent]:
        """The events that functions have sent."""
        return self.engine.sent

    def stub(self, step: str, *outcomes: Any) -> None:
        """As `Engine.stub`."""
        self.engine.stub(step, *outcomes)

    def start(
        self,
        what: Function[Any, Any] | Sendable | str,
        data: Mapping[str, Any] | BaseModel | None = None,
    ) -> Run:
        """As `Engine.start`."""
        return background.run(self.engine.start(what, data))

    def send(self, event: Sendable | str, data: Mapping[str, Any] | BaseModel | None = None) -> Run | None:
        """As `Engine.send`."""
        return background.run(self.engine.send(event, data))

    def advance(self, by: timedelta | str) -> None:
        """As `Engine.advance`."""
        background.run(self.engine.advance(by))

    def finish(self, run: Run) -> Run:
        """As `Engine.finish`."""
        return background.run(self.engine.finish(run))

    def cancel(self, run: Run) -> bool:
        """As `Engine.cancel`."""
        return background.run(self.engine.cancel(run))


def _come_out(outcomes: deque[Any]) -> Any:
    outcome = outcomes[0] if len(outcomes) == 1 else outcomes.popleft()
    if isinstance(outcome, BaseException) or (isinstance(outcome, type) and issubclass(outcome, BaseException)):
        raise outcome
    return outcome


def _matches(event: str, key: str, data: dict[str, Any], sent: OutgoingEvent) -> bool:
    return event == sent.event and key in data and key in sent.data and _printed(data[key]) == _printed(sent.data[key])


def _meets(pending: Pending, sent: OutgoingEvent) -> bool:
    return (
        pending.event == sent.event
        and pending.key in sent.data
        and _printed(pending.value) == _printed(sent.data[pending.key or ""])
    )


def _printed(value: Any) -> str:
    """A scalar as JavaScript prints it, near enough for keys."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _received(event: dict[str, Any]) -> OutgoingEvent:
    """An event, from its form on the wire."""
    run_at = event.get("run_at")
    when = None if run_at is None else datetime.fromisoformat(run_at)
    return OutgoingEvent(**{**event, "run_at": when})


def _check_replay(run: Run, missing: set[str]) -> None:
    names = ", ".join(sorted(name for name in missing if not name.startswith("slayq:")))
    if names:
        raise NotDeterministic(
            f"function {run.function.name!r} has taken the steps {names}, and did not ask for them when it was called"
            f" again: let it decide by its data and the outcomes of its steps alone, not by time, chance or globals"
        )
