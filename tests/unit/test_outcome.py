"""What becomes of a job: one test for each row of protocol v1's table of answers, then batches."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slayq_server.engine.backoff import BackoffPolicy
from slayq_server.engine.outcome import DELIVERY_FAILURES, decide, decide_segment
from slayq_server.model import (
    Answer,
    CallbackResult,
    DeadReason,
    Done,
    Failed,
    Outcome,
    OutcomeKind,
    Suspend,
    Terminal,
)

BACKOFF = BackoffPolicy(base=10, factor=2, jitter=0)


def decided(answer: Answer, attempts: int = 1, max_attempts: int = 25, **options: Any) -> Outcome:
    """The outcome with a back-off of 10 s, 20 s, 40 s, …"""
    return decide(answer, attempts=attempts, max_attempts=max_attempts, backoff=BACKOFF, random=lambda: 0.5, **options)


def retried(delay: float, error: str | None = "why", remaining: tuple[int, ...] | None = None) -> Outcome:
    return Outcome(OutcomeKind.RETRIED, delay=delay, error=error, remaining=remaining)


def dead(reason: DeadReason, error: str | None = "why", remaining: tuple[int, ...] | None = None) -> Outcome:
    return Outcome(OutcomeKind.DEAD, error=error, reason=reason, remaining=remaining)


COMPLETED = Outcome(OutcomeKind.COMPLETED)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 226, 299])
def test_2xx_is_done(status: int) -> None:
    """Any 2xx completes the job, on its last attempt, too."""
    answer = Answer(CallbackResult.OK, status=status)
    assert [COMPLETED, COMPLETED] == [decided(answer), decided(answer, 25)]


def test_666_is_dead_no_retry() -> None:
    """The app says never again: a dead letter at once, whatever attempts are left."""
    answer = Answer(CallbackResult.NO_RETRY, status=666, error="why")
    assert dead(DeadReason.NO_RETRY) == decided(answer, 1)


@pytest.mark.parametrize("status", [404, 410])
def test_404_and_410_are_dead_not_found(status: int) -> None:
    """No retry, but kept as a dead letter."""
    answer = Answer(CallbackResult.CLIENT_ERROR, status=status, error="why")
    assert dead(DeadReason.NOT_FOUND) == decided(answer, 1)


@pytest.mark.parametrize("status", [404, 410])
def test_404_and_410_are_done_with_the_option(status: int) -> None:
    """As the original does it."""
    answer = Answer(CallbackResult.CLIENT_ERROR, status=status, error="why")
    assert COMPLETED == decided(answer, 1, not_found_is_done=True)


def test_other_client_errors_are_not_touched_by_the_option() -> None:
    """`not_found_is_done` is about 404 and 410 alone."""
    answer = Answer(CallbackResult.CLIENT_ERROR, status=403, error="why")
    assert retried(10.0) == decided(answer, 1, not_found_is_done=True)


@pytest.mark.parametrize(("status", "result"), [(429, CallbackResult.CLIENT_ERROR), (503, CallbackResult.SERVER_ERROR)])
@pytest.mark.parametrize(("asked", "delay"), [(None, 20.0), (0.0, 20.0), (5.0, 20.0), (60.0, 60.0)])
def test_429_and_503_with_retry_after_are_retried_not_before_that_time(
    status: int, result: CallbackResult, asked: float | None, delay: float
) -> None:
    """The later of what the app asks for and the back-off."""
    answer = Answer(result, status=status, error="why", retry_after=asked)
    assert retried(delay) == decided(answer, 2)


def test_retry_after_does_not_outlive_the_attempts() -> None:
    """On the last attempt there is no next time."""
    answer = Answer(CallbackResult.SERVER_ERROR, status=503, error="why", retry_after=60.0)
    assert dead(DeadReason.ATTEMPTS_EXHAUSTED) == decided(answer, 25)


FAILURES = [
    Answer(CallbackResult.REDIRECT, status=302, error="why"),
    Answer(CallbackResult.REDIRECT, status=304, error="why"),
    Answer(CallbackResult.CLIENT_ERROR, status=400, error="why"),
    Answer(CallbackResult.CLIENT_ERROR, status=429, error="why"),
    Answer(CallbackResult.SERVER_ERROR, status=500, error="why"),
    Answer(CallbackResult.SERVER_ERROR, status=503, error="why"),
    Answer(CallbackResult.PROTOCOL_ERROR, status=101, error="why"),
    Answer(CallbackResult.PROTOCOL_ERROR, status=799, error="why"),
    Answer(CallbackResult.PROTOCOL_ERROR, error="why"),
    Answer(CallbackResult.TIMEOUT, error="why"),
    Answer(CallbackResult.CONNECT_ERROR, error="why"),
    Answer(CallbackResult.DNS_ERROR, error="why"),
    Answer(CallbackResult.TLS_ERROR, error="why"),
    Answer(CallbackResult.TOO_LARGE, error="why"),
]


@pytest.mark.parametrize("answer", FAILURES, ids=lambda answer: f"{answer.result}-{answer.status}")
def test_any_other_answer_or_none_is_retried_with_back_off(answer: Answer) -> None:
    """A failed attempt waits longer each time."""
    assert [retried(10.0), retried(20.0), retried(40.0)] == [decided(answer, n) for n in (1, 2, 3)]


@pytest.mark.parametrize("answer", FAILURES, ids=lambda answer: f"{answer.result}-{answer.status}")
@pytest.mark.parametrize(("attempts", "most"), [(25, 25), (26, 25), (1, 1)])
def test_any_other_answer_or_none_is_dead_once_attempts_are_used(answer: Answer, attempts: int, most: int) -> None:
    """At `max_attempts`, and past it (where the limit was lowered), the job is a dead letter."""
    assert dead(DeadReason.ATTEMPTS_EXHAUSTED) == decided(answer, attempts, most)


def test_a_blocked_url_is_dead_at_once() -> None:
    """What the address guard refuses is a matter of configuration: no retry helps, and nothing is lost."""
    assert dead(DeadReason.BLOCKED) == decided(Answer(CallbackResult.BLOCKED, error="why"), 1)


def test_an_undeliverable_payload_is_dead_at_once() -> None:
    """A payload of which no callback can be made is told apart from an answer that is no HTTP."""
    answer = Answer(CallbackResult.PROTOCOL_ERROR, undeliverable=True, error="why")
    assert dead(DeadReason.UNDELIVERABLE) == decided(answer, 1)
    assert retried(10.0) == decided(replace(answer, undeliverable=False), 1)


def test_every_result_has_an_outcome() -> None:
    """No result is overlooked, and a dead letter always has a reason."""
    for result in CallbackResult:
        outcome = decided(Answer(result, error="why"))
        assert (outcome.kind is OutcomeKind.DEAD) == (outcome.reason is not None)


# ── batches ──


def batch(body: bytes | str | object, size: int | None = 3, **fields: Any) -> Answer:
    """An answer of 200 to a batch of three."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Answer(CallbackResult.OK, status=200, body=body, batch_size=size, **fields)


@pytest.mark.parametrize("body", [{"failed": [2, 0]}, [2, 0], [0, 2, 2, 0], {"failed": [0, 2], "more": "text"}])
def test_a_batch_is_retried_with_the_elements_that_failed(body: object) -> None:
    """Named as an object or as a plain array; each once, in order."""
    assert retried(20.0, "2 of the batch's 3 elements failed", (0, 2)) == decided(batch(body), 2)


def test_a_batch_with_failed_elements_is_dead_once_attempts_are_used() -> None:
    """The dead letter keeps just what failed."""
    expected = dead(DeadReason.ATTEMPTS_EXHAUSTED, "1 of the batch's 3 elements failed", (1,))
    assert expected == decided(batch([1]), 25)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"ok", b"<p>fine</p>", b"\xff\xfe", b"[" * 60_000, b"9" * 60_000, b"[1", b"[1] trailing"),
        *("null", "true", "2", '"2"', "{}", '{"status":"ok"}'),
        *([], {"failed": []}, {"failed": None}, {"failed": 2}, {"failed": "2"}, {"failed": {"0": 1}}),
        *([3], [-1], [0, 3], [True], [1.0], ["1"], [[1]], [{"id": 1}], [None], [0, "1"]),
    ],
    ids=lambda body: repr(body)[:30],
)
def test_any_other_answer_to_a_batch_completes_it(body: object) -> None:
    """An app may answer what it likes: only indexes of the batch are taken for failures."""
    assert COMPLETED == decided(batch(body))


@pytest.mark.parametrize("failed", [[3], [0, 3], [-1], [True], [1.0], ["a"], [0, None]])
def test_a_report_of_failures_that_makes_no_sense_fails_the_whole_batch(failed: list[object]) -> None:
    """The app says that something failed but not what: completing would lose it."""
    expected = retried(10.0, '"failed" in the answer must be indexes of the batch: 0 to 2')
    assert expected == decided(batch({"failed": failed}))


@pytest.mark.parametrize("body", [b'{"failed": [1, 2', b' { "failed" : [\n12', b"[1,2,3", b"[ 4"])
def test_a_report_of_failures_that_was_cut_off_fails_the_whole_batch(body: bytes) -> None:
    """An answer longer than what is read may name more failures than can be seen."""
    outcome = decided(batch(body, 100_000, truncated=True))
    assert (OutcomeKind.RETRIED, None) == (outcome.kind, outcome.remaining)


@pytest.mark.parametrize("body", [b"<html>", b'{"status":"ok","log":"', b"", b'["a","b"', b'{"failed":"'])
def test_other_long_answers_complete_a_batch(body: bytes) -> None:
    """What does not begin like a report of failures is none."""
    assert COMPLETED == decided(batch(body, truncated=True))


@pytest.mark.parametrize("body", [[0], {"failed": [0]}, {"failed": ["x"]}])
def test_answers_to_a_single_job_are_not_read(body: object) -> None:
    """A job that is no batch may answer with indexes as it likes."""
    assert COMPLETED == decided(batch(body, size=None))


def test_a_failed_answer_to_a_batch_keeps_all_of_it() -> None:
    """A 500 whose body looks like a report is a 500."""
    answer = replace(batch([1]), result=CallbackResult.SERVER_ERROR, status=500, error="why")
    assert retried(10.0) == decided(answer)


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_answer_to_a_batch_is_an_error(body: bytes) -> None:
    """Whatever bytes an app answers, there is an outcome, and what remains is a part of the batch."""
    outcome = decided(batch(body, truncated=len(body) % 2 == 0))
    assert set(outcome.remaining or ()) <= {0, 1, 2}


# Durable runs


def of_segment(answer: Answer, attempts: int = 1, failures: int = 0, max_attempts: int = 3) -> Outcome:
    """The outcome with the same back-off."""
    return decide_segment(
        answer,
        attempts=attempts,
        max_attempts=max_attempts,
        delivery_failures=failures,
        backoff=BACKOFF,
        random=lambda: 0.5,
    )


@pytest.mark.parametrize(
    ("terminal", "attempts", "expected"),
    [
        (Done("[1.0]"), 3, Outcome(OutcomeKind.COMPLETED, output="[1.0]")),
        (Suspend(), 3, Outcome(OutcomeKind.SUSPENDED)),
        (Failed("why", retry=True), 1, retried(10)),
        (Failed("why", retry=True), 2, retried(20)),
        (Failed("why", retry=True), 3, dead(DeadReason.ATTEMPTS_EXHAUSTED)),
        (Failed("why", retry=True, retry_after=3.5), 2, retried(3.5)),
        (Failed("why", retry=True, retry_after=0.0), 2, retried(0.0)),
        (Failed("why", retry=True, retry_after=3.5), 3, dead(DeadReason.ATTEMPTS_EXHAUSTED)),
        (Failed("why", retry=False), 1, dead(DeadReason.NO_RETRY)),
        (
            Failed("why", retry=False, steps='["a"]'),
            1,
            Outcome(OutcomeKind.DEAD, error="why", reason=DeadReason.NO_RETRY, output='["a"]'),
        ),
    ],
)
def test_how_a_segment_ends(terminal: Terminal, attempts: int, expected: Outcome) -> None:
    """Only a function that failed uses up its attempts; what it says of the delay counts."""
    answer = Answer(CallbackResult.OK, 200, terminal=terminal)
    assert expected == of_segment(answer, attempts, failures=DELIVERY_FAILURES)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(CallbackResult.OK, 200, error="why"),
        Answer(CallbackResult.CONNECT_ERROR, error="why"),
        Answer(CallbackResult.SERVER_ERROR, 503, error="why"),
        Answer(CallbackResult.NO_RETRY, 666, error="why"),
        Answer(CallbackResult.CLIENT_ERROR, 404, error="why"),
        Answer(CallbackResult.CLIENT_ERROR, 410, error="why"),
        Answer(CallbackResult.TIMEOUT, error="why"),
        Answer(CallbackResult.PROTOCOL_ERROR, 200, error="why"),
    ],
)
def test_delivery_failures_have_a_budget_of_their_own(answer: Answer) -> None:
    """Whatever attempts the function has left, or not."""
    reason = DeadReason.NOT_FOUND if answer.status in (404, 410) else DeadReason.DELIVERY_FAILED
    for attempts in (1, 3, 99):
        assert Outcome(OutcomeKind.UNDELIVERED, delay=10, error="why") == of_segment(answer, attempts)
        assert Outcome(OutcomeKind.UNDELIVERED, delay=40, error="why") == of_segment(answer, attempts, failures=2)
        assert dead(reason) == of_segment(answer, attempts, failures=DELIVERY_FAILURES - 1)


def test_a_delivery_that_is_asked_to_wait_does() -> None:
    """For longer than the back-off, but not for less."""
    busy = Answer(CallbackResult.SERVER_ERROR, 503, error="why", retry_after=15.0)
    assert [15.0, 20.0] == [of_segment(busy, failures=failures).delay for failures in (0, 1)]


def test_what_no_delivery_would_change_is_dead_at_once() -> None:
    """An address where callbacks never go; a run of which no request can be made."""
    assert dead(DeadReason.BLOCKED) == of_segment(Answer(CallbackResult.BLOCKED, error="why"))
    broken = Answer(CallbackResult.PROTOCOL_ERROR, error="why", undeliverable=True)
    assert dead(DeadReason.UNDELIVERABLE) == of_segment(broken)
