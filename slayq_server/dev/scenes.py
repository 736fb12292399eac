"""The scenes of `slayq-server demo`: which jobs are sent, and how each must end. Pure: no clock, no database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from slayq_server.db.admin_rows import NewJob
from slayq_server.dev import customer, functions
from slayq_server.dev.payloads import payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from slayq_server.db.admin_rows import SentJob
    from slayq_server.dev.sample_app import Seen

QUEUE = "general"
SINGLE_QUEUE = "one-at-a-time"
CRON_ID = "demo-tick"
CRON_EVENT = "demo/cron"
DELAY = 3.0
LATEST = 2.0
"""Seconds after its time that the delayed job may come; as generous as a busy machine needs."""
_GATHER = 2.0
_PRIORITIES = (5, 0, -5, 2)
_ATTEMPTS = 3
NOWHERE = ("nowhere", "")
"""Where in the database a run is that was cancelled."""


def config(app_url: str) -> dict[str, Any]:
    """Of the daemon: short back-offs, history, a schedule, and a quick heartbeat, which looks for due ticks."""
    backoff = {"base": 1, "factor": 1.5, "cap": 5, "jitter": 0}
    return {
        "queues": {
            QUEUE: {"concurrency": 10, "backoff": backoff},
            SINGLE_QUEUE: {"concurrency": 1, "backoff": backoff},
        },
        "cron": [{"id": CRON_ID, "cron": "* * * * *", "queue": QUEUE, "event": CRON_EVENT, "url": app_url}],
        "retention": {"done": "1h"},
        "worker": {"renew": 1},
    }


@dataclass(frozen=True, slots=True)
class Scene:
    """Some jobs that belong together, or an order for the durable function; and what must be seen of them."""

    title: str
    expected: str
    """In plain words."""
    jobs: tuple[NewJob, ...]
    answers: int
    """How often the app must have answered before all is over."""
    complaint: Callable[[Sequence[Seen], Sequence[SentJob]], str | None]
    """What is wrong with what the app saw (arrivals and answers, in order) of what was sent; None if nothing is."""
    ends_as: tuple[str, str] = ("done_job", "done")
    """Where each job must be in the database at the end, and its state there."""
    event: str | None = None
    """How its callbacks are known where it sends no jobs of its own."""
    order: str | None = None
    """Which order is placed."""

    def owns(self, seen: Seen) -> bool:
        """Whether a callback belongs to this scene."""
        if self.event:
            return seen.event == self.event
        return seen.job_key == self.order or seen.job_key in {job.key for job in self.jobs}


def scenes(app: str, now: datetime) -> list[Scene]:
    """All of them. `app` is the sample app's endpoint."""
    return [
        Scene(
            "a job that succeeds",
            "delivered once",
            (NewJob(QUEUE, payload("demo/success", app, {"n": 1}), key="success"),),
            1,
            lambda seen, _: _statuses(seen, [200]),
        ),
        Scene(
            "a job that fails twice",
            "delivered three times, the third succeeds",
            (NewJob(QUEUE, payload("demo/flaky", app, {"failures": 2}), key="fails twice"),),
            3,
            lambda seen, _: _statuses(seen, [500, 500, 200]),
        ),
        Scene(
            "a job that always fails",
            f"a dead letter after {_ATTEMPTS} attempts",
            (NewJob(QUEUE, payload("demo/broken", app, {}), key="always fails", max_attempts=_ATTEMPTS),),
            _ATTEMPTS,
            lambda seen, _: _statuses(seen, [500] * _ATTEMPTS),
            ends_as=("dead_letter", "attempts-exhausted"),
        ),
        _priorities(app, now),
        _delayed(app),
        _serial(app),
        Scene(
            "a schedule",
            "its tick is delivered",
            (),
            1,
            # The real minute may come as well.
            lambda seen, _: _statuses(seen[:2], [200]),
            event=CRON_EVENT,
        ),
        Scene(
            "an order, for a durable function",
            "done: it fails, and steps 1 and 2 are not run again; it sleeps, waits, invokes",
            (),
            2,
            lambda seen, _: _steps(seen, [*functions.STEPS, functions.INVOICED]) or _fails_then_rests(seen),
            order=customer.PAYS,
        ),
        Scene(
            "an order that is cancelled",
            "gone while it waits, and nothing of it comes back",
            (),
            0,
            lambda seen, _: _steps(seen, list(functions.STEPS)),
            ends_as=NOWHERE,
            order=customer.CANCELS,
        ),
    ]


def _priorities(app: str, now: datetime) -> Scene:
    """Jobs of one queue with one slot that all become due at the same moment."""
    due = now + timedelta(seconds=_GATHER)
    jobs = tuple(
        NewJob(
            SINGLE_QUEUE,
            payload("demo/slow", app, {"seconds": 0.2}),
            key=f"priority {priority}",
            priority=priority,
            run_at=due,
        )
        for priority in _PRIORITIES
    )
    wanted = [f"priority {priority}" for priority in sorted(_PRIORITIES)]
    return Scene(
        "priorities, one at a time",
        f"in the order {', '.join(map(str, sorted(_PRIORITIES)))}",
        jobs,
        len(jobs),
        lambda seen, _: _in_order(seen, wanted),
    )


def _delayed(app: str) -> Scene:
    job = NewJob(QUEUE, payload("demo/success", app, {}), key="delayed", delay=DELAY)
    return Scene(
        "a job for later",
        f"delivered {DELAY:g} s after it was sent, at most {LATEST:g} s late",
        (job,),
        1,
        lambda seen, sent: _statuses(seen, [200]) or _lateness(seen, sent[0].run_at),
    )


def _serial(app: str) -> Scene:
    keys = [f"serial {number}" for number in (1, 2, 3)]
    jobs = tuple(NewJob(QUEUE, payload("demo/serial", app, {}), key=key, serial_queue="customer 7") for key in keys)
    return Scene(
        "a serial queue in ten slots",
        "one after the other, in order",
        jobs,
        len(jobs),
        lambda seen, _: _in_order(seen, keys),
    )


def _statuses(seen: Sequence[Seen], wanted: list[int]) -> str | None:
    """The answers must be these, on attempts 1, 2, 3 …"""
    answers = [(each.retry, each.status) for each in seen if each.status is not None]
    if answers == list(enumerate(wanted, start=1)):
        return None
    return "answered " + (", ".join(f"{status} on attempt {retry}" for retry, status in answers) or "nothing")


def _in_order(seen: Sequence[Seen], keys: list[str]) -> str | None:
    """Each must come once, in this order, and never two at once."""
    arrived = [each.job_key for each in seen if each.status is None]
    if arrived != keys:
        return f"came in the order {', '.join(arrived) or '(none)'}"
    most = max(each.at_once for each in seen)
    return f"{most} of them ran at once" if most > 1 else None


def _lateness(seen: Sequence[Seen], due: datetime) -> str | None:
    late = seen[0].at - due.timestamp()
    if 0 <= late <= LATEST:
        return None
    return f"came {late:.2f} s late" if late > 0 else f"came {-late:.2f} s early"


def _steps(seen: Sequence[Seen], wanted: list[str]) -> str | None:
    """The steps must be these, each run once, in order."""
    steps = [each.words for each in seen if each.words.startswith("step")]
    return None if steps == wanted else f"did {', '.join(steps) or 'nothing'}"


def _fails_then_rests(seen: Sequence[Seen]) -> str | None:
    """It must fail, then end; it asks for its payment after its rest."""
    ends = [(each.status, each.at) for each in seen if each.status is not None]
    if [status for status, _ in ends] != [500, 200]:
        return f"ended with {', '.join(str(status) for status, _ in ends) or 'nothing'}"
    asked = next(each.at for each in seen if each.words == functions.STEPS[-1])
    rested = asked - ends[0][1]
    return None if rested >= functions.REST else f"rested for {rested:.2f} s"
