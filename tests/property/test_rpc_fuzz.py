"""Whatever is posted to the signed endpoints: a call that Postgres can take, or an InvalidBody that quotes nothing."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slayq.protocol import Task
from slayq_server.protocol.rpc_v1 import InvalidBody, read_call
from slayq_server.protocol.rpc_v2 import crons_of, read_cancel, read_events, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "5ecret"
"""Stands in values alone, which no message may quote."""
FIELDS = {
    Task.ADD_WORKER_JOB: (
        "identifier", "payload", "job_key", "queue_name", "run_at", "max_attempts", "priority", "flags", "job_key_mode",
    ),
    Task.WAIT_FOR_WORKER_EVENT: ("jobKey", "event", "matchKey", "matchValue", "stepName", "expiresAt"),
    Task.WAIT_FOR_INVOCATION: ("invokerJobKey", "targetJobKey", "stepName"),
    Task.TRIGGER_WAITING_WORKERS: ("event", "match", "matchVal"),
    Task.TRIGGER_WAITING_INVOKER: ("jobKey", "result"),
    Task.CANCEL_PENDING_TASKS: ("event", "matchKey", "matchVal"),
}  # fmt: skip
READERS: list[Callable[[bytes], object]] = [
    read_events, read_cancel, read_manifest, lambda body: list(crons_of(read_manifest(body))),
]  # fmt: skip

bounded = settings(derandomize=True, deadline=None, max_examples=150, database=None)

times = st.one_of(
    st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
    st.floats(),
    st.integers(-(10**18), 10**18),
    st.sampled_from(
        ["+275760-09-13T00:00:00.000Z", "-000001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "2030-01-01", "24:00"]
    ),
)
texts = st.text(max_size=8) | st.text(st.characters(exclude_categories=[]), max_size=4) | st.just(SECRET)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts | times
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn, fields: tuple[str, ...]) -> bytes:
    """Objects with these members, mostly texts, and sometimes with damage."""
    members = {name: draw(texts | values) for name in fields if draw(st.integers(0, 7))}
    data = json.dumps(members, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=3)) + data[place + draw(st.integers(0, 2)) :]
    return data


anything = st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode())


def texts_of(call: object) -> list[str]:
    """Of a call, all that goes to Postgres as text."""
    assert dataclasses.is_dataclass(call)
    found = [getattr(call, field.name) for field in dataclasses.fields(call)]
    return [
        text for value in found for text in (value if isinstance(value, tuple) else [value]) if isinstance(text, str)
    ]


def refused_well(error: InvalidBody) -> None:
    message = str(error)
    assert 0 < len(message) < 300
    assert message.isprintable()
    assert SECRET not in message


@pytest.mark.parametrize("task", Task)
@bounded
@given(data=st.data())
def test_v1_bodies(task: Task, data: st.DataObject) -> None:
    """A checked call, whose texts and times Postgres can hold, or one line that says what is wrong."""
    body = data.draw(bodies(FIELDS[task]) | anything)
    try:
        call = read_call(task, body)
    except InvalidBody as error:
        refused_well(error)
        return
    for text in texts_of(call):
        assert "\0" not in text
        text.encode()
    for time in (getattr(call, "run_at", None), getattr(call, "expires_at", None)):
        assert time is None or isinstance(time, datetime)
        assert time is None or (time.tzinfo is not None and 1 <= time.year <= 9999)


@bounded
@given(body=bodies(("events", "run", "functions", "app")) | anything, reader=st.sampled_from(READERS))
def test_v2_bodies(body: bytes, reader: Callable[[bytes], object]) -> None:
    """What the SQL functions take, or one line that says what is wrong."""
    try:
        found = reader(body)
    except InvalidBody as error:
        refused_well(error)
        return
    if isinstance(found, str):
        assert found in body.decode() or found == str(json.loads(body)["run"]).lower() or len(found) == 36
