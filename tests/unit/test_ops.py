"""Reading protocol v2's answer: what may be written down, and what each fault is called."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from slayq.protocol_v2 import LINE_BYTES
from slayq_server.model import Done, Failed, Op, Suspend, Terminal
from slayq_server.protocol import ops
from slayq_server.protocol.ops import BrokenStream, OpReader
from slayq_server.protocol.v2 import CLOSED, OPEN

HELLO = {"op": "hello", "lease": "token", "sdk": "slayq-python/0.1.0"}
SUSPEND = {"op": "suspend"}
DONE = {"op": "done", "output": None}
ERROR = {"type": "ValueError", "message": "no", "trace": "…"}


def lines(*ops: Any) -> bytes:
    """The ops as a stream; bytes as they are."""
    return b"".join((op if isinstance(op, bytes) else json.dumps(op).encode()) + b"\n" for op in ops)


def read(data: bytes, piece: int = 0, **steps: str) -> tuple[list[Op], Terminal | None, str]:
    """What comes of a whole answer that arrives in pieces: the ops, the terminal one, the fault."""
    reader = OpReader("token", dict(steps), pending=False)
    found: list[Op] = []
    try:
        for start in range(0, len(data), piece or len(data) or 1):
            found += reader.feed(data[start : start + (piece or len(data))])
        found += reader.end()
    except BrokenStream as error:
        return found, reader.terminal, str(error)
    return found, reader.terminal, ""


def test_every_op_is_read() -> None:
    """With all its fields, and texts of JSON as they were spelled."""
    data = lines(
        HELLO,
        b"",
        b'{"op":"step","name":"a","output":{"b": 1.0, "a":"\\u0000\\ud800"}}',
        b' {"name": "a2", "output" : [ ] , "op":"step"}\r',
        {"op": "step_failed", "name": "b", "error": ERROR, "attempt": 1, "retry_after": 2.5, "final": False},
        {"op": "step_failed", "name": "b", "error": ERROR, "attempt": 2, "final": True},
        b'{"op":"send","name":"c","events":[{"event":"x/y","data":{"n":1.0},"id":"i","run_at":"2030-01-01T00:00:00Z"}]}',
        {"op": "sleep", "name": "d", "ms": 1500},
        {"op": "sleep", "name": "e", "until": "2030-01-01T02:00:00+02:00"},
        {"op": "wait", "name": "f", "event": "x/y", "match": {"key": "k", "value": "v"}, "timeout_ms": 1000},
        {"op": "invoke", "name": "g", "event": "x/z", "data": {}, "timeout_ms": None},
        SUSPEND,
    )
    error = json.dumps(ERROR)
    expected = [
        Op("step", "a", '{"b": 1.0, "a":"\\u0000\\ud800"}'),
        Op("step", "a2", "[ ]"),
        Op("step_failed", "b", error, seconds=2.5, attempt=1, final=False),
        Op("step_failed", "b", error, attempt=2, final=True),
        Op("send", "c", '[{"event":"x/y","data":{"n":1.0},"id":"i","run_at":"2030-01-01T00:00:00Z"}]'),
        Op("sleep", "d", seconds=1.5),
        Op("sleep", "e", until=datetime(2030, 1, 1, tzinfo=UTC)),
        Op("wait", "f", event="x/y", key="k", match_value="v", seconds=1.0),
        Op("invoke", "g", "{}", event="x/z"),
    ]
    for piece in (0, 1, 7, 100):
        assert (expected, Suspend(), "") == read(data, piece)


@pytest.mark.parametrize(
    ("spelled", "printed"),
    [("1.0", "1"), ("1e21", "1e+21"), ("-0", "0"), ("true", "true"), ('"\\u00e9"', "é"), ("0.1", "0.1"), ('""', "")],
)
def test_a_match_is_as_javascript_prints_it(spelled: str, printed: str) -> None:
    """So that what Node has sent is found."""
    line = f'{{"op":"wait","name":"w","event":"e","match":{{"key":"k","value":{spelled}}}}}'.encode()
    (op,), _, fault = read(lines(HELLO, line, SUSPEND))
    assert (printed, "") == (op.match_value, fault)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (b'{"op":"done","output":[1.50]}', Done("[1.50]")),
        ({"op": "failed", "error": ERROR, "retry": True}, Failed("ValueError: no", True)),
        ({"op": "failed", "error": ERROR, "retry": False, "retry_after": 3}, Failed("ValueError: no", False, 3.0)),
        (
            {"op": "failed", "error": ERROR, "retry": False, "steps": ["a", "b"]},
            Failed("ValueError: no", False, steps='["a", "b"]'),
        ),
    ],
)
def test_terminal_ops(ending: Any, expected: Terminal) -> None:
    """The last line, with or without its line feed."""
    assert ([], expected, "") == read(lines(HELLO, ending))
    assert ([], expected, "") == read(lines(HELLO, ending)[:-1])
    assert ([], expected, "") == read(lines(HELLO, ending, b"", b" "))


def test_a_pending_step_may_fail_again_and_then_end() -> None:
    """Those attempts may come in one segment; of a step that has its outcome nothing more may come."""
    failed = {"op": "step_failed", "name": "a", "error": ERROR, "attempt": 2, "final": False}
    done = {"op": "step", "name": "a", "output": 1}
    found, terminal, fault = read(lines(HELLO, failed, done, DONE), a=OPEN)
    assert (["step_failed", "step"], Done("null"), "") == ([op.kind for op in found], terminal, fault)
    again = 'line 4 (step "a") names a step that the run has had: give each step a name of its own'
    assert again == read(lines(HELLO, failed, done, done), a=OPEN)[2]
    assert "line 2 (step_failed" in read(lines(HELLO, failed), a=CLOSED)[2]
    assert "line 2 (sleep" in read(lines(HELLO, {"op": "sleep", "name": "a", "ms": 1}), a=OPEN)[2]


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\u2029", "\x7f", "\x9b2J", "\u202e"])
def test_a_name_breaks_no_message(odd: str) -> None:
    """What a terminal or a reader of lines would act on is shown escaped."""
    fault = read(lines(HELLO, {"op": "step", "name": odd}))[2]
    assert fault.isprintable()
    assert ascii(odd)[1:-1] in fault


STEP = {"op": "step", "name": "a", "output": 1}
WAIT = {"op": "wait", "name": "a", "event": "e", "match": {"key": "k", "value": 1}}
DEEP = b"[" * 1001 + b"]" * 1001

FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the answer ended after line 0 without a terminal op"),
    "no hello": (lines(STEP), 'line 1 is no hello: an answer begins with {"op":"hello", …}'),
    "foreign": (lines({"op": "hello", "lease": "other"}), "line 1 (hello) is for another lease"),
    "no lease": (lines({"op": "hello"}), "line 1 has no lease"),
    "two hellos": (lines(HELLO, HELLO), "line 2 is another hello"),
    "unknown": (lines(HELLO, {"op": "dance"}), 'line 2 has an unknown op "dance"'),
    "no op": (lines(HELLO, {"name": "a"}), "line 2 has no op"),
    "op number": (lines(HELLO, {"op": 7}), "line 2 has a number as op, which must be a string"),
    "garbage": (lines(HELLO, b"<html>"), "line 2 is invalid JSON at character 0: expected a value"),
    "array": (lines(HELLO, b"[1]"), "line 2 is no JSON object"),
    "two on a line": (
        lines(HELLO, b'{"op":"suspend"}{"op":"suspend"}'),
        "line 2 is invalid JSON at character 16: expected nothing more",
    ),
    "not utf-8": (lines(HELLO, b'{"op":"\xff"}'), "line 2 is not UTF-8"),
    "truncated": (lines(HELLO, STEP), "the answer ended after line 2 without a terminal op"),
    "cut line": (lines(HELLO) + b'{"op":"do', "line 2 is invalid JSON at character 6: "),
    "after the end": (lines(HELLO, DONE, STEP), "line 3 comes after the terminal op"),
    "two ends": (lines(HELLO, DONE, DONE), "line 3 comes after the terminal op"),
    "no name": (lines(HELLO, {"op": "step", "output": 1}), "line 2 has no name"),
    "empty name": (lines(HELLO, {**STEP, "name": ""}), "line 2 has 0 characters as name: 1 to 512 are possible"),
    "long name": (lines(HELLO, {**STEP, "name": "n" * 513}), "line 2 has 513 characters as name"),
    "NUL": (
        lines(HELLO, {**STEP, "name": "a\0"}),
        "line 2 has a NUL character or half of a surrogate pair in its name",
    ),
    "surrogate": (lines(HELLO, {**STEP, "name": "\ud800"}), "line 2 has a NUL character or half"),
    "no output": (lines(HELLO, {"op": "step", "name": "a"}), 'line 2 (step "a") has no output'),
    "repeated": (lines(HELLO, STEP, STEP), 'line 3 (step "a") names a step that the run has had'),
    "repeated kind": (lines(HELLO, WAIT, STEP), 'line 3 (step "a") names a step that the run has had'),
    "deep": (
        lines(HELLO, b'{"op":"step","name":"a","output":' + DEEP + b"}"),
        "line 2 nests its output more than 1000 levels deep",
    ),
    "ms and until": (lines(HELLO, {"op": "sleep", "name": "a"}), 'line 2 (sleep "a") must have either ms or until'),
    "negative": (lines(HELLO, {"op": "sleep", "name": "a", "ms": -1}), 'line 2 (sleep "a") has a ms that is negative'),
    "endless sleep": (lines(HELLO, b'{"op":"sleep","name":"a","ms":1e999}'), 'line 2 (sleep "a") has a ms that is'),
    "ms text": (lines(HELLO, {"op": "sleep", "name": "a", "ms": "1"}), 'line 2 (sleep "a") has a string as ms'),
    "naive": (
        lines(HELLO, {"op": "sleep", "name": "a", "until": "2030-01-01T00:00:00"}),
        'line 2 (sleep "a") has as until no ISO 8601 time with a time zone',
    ),
    "no match": (lines(HELLO, {"op": "wait", "name": "a", "event": "e"}), 'line 2 (wait "a") has no match'),
    "match object": (
        lines(HELLO, {**WAIT, "match": {"key": "k", "value": {}}}),
        'line 2 (wait "a") has an object as value of match',
    ),
    "match null": (
        lines(HELLO, {**WAIT, "match": {"key": "k", "value": None}}),
        'line 2 (wait "a") has null as value of match',
    ),
    "invoke data": (
        lines(HELLO, {"op": "invoke", "name": "a", "event": "e", "data": [1]}),
        'line 2 (invoke "a") has an array as data, which must be an object',
    ),
    "no error": (
        lines(HELLO, {"op": "step_failed", "name": "a", "attempt": 1, "final": True}),
        'line 2 (step_failed "a") has no error',
    ),
    "error text": (
        lines(HELLO, {"op": "failed", "error": {"type": "E"}, "retry": True}),
        "line 2 has an error without type and message, which must be strings",
    ),
    "attempt": (
        lines(HELLO, {"op": "step_failed", "name": "a", "error": ERROR, "attempt": 0, "final": True}),
        'line 2 (step_failed "a") has something else as attempt than a whole number from 1 up',
    ),
    "final": (
        lines(HELLO, {"op": "step_failed", "name": "a", "error": ERROR, "attempt": 1}),
        'line 2 (step_failed "a") has no final',
    ),
    "retry": (lines(HELLO, {"op": "failed", "error": ERROR}), "line 2 has no retry"),
    "blamed": (
        lines(HELLO, {"op": "failed", "error": ERROR, "retry": True, "steps": [1]}),
        "line 2 has something else as steps than an array of up to 100 names",
    ),
    "events": (lines(HELLO, {"op": "send", "name": "a", "events": {}}), 'line 2 (send "a") has an object as events'),
    "event": (
        lines(HELLO, {"op": "send", "name": "a", "events": [{"event": "e", "data": {}}, {"event": "e"}]}),
        'line 2 (send "a") has an event (number 2) whose data is no object',
    ),
    "nothing": (lines(HELLO, SUSPEND), "line 2 suspends a run that waits for nothing, and nothing has come of it"),
    "long line": (lines(HELLO) + b" " * LINE_BYTES, "line 2 has more than 1048576 bytes"),
    "many ops": (lines(HELLO, *({**STEP, "name": f"{n}"} for n in range(1000))), "the answer has more than 1000 ops"),
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("piece", [0, 50_000])
def test_faults(case: str, piece: int) -> None:
    """Each is told in one line that quotes nothing but a step's name."""
    data, expected = FAULTS[case]
    fault = read(data, piece)[2]
    assert expected == fault[: len(expected)]
    assert "\n" not in fault


def test_what_came_before_a_fault_is_given_out() -> None:
    """In the same bytes, too."""
    found, _, fault = read(lines(HELLO, STEP, {**STEP, "name": "b"}, b"garbage"))
    assert (["a", "b"], True) == ([op.name for op in found], bool(fault))


def test_an_endless_stream_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keep-alives, say."""
    monkeypatch.setattr(ops, "STREAM_BYTES", 1000)
    reader = OpReader("token", {}, pending=False)
    for _ in range(1000):
        assert [] == list(reader.feed(b"\n"))
    with pytest.raises(BrokenStream, match="more than 1000 bytes") as caught:
        list(reader.feed(b"\n"))
    assert (1000, True) == (reader.lines, caught.value.too_large)


def test_a_run_that_waits_already_may_be_suspended_with_nothing_new() -> None:
    """Another of its steps is pending."""
    reader = OpReader("token", {"w": CLOSED}, pending=True)
    assert [] == list(reader.feed(lines(HELLO, SUSPEND)))
    assert [] == list(reader.end())
    assert Suspend() == reader.terminal
