"""What an app asks over HTTP (protocol v1): from the bytes of a request's body to a checked call, and nothing else.

The texts of `payload` and `result` are cut out of the body as they are spelled, numbers, order and escapes and all: it
is what the app has signed, and Postgres keeps JSON as text. Only what Postgres could not be asked at all is refused
here (no JSON, a missing field, a wrong type, no date); all other rules are those of the SQL functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from slayq.protocol import Task
from slayq_server.protocol.js_json import (
    InvalidJson,
    Number,
    has_lone_surrogate,
    kind_of,
    object_members,
    parse,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq_server.protocol.js_json import Value


class InvalidBody(ValueError):
    """A body that does not fit its task. The message names the field and quotes no value."""


@dataclass(frozen=True, slots=True)
class AddJob:
    """`add-worker-job`. None: the server's default."""

    identifier: str
    payload: str
    """JSON text, as spelled in the body."""
    job_key: str
    queue_name: str | None = None
    run_at: datetime | None = None
    max_attempts: int | None = None
    priority: int | None = None
    flags: tuple[str, ...] | None = None
    job_key_mode: str | None = None


@dataclass(frozen=True, slots=True)
class WaitForEvent:
    """`wait-for-worker-event`."""

    job_key: str
    event: str
    match_key: str
    match_value: str
    step_name: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class WaitForInvocation:
    """`wait-for-invocation`."""

    invoker_key: str
    target_key: str
    step_name: str


@dataclass(frozen=True, slots=True)
class TriggerEvent:
    """`trigger-waiting-workers`. A value of None matches nothing."""

    event: str
    match_key: str
    match_value: str | None


@dataclass(frozen=True, slots=True)
class TriggerInvoker:
    """`trigger-waiting-invoker`."""

    job_key: str
    result: str
    """JSON text, as spelled in the body; `null` where the callee returned nothing."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """`cancel-pending-tasks`. A value of None matches nothing."""

    event: str
    match_key: str
    match_value: str | None


Call: TypeAlias = AddJob | WaitForEvent | WaitForInvocation | TriggerEvent | TriggerInvoker | Cancel


def read_call(task: Task, body: bytes) -> Call:
    """The call that a request's body makes. Fields that no task has are left alone. Raises InvalidBody."""
    return _READERS[task](_Fields(members_of(body)))


def members_of(body: bytes) -> dict[str, str]:
    """The members of a body, as they are spelled, by name. Raises InvalidBody."""
    try:
        return object_members(body.decode("utf-8"))
    except UnicodeDecodeError:
        problem = "is not UTF-8: send JSON in UTF-8, as it is, without a Content-Encoding"
    except InvalidJson as error:
        problem = f"is {error}"
    except ValueError:
        problem = "must be a JSON object with the task's fields"
    raise InvalidBody(f"the body {problem}")  # out here: those errors carry the body


class _Fields:
    """The members of a body, read by name and type."""

    def __init__(self, members: dict[str, str]) -> None:
        self._members = members

    def json(self, name: str) -> str:
        """Any JSON, as it is spelled."""
        if name not in self._members:
            raise InvalidBody(f"{name}: is missing, and has no default: send it")
        return self._members[name]

    def optional_json(self, name: str) -> str:
        return self._members.get(name, "null")

    def text(self, name: str) -> str:
        return _text(name, self._value(name))

    def optional_text(self, name: str) -> str | None:
        value = self._optional(name)
        return None if value is None else _text(name, value)

    def optional_texts(self, name: str) -> tuple[str, ...] | None:
        value = self._optional(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InvalidBody(f"{name}: must be an array of strings, not {kind_of(value)}")
        return tuple(_text(f"{name}[{index}]", item) for index, item in enumerate(value))

    def optional_integer(self, name: str) -> int | None:
        value = self._optional(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | Number):
            raise InvalidBody(f"{name}: must be a whole number, not {kind_of(value)}")
        if not isinstance(value, int):
            raise InvalidBody(f"{name}: must be a whole number: leave it out for the default")
        if not _LEAST_INTEGER <= value <= _LARGEST_INTEGER:
            raise InvalidBody(f"{name}: is out of range: leave it out for the default")
        return value

    def time(self, name: str) -> datetime:
        return _time(name, self._value(name))

    def optional_time(self, name: str) -> datetime | None:
        value = self._optional(name)
        return None if value is None else _time(name, value)

    def match_value(self, name: str) -> str:
        """A value of an event's data, as text: a number or a boolean as JavaScript prints it."""
        value = self._value(name)
        if isinstance(value, int | float | Number):
            return text_of(value)
        if not isinstance(value, str):
            raise InvalidBody(f"{name}: must be a string, a number or a boolean, not {kind_of(value)}")
        return _text(name, value)

    def nullable_match_value(self, name: str) -> str | None:
        return None if self._value(name) is None else self.match_value(name)

    def _value(self, name: str) -> Value:
        return parse(self.json(name))

    def _optional(self, name: str) -> Value:
        return parse(self.optional_json(name))


_READERS: Final[dict[Task, Callable[[_Fields], Call]]] = {
    Task.ADD_WORKER_JOB: lambda body: AddJob(
        identifier=body.text("identifier"),
        payload=body.json("payload"),
        job_key=body.text("job_key"),
        queue_name=body.optional_text("queue_name"),
        run_at=body.optional_time("run_at"),
        max_attempts=body.optional_integer("max_attempts"),
        priority=body.optional_integer("priority"),
        flags=body.optional_texts("flags"),
        job_key_mode=body.optional_text("job_key_mode"),
    ),
    Task.WAIT_FOR_WORKER_EVENT: lambda body: WaitForEvent(
        job_key=body.text("jobKey"),
        event=body.text("event"),
        match_key=body.text("matchKey"),
        match_value=body.match_value("matchValue"),
        step_name=body.text("stepName"),
        expires_at=body.time("expiresAt"),
    ),
    Task.WAIT_FOR_INVOCATION: lambda body: WaitForInvocation(
        invoker_key=body.text("invokerJobKey"),
        target_key=body.text("targetJobKey"),
        step_name=body.text("stepName"),
    ),
    Task.TRIGGER_WAITING_WORKERS: lambda body: TriggerEvent(
        event=body.text("event"),
        match_key=body.text("match"),
        match_value=body.nullable_match_value("matchVal"),
    ),
    Task.TRIGGER_WAITING_INVOKER: lambda body: TriggerInvoker(
        job_key=body.text("jobKey"),
        result=body.optional_json("result"),
    ),
    Task.CANCEL_PENDING_TASKS: lambda body: Cancel(
        event=body.text("event"),
        match_key=body.text("matchKey"),
        match_value=body.nullable_match_value("matchVal"),
    ),
}

_LEAST_INTEGER, _LARGEST_INTEGER = -(2**31), 2**31 - 1
"""Of Postgres's integer: the SQL functions say what is in range."""


def _text(name: str, value: Value) -> str:
    if not isinstance(value, str):
        raise InvalidBody(f"{name}: must be a string, not {kind_of(value)}")
    if "\0" in value or has_lone_surrogate(value):
        raise InvalidBody(f"{name}: has a NUL character or half of a surrogate pair in it, which Postgres cannot hold")
    return value


# Times

_FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
"""The day after the first, which stands for minus infinity in the driver."""
_LAST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONG_YEAR: Final = re.compile(r"([+-])([0-9]{6})(-.+)", re.ASCII | re.DOTALL)
_DATE_ALONE: Final = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", re.ASCII)
_GOOD_TIMES: Final = "write one as 2030-12-31T23:59:59.000Z, or in milliseconds since 1970"


def _time(name: str, value: Value) -> datetime:
    """A time as JavaScript's toISOString prints it, in another ISO 8601 form, or in milliseconds since 1970.

    What lies before the year 1 comes out as the beginning of that year: due, like all that is past.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Number):
        raise InvalidBody(f"{name}: must be a time, not {kind_of(value)}: {_GOOD_TIMES}")
    time = _iso_time(name, value) if isinstance(value, str) else _after_epoch(value)
    if time is None or time > _LAST:
        raise InvalidBody(f"{name}: must be a time before the year 10000")
    return max(time, _FIRST)


def _after_epoch(value: int | float | Number) -> datetime | None:
    """The time that many milliseconds after 1970 began; None if it is too late for a datetime."""
    milliseconds = float(value.text) if isinstance(value, Number) else value
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None if milliseconds > 0 else _FIRST


def _iso_time(name: str, text: str) -> datetime | None:
    """The time that an ISO 8601 text says; None if it is too late for a datetime."""
    year_offset = 0
    if long := _LONG_YEAR.fullmatch(text):  # JavaScript's form for years of which four digits cannot tell
        year_offset = -1 if long[1] == "-" else max(0, int(long[2]) - 9999)
        text = (long[2][2:] if not year_offset else "2000") + long[3]
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidBody(f"{name}: is not an ISO 8601 time: {_GOOD_TIMES}") from None
    if time.tzinfo is None:
        if not _DATE_ALONE.fullmatch(text):
            raise InvalidBody(f"{name}: does not say in which time zone it is: end it with Z for UTC, or with +02:00")
        time = time.replace(tzinfo=UTC)  # as JavaScript reads a date without a time
    if year_offset:
        return _FIRST if year_offset < 0 else None
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return _FIRST if time.year == 1 else None
