"""The judgement of `slayq-server demo`: what is as it should be passes, and what is not does not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.config import parse
from slayq_server.db.admin_rows import SentJob
from slayq_server.dev import dev, functions, scenes
from slayq_server.dev.behaviours import EVENTS
from slayq_server.dev.demo import plain_words
from slayq_server.dev.sample_app import Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slayq_server.dev.scenes import Scene

NOW = datetime(2030, 1, 31, 8, 30, tzinfo=UTC)
APP = "http://127.0.0.1:3000/slayq"


def scene(title: str) -> Scene:
    """The scene whose title has this in it."""
    (found,) = [each for each in scenes.scenes(APP, NOW) if title in each.title]
    return found


def callbacks(key: str, *statuses: int, at: datetime = NOW, at_once: int = 1) -> list[Seen]:
    """A job's deliveries, each with its arrival and its answer."""
    seen = []
    for retry, status in enumerate(statuses, start=1):
        came = Seen(at.timestamp(), "e", key, retry, None, "came", at_once)
        seen += [came, replace(came, status=status)]
    return seen


def sent(run_at: datetime) -> SentJob:
    """A job that was sent for that time."""
    return SentJob(1, "general", "scheduled", "e", "delayed", 0, run_at, 25, 0)


@pytest.mark.parametrize(
    ("title", "statuses"),
    [("a job that succeeds", [200]), ("fails twice", [500, 500, 200]), ("always fails", [500, 500, 500])],
)
def test_answers_must_be_just_those(title: str, statuses: list[int]) -> None:
    """One too few, one too many, or another status is told."""
    complaint = scene(title).complaint
    assert complaint(callbacks("k", *statuses), []) is None
    for wrong in (statuses[:-1], [*statuses, statuses[-1]], [*statuses[:-1], 404]):
        assert complaint(callbacks("k", *wrong), []) is not None
    assert "answered nothing" == complaint([], [])


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        ("priorities", ["priority -5", "priority 0", "priority 2", "priority 5"]),
        ("serial queue", ["serial 1", "serial 2", "serial 3"]),
    ],
)
def test_order_counts_and_so_does_one_at_a_time(title: str, keys: list[str]) -> None:
    """Swapped, doubled, missing or overlapping jobs are told."""
    complaint = scene(title).complaint

    def judged(order: Sequence[str], at_once: int = 1) -> str | None:
        return complaint([each for key in order for each in callbacks(key, 200, at_once=at_once)], [])

    assert judged(keys) is None
    for wrong in (keys[::-1], [*keys, keys[-1]], keys[1:], []):
        assert judged(wrong) is not None
    assert "2 of them ran at once" == judged(keys, at_once=2)


@pytest.mark.parametrize(("late", "complaint"), [(0.05, None), (-0.5, "came 0.50 s early"), (9.0, "came 9.00 s late")])
def test_a_delayed_job_must_come_in_time(late: float, complaint: str | None) -> None:
    """Neither before its time nor long after."""
    seen = callbacks("delayed", 200, at=NOW + timedelta(seconds=late))
    assert complaint == scene("a job for later").complaint(seen, [sent(NOW)])


def test_a_tick_must_be_answered_and_the_real_minute_may_come_too() -> None:
    """One tick is enough; a second one is no fault."""
    complaint = scene("a schedule").complaint
    assert complaint(callbacks("cron", 200), []) is None
    assert complaint([*callbacks("cron", 200), *callbacks("cron", 200)], []) is None
    assert complaint([], []) is not None


def of_order(*done: tuple[str, int | None, float]) -> list[Seen]:
    """What an order's function told: words, status, seconds."""
    return [Seen(at, "demo/order.placed", "order-1", 1, status, words, 1) for words, status, at in done]


def test_an_order_must_take_each_step_once_fail_and_rest() -> None:
    """A step that is run again, one that is missing, no failure, or too short a rest are told."""
    complaint = scene("an order, for").complaint
    reserves, confirms, asks = functions.STEPS
    first = [(reserves, None, 1.0), (confirms, None, 1.0), ("fails", 500, 1.0)]
    last = [(asks, None, 3.5), (functions.INVOICED, None, 3.6), ("ends", 200, 3.7)]
    assert complaint(of_order(*first, *last), []) is None
    assert f"did {reserves}, {confirms}, {reserves}" in str(complaint(of_order(*first, first[0], *last), []))
    assert "did nothing" == complaint([], [])
    assert "ended with 200" == complaint(of_order(*first[:2], *last), [])
    assert "rested for 0.50 s" == complaint(of_order(*first, (asks, None, 1.5), *last[1:]), [])


def test_a_cancelled_order_must_end_with_its_third_step() -> None:
    """Nothing of it comes after that."""
    complaint = scene("is cancelled").complaint
    steps = [(words, None, 1.0) for words in functions.STEPS]
    assert complaint(of_order(*steps), []) is None
    assert complaint(of_order(*steps, (functions.INVOICED, None, 2.0)), []) is not None


def test_scenes_know_their_own() -> None:
    """Every callback belongs to one scene, by its key or by its event."""
    every = scenes.scenes(APP, NOW)
    for each in every:
        for job in each.jobs:
            seen = Seen(0, "demo/success", job.key or "", 1, None, "", 1)
            assert [each] == [owner for owner in every if owner.owns(seen)]
        if each.order:
            seen = Seen(0, "demo/invoice", each.order, 1, None, "", 1)
            assert [each] == [owner for owner in every if owner.owns(seen)]
    tick = Seen(0, scenes.CRON_EVENT, "cron", 1, None, "", 1)
    assert ["a schedule"] == [owner.title for owner in every if owner.owns(tick)]


@pytest.mark.parametrize("config", [scenes.config, dev.config])
def test_their_configurations_are_good(config: Any) -> None:
    """What dev and demo write is what a server takes; the app knows every event that is sent."""
    queues = parse(config(APP)).queues
    jobs = [job for each in scenes.scenes(APP, NOW) for job in each.jobs]
    assert {job.queue for job in jobs} <= set(queues)
    assert {json.loads(job.payload)["event"] for job in jobs} <= set(EVENTS)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ({"event": "worker_started", "queues": ["a", "b"]}, "is up and serves a, b"),
        ({"event": "job_completed", "job_key": None, "job_id": 7}, "job 7: done"),
        ({"event": "job_suspended", "job_id": 12}, "order-1: suspended; nothing of it runs until it goes on"),
        ({"event": "schedule_fired", "schedule": "s"}, "schedule s fired"),
        ({"event": "stopped"}, None),
        ({"event": "worker_lost", "level": "error"}, "error: worker_lost"),
        ({"event": "x", "level": "warning", "error": "why"}, "warning: x why"),
    ],
)
def test_the_log_in_plain_words(log: dict[str, Any], words: str | None) -> None:
    """What matters is told; trouble is told as it is."""
    assert words == plain_words(json.dumps({"level": "info", **log}), {12: "order-1"})


def test_a_line_that_is_no_log_is_told_as_it_is() -> None:
    """A traceback, say."""
    assert "Traceback …" == plain_words("Traceback …", {})
