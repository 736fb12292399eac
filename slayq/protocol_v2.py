"""Protocol v2's names, limits and requests: one signed request a segment of a run, answered by a stream of ops.

A request holds what the run has recorded; the answer is one JSON object a line, `Op.HELLO` first, a terminal op last.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NoReturn
from uuid import UUID

from slayq.errors import BadRequest

VERSION: Final = 2
PROTOCOL_HEADER: Final = "x-slayq-protocol"
CONTENT_TYPE: Final = "application/vnd.slayq.ops+ndjson"
KEEP_ALIVE_SECONDS: Final = 15.0
"""How long an answer may be silent: then comes an empty line, for the sake of proxies. See `keep_alive_of`."""

LINE_BYTES: Final = 1_048_576
"""The most bytes of a line of the answer, its line feed included, where the request does not say."""
OPS: Final = 1000
"""The most ops of an answer, hello and the terminal one included, where the request does not say."""
REQUEST_BYTES: Final = 64 * 1_048_576
"""The most bytes of a request that a receiver reads."""
SENT_EVENTS: Final = 1000
"""The most events of one send."""
NAME_CHARACTERS: Final = 512
"""The longest name of a step or an event."""
APP_CHARACTERS: Final = 128
"""The longest name of an app."""
FUNCTIONS: Final = 1000
"""The most functions of a manifest."""
TRACE_CHARACTERS: Final = 8_000
"""The longest trace of an error that the SDK sends."""

INVOCATION_FAILED: Final = "InvocationFailed"
"""The error type of an invoke step whose callee died or was cancelled."""

EVENTS_PATH: Final = "/v2/events"
FUNCTIONS_PATH: Final = "/v2/functions"
CANCEL_PATH: Final = "/v2/cancel"


class Op(StrEnum):
    """What a line of the answer says."""

    HELLO = "hello"
    STEP = "step"
    STEP_FAILED = "step_failed"
    SEND = "send"
    SLEEP = "sleep"
    WAIT = "wait"
    INVOKE = "invoke"
    SUSPEND = "suspend"
    DONE = "done"
    FAILED = "failed"


TERMINAL: Final = frozenset({Op.SUSPEND, Op.DONE, Op.FAILED})


class StepKind(StrEnum):
    """What sort of step a record is of."""

    RUN = "run"
    SEND = "send"
    SLEEP = "sleep"
    WAIT = "wait"
    INVOKE = "invoke"


class StepState(StrEnum):
    """What a record says of its step."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error as it goes over the wire: the name of its class, what it said, its traceback."""

    type: str
    message: str
    trace: str | None = None

    def wire(self) -> dict[str, Any]:
        """The error as an object of the protocol."""
        trace = {} if self.trace is None else {"trace": self.trace}
        return {"type": self.type, "message": self.message, **trace}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the server has recorded of a step.

    `output` counts for state done, `error` for failed and for pending run steps, `attempts` (failures so far) for run
    steps, `retry_in_ms` for pending run steps: 0 or less means that it is to run again now.
    """

    name: str
    kind: StepKind
    state: StepState
    output: Any = None
    error: ErrorRecord | None = None
    attempts: int = 0
    retry_in_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The run that a segment is of. `attempt` counts the function's attempts from 1."""

    id: UUID
    event: str
    data: dict[str, Any]
    attempt: int
    max_attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an answer may say."""

    line_bytes: int = LINE_BYTES
    ops: int = OPS


@dataclass(frozen=True, slots=True)
class Segment:
    """A request: take this run as far as it goes. `deadline_ms` is in milliseconds since 1970."""

    audience: str
    lease_token: str
    deadline_ms: float
    run: RunRecord
    steps: tuple[StepRecord, ...] = ()
    limits: Limits = field(default_factory=Limits)


def keep_alive_of(segment: Segment, signed_at: float, most: float = KEEP_ALIVE_SECONDS) -> float:
    """How many seconds an answer may be silent: a third of what the server waits for, and `most` at the most.

    `signed_at` is when the request was signed, in seconds since 1970. That and the deadline go by the server's clock,
    so that it does not matter what time it is here.
    """
    patience = segment.deadline_ms / 1000 - signed_at
    return min(most, patience / 3) if patience > 0 else most


def parse_request(body: bytes) -> Segment:
    """Read a request. Members that are not known are passed over. Raises BadRequest."""
    request = _Object(_read_json(body), "the request")
    version = request.value("v")
    if version != VERSION:
        raise BadRequest(f"the request is of protocol version {version!r:.40}, and this SDK speaks {VERSION}")
    lease = request.object("lease")
    return Segment(
        audience=request.text("audience"),
        lease_token=lease.text("token"),
        deadline_ms=lease.number("deadline"),
        run=_run(request.object("run")),
        steps=tuple(_step(step) for step in request.objects("steps")),
        limits=_limits(request.object("limits", optional=True)),
    )


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass  # Left first: that error carries the body.
    raise BadRequest("the request is no JSON")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class _Object:
    """A JSON object of the request, and what it is called in messages."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise BadRequest(f"{name} is no JSON object")
        self._members: dict[str, Any] = value
        self._name = name

    def value(self, key: str, default: Any = None) -> Any:
        return self._members.get(key, default)

    def object(self, key: str, *, optional: bool = False) -> _Object:
        value = self.value(key)
        return _Object({} if optional and value is None else value, self._of(key))

    def objects(self, key: str) -> list[_Object]:
        value = self.value(key, [])
        if not isinstance(value, list):
            self._refuse(key, "an array")
        return [_Object(item, f"an element of {self._of(key)}") for item in value]

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str):
            self._refuse(key, "a text")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.value(key) is None else self.text(key)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._refuse(key, "a number")
        return value

    def count(self, key: str, default: int | None = None, least: int = 0) -> int:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._refuse(key, f"a whole number from {least} up")
        return value

    def _of(self, key: str) -> str:
        return f"{key!r} of {self._name}"

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        raise BadRequest(f"{self._of(key)} is not {wanted}")


def _run(run: _Object) -> RunRecord:
    data = run.value("data")
    if not isinstance(data, dict):
        raise BadRequest("'data' of 'run' of the request is no JSON object")
    return RunRecord(
        id=_uuid(run.text("id")),
        event=run.text("event"),
        data=data,
        attempt=run.count("attempt", least=1),
        max_attempts=run.count("max_attempts", least=1),
        created_at=_instant(run.text("created_at")),
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest("the run's id is no UUID") from None


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest("the run's created_at is no ISO 8601 time") from None
    if instant.tzinfo is None:
        raise BadRequest("the run's created_at has no time zone")
    return instant


def _step(step: _Object) -> StepRecord:
    kind_text, state_text = step.text("kind"), step.text("state")
    try:
        kind, state = StepKind(kind_text), StepState(state_text)
    except ValueError:
        raise BadRequest("a step has a kind or a state that this SDK does not know: is the SDK older?") from None
    return StepRecord(
        name=step.text("name"),
        kind=kind,
        state=state,
        output=step.value("output"),
        error=None if step.value("error") is None else _error(step.object("error")),
        attempts=step.count("attempts", 0),
        retry_in_ms=None if step.value("retry_in_ms") is None else step.number("retry_in_ms"),
    )


def _error(error: _Object) -> ErrorRecord:
    return ErrorRecord(error.text("type"), error.text("message"), error.optional_text("trace"))


def _limits(limits: _Object) -> Limits:
    return Limits(line_bytes=limits.count("line_bytes", LINE_BYTES, 16_384), ops=limits.count("ops", OPS, 4))
