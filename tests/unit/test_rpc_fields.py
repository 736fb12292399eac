"""What a body of an RPC says: each field of each task, in each form that an app may send, and what is no body."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from slayq.protocol import Task
from slayq_server.protocol.rpc_v1 import (
    AddJob,
    Call,
    Cancel,
    InvalidBody,
    TriggerEvent,
    TriggerInvoker,
    WaitForEvent,
    WaitForInvocation,
    read_call,
)

WHEN = "2030-12-31T23:59:59.123Z"
MOMENT = datetime(2030, 12, 31, 23, 59, 59, 123_000, UTC)

FULL: dict[Task, tuple[dict[str, Any], Call]] = {
    Task.ADD_WORKER_JOB: (
        {
            "identifier": "mail",
            "job_key": "k",
            "payload": {"url": "http://a", "event": "e"},
            "queue_name": "lane",
            "run_at": WHEN,
            "max_attempts": 4,
            "priority": -3,
            "flags": ["big", "gpu"],
            "job_key_mode": "preserve_run_at",
        },
        AddJob(
            identifier="mail",
            payload='{"url": "http://a", "event": "e"}',
            job_key="k",
            queue_name="lane",
            run_at=MOMENT,
            max_attempts=4,
            priority=-3,
            flags=("big", "gpu"),
            job_key_mode="preserve_run_at",
        ),
    ),
    Task.WAIT_FOR_WORKER_EVENT: (
        {
            "jobKey": "k",
            "event": "e",
            "matchKey": "id",
            "matchValue": "5",
            "stepName": 'a,{b}."c"\'',
            "expiresAt": WHEN,
        },
        WaitForEvent("k", "e", "id", "5", 'a,{b}."c"\'', MOMENT),
    ),
    Task.WAIT_FOR_INVOCATION: (
        {"invokerJobKey": "k1", "targetJobKey": "k2", "stepName": ""},
        WaitForInvocation("k1", "k2", ""),
    ),
    Task.TRIGGER_WAITING_WORKERS: (
        {"event": "e", "match": "id", "matchVal": "5"},
        TriggerEvent("e", "id", "5"),
    ),
    Task.TRIGGER_WAITING_INVOKER: ({"jobKey": "k", "result": [1, None]}, TriggerInvoker("k", "[1, null]")),
    Task.CANCEL_PENDING_TASKS: ({"event": "e", "matchKey": "id", "matchVal": "5"}, Cancel("e", "id", "5")),
}
OPTIONAL = {"queue_name", "run_at", "max_attempts", "priority", "flags", "job_key_mode", "result"}
FIELDS = [(task, name) for task, (body, _) in FULL.items() for name in body]
REQUIRED = [(task, name) for task, name in FIELDS if name not in OPTIONAL]


def read(task: Task, body: Any) -> Call:
    return read_call(task, body if isinstance(body, bytes) else json.dumps(body).encode())


def refusal(task: Task, body: Any) -> str:
    with pytest.raises(InvalidBody) as caught:
        read(task, body)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("task", Task)
def test_every_field(task: Task) -> None:
    """All fields of a task, each in its own form; what a task does not know is left alone."""
    body, expected = FULL[task]
    assert expected == read(task, body)
    assert expected == read(task, {"unknown": {"deep": [1]}, **body, "alsoUnknown": None})


@pytest.mark.parametrize("null", [True, False], ids=["null", "left out"])
def test_what_an_added_job_need_not_say(null: bool) -> None:
    """All but identifier, payload and key may be null or left out, and means the default."""
    body = {"identifier": "mail", "job_key": "k", "payload": {}}
    if null:
        body |= dict.fromkeys(["queue_name", "run_at", "max_attempts", "priority", "flags", "job_key_mode"])
    assert AddJob("mail", "{}", "k") == read(Task.ADD_WORKER_JOB, body)


@pytest.mark.parametrize(("task", "name"), REQUIRED)
def test_a_missing_field(task: Task, name: str) -> None:
    """Any other field must be there; the reason names it."""
    body = {key: value for key, value in FULL[task][0].items() if key != name}
    assert f"{name}: is missing, and has no default: send it" == refusal(task, body)


WRONG: list[Any] = [None, True, 5, 1.5, "text", [], ["a"], {}, {"a": 1}]
"""A value of each kind."""
FITS: dict[str, set[int]] = {
    # The places in WRONG of what fits after all.
    "payload": set(range(len(WRONG))),
    "result": set(range(len(WRONG))),
    "flags": {0, 5, 6},
    "max_attempts": {0, 2},
    "priority": {0, 2},
    "run_at": {0, 2, 3},
    "expiresAt": {2, 3},
    "queue_name": {0, 4},
    "job_key_mode": {0, 4},
    "matchValue": {1, 2, 3, 4},
    "matchVal": {0, 1, 2, 3, 4},
}


@pytest.mark.parametrize(("task", "name"), FIELDS)
def test_a_mistyped_field(task: Task, name: str) -> None:
    """A value of another kind is refused, and the reason names the field."""
    for place, value in enumerate(WRONG):
        body = {**FULL[task][0], name: value}
        if place in FITS.get(name, {4}):
            read(task, body)
        else:
            assert refusal(task, body).startswith(f"{name}: "), value


def test_flags_are_strings() -> None:
    """The reason says which of them is none."""
    body = {**FULL[Task.ADD_WORKER_JOB][0], "flags": ["a", 5]}
    assert "flags[1]: must be a string, not a number" == refusal(Task.ADD_WORKER_JOB, body)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**53, 10**30, 1e308])
def test_a_number_that_is_no_integer_of_postgres(value: float) -> None:
    """Refused here; what is in range is for the SQL functions to say."""
    assert refusal(Task.ADD_WORKER_JOB, {**FULL[Task.ADD_WORKER_JOB][0], "priority": value}).startswith("priority: ")


def test_a_whole_number_may_be_spelled_in_any_way() -> None:
    """1.0 and 1e1 are whole in JavaScript, too."""
    body = b'{"identifier":"mail","job_key":"k","payload":{},"max_attempts":1e1,"priority":-2.0}'
    assert AddJob("mail", "{}", "k", max_attempts=10, priority=-2) == read(Task.ADD_WORKER_JOB, body)


EXACT = [
    '{"url":"http://a", "n":1.0 ,"z":12345678901234567890.10, "e":1E5}',
    '{"b":1,"a":2,"b":3,"1":4,"0":5}',
    r'{"\u0061":"\u00e9\ud83d\ude00\u0000\ud800\/"}',
    '{"é":"\u2028😀"}',
    "[ ]",
    "{\n\t}",
    '"text"',
    "-0",
    "null",
    '[{"x":"}]\\"]"},"{"]',
    "1e999",
]


@pytest.mark.parametrize("text", EXACT)
@pytest.mark.parametrize("around", [("", ""), (" \n", "\t\r ")], ids=["tight", "with spaces"])
def test_json_is_passed_on_as_it_is_spelled(text: str, around: tuple[str, str]) -> None:
    """Numbers, order, repeated keys, escapes and spaces inside: nothing of a payload or result is written anew."""
    before, after = around
    body = f'{{"identifier":"mail","payload":{before}{text}{after},"job_key":"k"}}'.encode()
    assert AddJob("mail", text, "k") == read(Task.ADD_WORKER_JOB, body)
    body = f'{before}{{"jobKey":"k","result":{before}{text}{after}}}{after}'.encode()
    assert TriggerInvoker("k", text) == read(Task.TRIGGER_WAITING_INVOKER, body)


@pytest.mark.parametrize("levels", [500, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_json_of_any_depth(levels: int, opening: str, closing: str) -> None:
    """How deep JSON may go is for Postgres to say: here any depth does."""
    text = opening * levels + "1" + closing * levels
    assert TriggerInvoker("k", text) == read(Task.TRIGGER_WAITING_INVOKER, f'{{"jobKey":"k","result":{text}}}'.encode())


def test_no_result_is_null() -> None:
    """A callee that returns nothing: JSON.stringify leaves an undefined `result` out."""
    assert TriggerInvoker("k", "null") == read(Task.TRIGGER_WAITING_INVOKER, {"jobKey": "k"})
    assert TriggerInvoker("k", "null") == read(Task.TRIGGER_WAITING_INVOKER, {"jobKey": "k", "result": None})


def test_of_a_repeated_key_the_last_one_counts() -> None:
    """As for JSON.parse, however the key is spelled."""
    body = rb'{"jobKey":"first","result":1,"job\u004bey":"last","result":{"b":2}}'
    assert TriggerInvoker("last", '{"b":2}') == read(Task.TRIGGER_WAITING_INVOKER, body)
    assert "jobKey: must be a string, not null" == refusal(
        Task.TRIGGER_WAITING_INVOKER, b'{"jobKey":"good","result":1,"jobKey":null}'
    )


NO_JSON = [
    b"",
    b" ",
    b"{",
    b"nonsense-s3cret",
    b'{"jobKey":"s3cret"',
    b'{"jobKey":"s3cret",}',
    b'{"jobKey":"s3cret"} {}',
    b"{'jobKey':'s3cret'}",
    b'{"jobKey":"s3cret","result":NaN}',
    b'{"jobKey":"s3cret","result":[1,}',
    b'{"jobKey":"s3cret","other":tru}',
    b'{"jobKey":"s3cret\n"}',
    b'{"jobKey" "s3cret"}',
    b'{1:"s3cret"}',
    b'\xef\xbb\xbf{"jobKey":"s3cret"}',
]


@pytest.mark.parametrize("body", NO_JSON)
def test_a_body_that_is_not_json(body: bytes) -> None:
    """Refused with the place of the first mistake, and without a word of the body."""
    message = refusal(Task.TRIGGER_WAITING_INVOKER, body)
    assert message.startswith("the body is invalid JSON at character ")
    assert "s3cret" not in message


@pytest.mark.parametrize("body", [b"[]", b'[{"jobKey":"k"}]', b'"text"', b"5", b"null", b"true"])
def test_a_body_that_is_not_an_object(body: bytes) -> None:
    """JSON, but with nowhere to find a field."""
    assert "the body must be a JSON object with the task's fields" == refusal(Task.TRIGGER_WAITING_INVOKER, body)


@pytest.mark.parametrize("body", [b'{"jobKey":"\xff"}', '{"jobKey":"k"}'.encode("utf-16"), b"\x1f\x8b\x08\x00gzip"])
def test_a_body_that_is_not_utf_8(body: bytes) -> None:
    """Another encoding, or a compressed body."""
    assert refusal(Task.TRIGGER_WAITING_INVOKER, body).startswith("the body is not UTF-8")


@pytest.mark.parametrize("text", [r"a\u0000b", r"\ud800", r"\udc00\ud800"])
@pytest.mark.parametrize(("task", "name"), [place for place in REQUIRED if place[1] not in ("payload", "expiresAt")])
def test_texts_that_postgres_cannot_hold(task: Task, name: str, text: str) -> None:
    """A NUL or half a surrogate pair in a text is refused by name; in a payload or result Postgres can hold them."""
    rest = {key: value for key, value in FULL[task][0].items() if key != name}
    body = f'{{"{name}":"{text}",{json.dumps(rest)[1:]}'.encode()
    message = f"{name}: has a NUL character or half of a surrogate pair in it, which Postgres cannot hold"
    assert message == refusal(task, body)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5", "5"),
        ("1.0", "1"),
        ("-0", "0"),
        ("1e21", "1e+21"),
        ("12345678901234567890", "12345678901234567000"),
        ("0.1", "0.1"),
        ("true", "true"),
        ("false", "false"),
        ('"5.0"', "5.0"),
        ('""', ""),
    ],
)
def test_match_values_are_compared_as_javascript_prints_them(value: str, text: str) -> None:
    """A number or a boolean stands for the text that JavaScript prints for it."""
    body = f'{{"event":"e","matchKey":"id","matchVal":{value}}}'.encode()
    assert Cancel("e", "id", text) == read(Task.CANCEL_PENDING_TASKS, body)


def test_a_match_value_of_null_matches_nothing() -> None:
    """As in SQL: triggering or cancelling by a value that is not there is no mistake."""
    assert TriggerEvent("e", "id", None) == read(
        Task.TRIGGER_WAITING_WORKERS, {"event": "e", "match": "id", "matchVal": None}
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


TIMES: dict[str, tuple[Any, datetime]] = {
    "as toISOString prints it": (WHEN, MOMENT),
    "the epoch": ("1970-01-01T00:00:00.000Z", at("1970-01-01T00:00+00:00")),
    "no fraction": ("2030-12-31T23:59:59Z", at("2030-12-31T23:59:59+00:00")),
    "no seconds": ("2030-12-31T23:59Z", at("2030-12-31T23:59+00:00")),
    "microseconds": ("2030-12-31T23:59:59.123456Z", at("2030-12-31T23:59:59.123456+00:00")),
    "an offset": ("2030-12-31T23:59:59+02:00", at("2030-12-31T21:59:59+00:00")),
    "Python's isoformat": ("2030-12-31T23:59:59.000001+00:00", at("2030-12-31T23:59:59.000001+00:00")),
    "Postgres's form": ("2030-12-31 23:59:59.5+00", at("2030-12-31T23:59:59.5+00:00")),
    "the basic form": ("20301231T235959Z", at("2030-12-31T23:59:59+00:00")),
    "a date alone is UTC, as in JavaScript": ("2030-12-31", at("2030-12-31T00:00+00:00")),
    "milliseconds": (1_900_000_000_123, at("2030-03-17T17:46:40.123+00:00")),
    "fractions of a millisecond": (1.5, at("1970-01-01T00:00:00.0015+00:00")),
    "next to nothing": (1e-7, at("1970-01-01T00:00+00:00")),
    "before the epoch": (-1000, at("1969-12-31T23:59:59+00:00")),
    "long past": ("0001-01-01T00:00:00.000Z", at("0001-01-02T00:00+00:00")),
    "before the year 1, by its offset": ("0001-01-01T00:00:00+14:00", at("0001-01-02T00:00+00:00")),
    "before the year 1, as JavaScript prints it": ("-000001-06-01T00:00:00.000Z", at("0001-01-02T00:00+00:00")),
    "before the year 1, in milliseconds": (-8.64e15, at("0001-01-02T00:00+00:00")),
    "a long year that need not be": ("+002030-12-31T23:59:59.123Z", MOMENT),
    "the last one": ("9999-12-31T23:59:59.999Z", at("9999-12-31T23:59:59.999+00:00")),
    "the last one in milliseconds": (253_402_300_799_999, at("9999-12-31T23:59:59.999+00:00")),
}


@pytest.mark.parametrize("name", TIMES)
def test_times(name: str) -> None:
    """Every form that a client may send, past and far future included."""
    given, expected = TIMES[name]
    added = read(Task.ADD_WORKER_JOB, {"identifier": "mail", "job_key": "k", "payload": {}, "run_at": given})
    assert isinstance(added, AddJob)
    assert (expected, timedelta(0)) == (added.run_at, added.run_at and added.run_at.utcoffset())
    waiting = read(Task.WAIT_FOR_WORKER_EVENT, {**FULL[Task.WAIT_FOR_WORKER_EVENT][0], "expiresAt": given})
    assert isinstance(waiting, WaitForEvent)
    assert expected == waiting.expires_at


NO_ISO = "is not an ISO 8601 time: write one as 2030-12-31T23:59:59.000Z, or in milliseconds since 1970"
NO_ZONE = "does not say in which time zone it is: end it with Z for UTC, or with +02:00"
TOO_LATE = "must be a time before the year 10000"
NO_TIMES: dict[str, tuple[Any, str]] = {
    "empty": ("", NO_ISO),
    "words": ("tomorrow", NO_ISO),
    "infinity": ("infinity", NO_ISO),
    "Invalid Date": ("Invalid Date", NO_ISO),
    "no such day": ("2030-02-30T00:00:00.000Z", NO_ISO),
    "no such hour": ("2030-01-01T25:00:00Z", NO_ISO),
    "milliseconds as text": ("1900000000123", NO_ISO),
    "JavaScript's toString": ("Tue Dec 31 2030 23:59:59 GMT+0000", NO_ISO),
    "nonsense with a long year": ("+002030-nonsense", NO_ISO),
    "nonsense before the year 1": ("-000001-nonsense", NO_ISO),
    "very long": ("2" * 100_000, NO_ISO),
    "no time zone": ("2030-12-31T23:59:59.123", NO_ZONE),
    "no time zone in the basic form": ("20301231T235959", NO_ZONE),
    "the year 10000": ("+010000-01-01T00:00:00.000Z", TOO_LATE),
    "JavaScript's last": ("+275760-09-13T00:00:00.000Z", TOO_LATE),
    "by its offset": ("9999-12-31T23:59:59-01:00", TOO_LATE),
    "by less than a millisecond": ("9999-12-31T23:59:59.9995Z", TOO_LATE),
    "in milliseconds": (253_402_300_800_000, TOO_LATE),
    "JavaScript's last in milliseconds": (8.64e15, TOO_LATE),
    "more milliseconds than time": (1e300, TOO_LATE),
}


@pytest.mark.parametrize("name", NO_TIMES)
def test_what_is_no_time(name: str) -> None:
    """Refused for `run_at` and `expiresAt` alike."""
    given, problem = NO_TIMES[name]
    assert f"run_at: {problem}" == refusal(
        Task.ADD_WORKER_JOB, {"identifier": "mail", "job_key": "k", "payload": {}, "run_at": given}
    )
    assert f"expiresAt: {problem}" == refusal(
        Task.WAIT_FOR_WORKER_EVENT, {**FULL[Task.WAIT_FOR_WORKER_EVENT][0], "expiresAt": given}
    )


def test_times_come_out_in_utc() -> None:
    """Whatever the offset, the driver is given an aware time in UTC."""
    call = read(
        Task.WAIT_FOR_WORKER_EVENT, {**FULL[Task.WAIT_FOR_WORKER_EVENT][0], "expiresAt": "2030-01-01T12:00:00-05:00"}
    )
    assert isinstance(call, WaitForEvent)
    assert datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=-5))) == call.expires_at
    assert UTC is call.expires_at.tzinfo


def test_the_fields_are_documented() -> None:
    """The table of docs/rpc.md has each task with its fields, in order."""
    page = (Path(__file__).parents[2] / "docs" / "rpc.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, flags=re.MULTILINE)
    documented = {task: re.findall(r"`(\w+)`", fields) for task, fields in rows}
    assert documented == {task.value: list(body) for task, (body, _) in FULL.items()}
