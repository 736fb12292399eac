"""Protocol v2's answer: from the bytes of a stream, piece by piece, to ops that may be written down.

An app is trusted to run its own functions and no further: whatever it sends, the reader holds no more than a line, and
nothing leaves it that Postgres could not take. What came before a fault has been given out by then, and stays.

The texts of outputs, errors, events and data are cut out of the line as they are spelled.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from slayq.protocol_v2 import LINE_BYTES, NAME_CHARACTERS, OPS, SENT_EVENTS
from slayq_server.model import Done, Failed, Op, Suspend
from slayq_server.protocol.js_json import (
    InvalidJson,
    Number,
    end_of_value,
    has_lone_surrogate,
    kind_of,
    object_members,
    parse,
    quoted,
    text_of,
)
from slayq_server.protocol.v2 import CLOSED, OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slayq_server.model import Terminal
    from slayq_server.protocol.js_json import Value

STREAM_BYTES: Final = 128 * 1_048_576
"""The most bytes of an answer, its keep-alives included."""
MOST_BLAMED: Final = 100
"""The most steps that a function's failure is put down to."""
DEPTH: Final = 1000
"""How deep a value may be nested: Postgres reads some thousand levels."""
LONGEST: Final = 1000 * 366 * 86_400.0
"""Seconds that something may take: a thousand years."""
_SHOWN: Final = 60
"""Characters of a step's name that a message shows."""
_LARGEST_ATTEMPT: Final = 2**31 - 1
_MESSAGE: Final = 2_000
"""Characters of an error that are kept for people."""

# What an SDK sends most, recognised at a glance. The value is checked all the same.
_PLAIN_STEP: Final = re.compile(r'\{"op": ?"step", ?"name": ?"([^"\\\x00-\x1f]{1,512})", ?"output": ?')


class BrokenStream(ValueError):
    """An answer that is no stream of ops. The message is one line, and quotes nothing but a step's name."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class OpReader:
    """Reads one answer: `feed` it what comes, then `end` it. Not to be used any more once it has raised."""

    def __init__(self, token: str, steps: dict[str, str], *, pending: bool) -> None:
        """Expects a hello first.

        Args:
            token: what the hello must echo.
            steps: the steps recorded so far, `CLOSED` or `OPEN` by name. Kept up to date.
            pending: some recorded step waits for its outcome.
        """
        self._token = token
        self._steps = steps
        self._pending = pending
        self._rest = bytearray()
        self._bytes = 0
        self._line_number = 0
        self._ops = 0
        self.terminal: Terminal | None = None
        """The last op, once it is there."""
        self.lines = 0
        """Lines that have come whole, empty ones included."""

    def feed(self, data: bytes) -> Iterator[Op]:
        """The ops that these bytes complete, one after the other; raises BrokenStream at the fault."""
        self._bytes += len(data)
        if self._bytes > STREAM_BYTES:
            raise BrokenStream(f"the answer has more than {STREAM_BYTES} bytes", too_large=True)
        lines = data.split(b"\n")
        if len(lines) > 1:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += lines.pop()
        for line in lines:
            self.lines += 1
            op = self._line(line)
            if op is not None:
                yield op
        if len(self._rest) >= LINE_BYTES:
            raise self._too_long()

    def end(self) -> Iterator[Op]:
        """The op of a last line without a line feed, if there is one; raises BrokenStream if the end is missing."""
        rest = bytes(self._rest)
        self._rest.clear()
        op = self._line(rest)
        if op is not None:
            yield op
        if self.terminal is None:
            raise BrokenStream(f"the answer ended after line {self._line_number} without a terminal op")

    def _too_long(self) -> BrokenStream:
        return BrokenStream(f"line {self._line_number + 1} has more than {LINE_BYTES} bytes", too_large=True)

    def _line(self, line: bytes) -> Op | None:
        if not line or line.isspace():
            return None
        if len(line) >= LINE_BYTES:
            raise self._too_long()
        self._line_number += 1
        if self.terminal is not None:
            raise BrokenStream(f"line {self._line_number} comes after the terminal op")
        if self._line_number > OPS:
            raise BrokenStream(f"the answer has more than {OPS} ops", too_large=True)
        try:
            text = line.decode("utf-8")
            op = self._plain_step(text) if self._line_number > 1 else None
            return op or self._op(_Line(object_members(text)))
        except UnicodeDecodeError:
            problem = "is not UTF-8"
        except InvalidJson as error:
            problem = f"is {error}"
        except _Refused as error:
            problem = str(error)
        except ValueError:
            problem = "is no JSON object"
        raise BrokenStream(f"line {self._line_number} {problem}")  # out here: those errors may carry the line

    def _plain_step(self, text: str) -> Op | None:
        """The op, if it is a step's output in the usual spelling."""
        match = _PLAIN_STEP.match(text)
        if match is None or has_lone_surrogate(match[1]):
            return None
        start = match.end()
        end = end_of_value(text, start)
        if text[end:] != "}":
            return None
        value = text[start:end]
        _check_depth("output", value)
        self._take_name(match[1], "step")
        self._ops += 1
        return Op("step", match[1], value)

    def _op(self, line: _Line) -> Op | None:
        kind = line.text("op")
        if self._line_number == 1:
            self._greet(kind, line)
            return None
        if kind in _TERMINALS:
            self.terminal = _TERMINALS[kind](line)
            if kind == "suspend" and not (self._pending or self._ops):
                raise _Refused("suspends a run that waits for nothing, and nothing has come of it")
            return None
        read = _OPS.get(kind)
        if read is None:
            raise _Refused("is another hello" if kind == "hello" else f"has an unknown op{_shown(kind)}")
        name = line.name("name")
        try:
            op = read(name, line)
        except _Refused as error:
            raise _Refused(f"({kind}{_shown(name)}) {error}") from None
        self._take_name(name, kind)
        if op.final is False:
            self._steps[name] = OPEN
        self._pending = self._pending or op.final is False or kind in _PENDING
        self._ops += 1
        return op

    def _greet(self, kind: str, line: _Line) -> None:
        if kind != "hello":
            raise _Refused('is no hello: an answer begins with {"op":"hello", …}')
        if line.text("lease") != self._token:
            raise _Refused("(hello) is for another lease")

    def _take_name(self, name: str, kind: str) -> None:
        known = self._steps.get(name)
        if known is not None and not (known == OPEN and kind in ("step", "step_failed")):
            raise _Refused(
                f"({kind}{_shown(name)}) names a step that the run has had: give each step a name of its own"
            )
        self._steps[name] = CLOSED


class _Refused(ValueError):
    """What is wrong with a line, in words that fit after "line 3"."""


class _Line:
    """The members of a line, read by name and type."""

    def __init__(self, members: dict[str, str]) -> None:
        self._members = members

    def json(self, name: str) -> str:
        """Any JSON, as it is spelled."""
        text = self._members.get(name)
        if text is None:
            raise _Refused(f"has no {name}")
        _check_depth(name, text)
        return text

    def value(self, name: str) -> Value:
        return parse(self._members.get(name, "null"))

    def text(self, name: str) -> str:
        value = parse(self.json(name))
        if not isinstance(value, str):
            raise _Refused(f"has {kind_of(value)} as {name}, which must be a string")
        if "\0" in value or has_lone_surrogate(value):
            raise _Refused(f"has a NUL character or half of a surrogate pair in its {name}")
        return value

    def name(self, name: str) -> str:
        value = self.text(name)
        if not 1 <= len(value) <= NAME_CHARACTERS:
            raise _Refused(f"has {len(value)} characters as {name}: 1 to {NAME_CHARACTERS} are possible")
        return value

    def boolean(self, name: str) -> bool:
        value = parse(self.json(name))
        if not isinstance(value, bool):
            raise _Refused(f"has {kind_of(value)} as {name}, which must be true or false")
        return value

    def count(self, name: str) -> int:
        value = parse(self.json(name))
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_ATTEMPT:
            raise _Refused(f"has something else as {name} than a whole number from 1 up")
        return value

    def seconds(self, name: str, unit: float = 1.0) -> float | None:
        """A duration of so many units (each so many seconds); None where there is none."""
        value = self.value(name)
        if value is None and self._members.get(name, "null") == "null":
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | Number | None):
            raise _Refused(f"has {kind_of(value)} as {name}, which must be a number")
        seconds = float("inf") if value is None else unit * float(value.text if isinstance(value, Number) else value)
        if not 0 <= seconds <= LONGEST:
            raise _Refused(f"has a {name} that is negative or longer than a thousand years")
        return seconds

    def object(self, name: str) -> str:
        """An object, as it is spelled."""
        text = self.json(name)
        if not text.startswith("{"):
            raise _Refused(f"has {kind_of(parse(text))} as {name}, which must be an object")
        return text

    def steps(self) -> str | None:
        """The member `steps`, names of some, as it is spelled; None where there is none."""
        names = self.value("steps")
        if names is None:
            return None
        if not isinstance(names, list) or len(names) > MOST_BLAMED or not all(isinstance(name, str) for name in names):
            raise _Refused(f"has something else as steps than an array of up to {MOST_BLAMED} names")
        if any("\0" in name or has_lone_surrogate(name) for name in names if isinstance(name, str)):
            raise _Refused("has a NUL character or half of a surrogate pair in its steps")
        return self.json("steps")

    def error(self) -> tuple[str, str]:
        """The member `error` as it is spelled, and in a line for people."""
        text = self.object("error")
        error = _Line(object_members(text))
        try:
            words = [error.value(member) for member in ("type", "message")]
        except ValueError:
            words = []
        if len(words) < 2 or not all(isinstance(word, str) for word in words):
            raise _Refused("has an error without type and message, which must be strings")
        return text, ": ".join(str(word) for word in words if word)[:_MESSAGE]


def _step(name: str, line: _Line) -> Op:
    return Op("step", name, line.json("output"))


def _step_failed(name: str, line: _Line) -> Op:
    return Op(
        "step_failed",
        name,
        line.error()[0],
        seconds=line.seconds("retry_after"),
        attempt=line.count("attempt"),
        final=line.boolean("final"),
    )


def _send(name: str, line: _Line) -> Op:
    text = line.json("events")
    events = parse(text)
    if not isinstance(events, list):
        raise _Refused(f"has {kind_of(events)} as events, which must be an array")
    if len(events) > SENT_EVENTS:
        raise _Refused(f"has {len(events)} events: {SENT_EVENTS} are the most")
    for number, event in enumerate(events):
        problem = _problem_of_event(event)
        if problem is not None:
            raise _Refused(f"has an event (number {number + 1}) {problem}")
    return Op("send", name, text)


def _sleep(name: str, line: _Line) -> Op:
    seconds, until = line.seconds("ms", 1e-3), line.value("until")
    if (seconds is None) == (until is None):
        raise _Refused("must have either ms or until")
    if seconds is not None:
        return Op("sleep", name, seconds=seconds)
    moment = _moment(until)
    if moment is None:
        raise _Refused("has as until no ISO 8601 time with a time zone")
    return Op("sleep", name, until=moment)


def _wait(name: str, line: _Line) -> Op:
    match = _Line(object_members(line.object("match")))
    value = match.value("value")
    if isinstance(value, dict | list | None):
        raise _Refused(f"has {kind_of(value)} as value of match, which must be a string, a number or a boolean")
    return Op(
        "wait",
        name,
        event=line.name("event"),
        key=match.name("key"),
        match_value=match.text("value") if isinstance(value, str) else text_of(value),
        seconds=line.seconds("timeout_ms", 1e-3),
    )


def _invoke(name: str, line: _Line) -> Op:
    return Op("invoke", name, line.object("data"), event=line.name("event"), seconds=line.seconds("timeout_ms", 1e-3))


_OPS: Final[dict[str, Callable[[str, _Line], Op]]] = {
    "step": _step,
    "step_failed": _step_failed,
    "send": _send,
    "sleep": _sleep,
    "wait": _wait,
    "invoke": _invoke,
}
_PENDING: Final = frozenset({"sleep", "wait", "invoke"})
_Ending: TypeAlias = "Callable[[_Line], Terminal]"
_TERMINALS: Final[dict[str, _Ending]] = {
    "suspend": lambda _: Suspend(),
    "done": lambda line: Done(line.json("output")),
    "failed": lambda line: Failed(line.error()[1], line.boolean("retry"), line.seconds("retry_after"), line.steps()),
}


def _problem_of_event(event: Value) -> str | None:
    """What is wrong with an event that is to be sent, in words that fit after "an event"; None: nothing."""
    if not isinstance(event, dict):
        return f"that is {kind_of(event)} and no object"
    name, data, send_id = event.get("event"), event.get("data"), event.get("id")
    run_at, priority, trace = event.get("run_at"), event.get("priority"), event.get("traceparent")
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARACTERS:
        return f"without a name of 1 to {NAME_CHARACTERS} characters"
    if not isinstance(data, dict):
        return "whose data is no object"
    if not isinstance(send_id, str | None) or not isinstance(trace, str | None):
        return "whose id or traceparent is no string"
    if any("\0" in text or has_lone_surrogate(text) for text in (name, send_id or "", trace or "")):
        return "with a NUL character or half of a surrogate pair outside its data"
    if run_at is not None and _moment(run_at) is None:
        return "whose run_at is no ISO 8601 time with a time zone"
    if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int)):
        return "whose priority is no whole number"
    return None


def _moment(value: Value) -> datetime | None:
    """An instant as ISO 8601 has it; None if it is none, or says nothing of its time zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def _check_depth(name: str, text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > DEPTH:
                raise _Refused(f"nests its {name} more than {DEPTH} levels deep")
        elif mark in "]}":
            depth -= 1


def _shown(name: str) -> str:
    """A name for a message: its beginning, in quotes, without what could break a line or steer a terminal."""
    literal = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in quoted(name[:_SHOWN]))
    return f" {literal}{'…' if len(name) > _SHOWN else ''}"
