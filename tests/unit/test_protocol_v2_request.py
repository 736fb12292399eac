"""Protocol v2's request: the bytes that go out for a leased run, and what is known of its steps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from slayq.protocol_v2 import REQUEST_BYTES, StepKind, StepState, parse_request
from slayq_server.model import LeasedJob, Run
from slayq_server.protocol.v1 import UndeliverablePayload
from slayq_server.protocol.v2 import CLOSED, OPEN, known_steps, request_of, run_of

RUN = Run("5f6f9a0e-4c3e-4a59-9a0e-1f2d3c4b5a69", "https://a.example/x", "2030-01-01T00:00:00.5Z", "[]", 0)
PAYLOAD = '{"url":"https://old.example/","event":"a/\\u0062","data":{"n": 1.0, "odd":"\\ud800"}}'


def job(payload: str = PAYLOAD, **changes: Any) -> LeasedJob:
    """A leased run."""
    return LeasedJob(7, 3, "mail", None, 2, 5, payload, None, None, 0.0, replace(RUN, **changes))


def test_the_sdk_reads_it() -> None:
    """As it was written, with the data and the steps as they were stored."""
    steps = '[{"name":"a","kind":"run","state":"done","output":1.50},{"name":"b","kind":"wait","state":"pending"}]'
    body = request_of(job(steps=steps)).body(1_700_000_000_000)
    assert b'"data":{"n": 1.0, "odd":"\\ud800"}' in body
    assert b'"output":1.50' in body
    segment = parse_request(body)
    assert ("https://a.example/x", f"{RUN.id}.3", 1_700_000_000_000) == (
        segment.audience,
        segment.lease_token,
        segment.deadline_ms,
    )
    assert (RUN.id, "a/b", 2, 5) == (
        str(segment.run.id),
        segment.run.event,
        segment.run.attempt,
        segment.run.max_attempts,
    )
    states = [(record.name, record.kind, record.state, record.output) for record in segment.steps]
    assert [("a", StepKind.RUN, StepState.DONE, 1.5), ("b", StepKind.WAIT, StepState.PENDING, None)] == states


def test_each_lease_has_a_token_of_its_own() -> None:
    """It rises with every lease, so no answer to an earlier one is taken for it."""
    assert request_of(job()).id != request_of(replace(job(), lease=4)).id


@pytest.mark.parametrize(
    ("given", "sent"), [("00-ab-cd-01", "00-ab-cd-01"), ("a\r\nX: y", None), ("", None), (None, None)]
)
def test_only_a_header_goes_out_as_one(given: str | None, sent: str | None) -> None:
    """Whatever a sender called its trace."""
    assert sent == request_of(job(traceparent=given)).traceparent


def test_the_latest_url_counts() -> None:
    """That of the run's own time, where no app has the function any more."""
    assert ["https://a.example/x", "https://old.example/"] == [
        request_of(job()).url,
        request_of(job(url=None)).url,
    ]


@pytest.mark.parametrize("payload", ["[]", "nonsense", '{"url":"u","event":"e"}', '{"url":7,"event":"e","data":{}}'])
def test_a_payload_that_makes_no_request(payload: str) -> None:
    """Is told without being quoted."""
    with pytest.raises(UndeliverablePayload) as caught:
        request_of(job(payload, url=None))
    assert "nonsense" not in str(caught.value)


def test_what_a_lease_says_of_a_run() -> None:
    """Numbers of any size, texts of JSON as they are; a member that lacks is told."""
    members = {
        "id": "i",
        "url": None,
        "created_at": "t",
        "delivery_failures": 2,
        "traceparent": None,
        "seen": 2**60,
        "bytes": 9,
        "steps": [{"name": "a", "output": 1}],
    }
    expected = Run("i", None, "t", '[{"name":"a","output":1}]', 2**60, 2, None, 9)
    assert expected == run_of(json.dumps(members, separators=(",", ":")))
    for name in ("id", "steps", "seen"):
        with pytest.raises(ValueError, match=name):
            run_of(json.dumps({key: value for key, value in members.items() if key != name}, separators=(",", ":")))


def test_a_run_that_has_recorded_too_much() -> None:
    """No app would read it: it is told at once, and not by one delivery after the other."""
    with pytest.raises(UndeliverablePayload, match="67108864"):
        request_of(job(bytes=70_000_000))
    with pytest.raises(UndeliverablePayload):
        request_of(job(steps="[" + " " * REQUEST_BYTES + "]"))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], ({}, False)),
        ([{"name": "a", "kind": "run", "state": "done"}], ({"a": CLOSED}, False)),
        ([{"name": "a", "kind": "run", "state": "failed"}], ({"a": CLOSED}, False)),
        ([{"name": "a", "kind": "run", "state": "pending"}], ({"a": OPEN}, True)),
        ([{"name": "a", "kind": "wait", "state": "pending"}], ({"a": CLOSED}, True)),
        ([{"name": "a", "kind": "wait", "state": "timed_out"}], ({"a": CLOSED}, False)),
    ],
)
def test_what_is_known_of_the_steps(steps: list[dict[str, str]], expected: tuple[dict[str, str], bool]) -> None:
    """Only a run step that is pending may be told of again."""
    assert expected == known_steps(json.dumps(steps))
