"""A queue: how much of it runs at once, under which names, and what becomes of a delivery that fails."""

import math
from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from slayq_server.config.rules import Choice, Made, Maybe, Number, Refused, Seconds, Text, Whole, refuse, shown
from slayq_server.config.section import Section, Switch
from slayq_server.engine.backoff import LONGEST, BackoffPolicy

DAY = 86_400.0


def _queue_name(text: str) -> str:
    if not text.isprintable():
        raise Refused(f"has a control character in its name: {shown(text)}")
    if text.startswith("@"):
        raise Refused(f"must not begin with @, not {shown(text)}: such names are the server's own")
    return text


QueueName = Annotated[str, Text("a queue's name of 1 to 128 characters", 128, _queue_name)]
_NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 128}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Aliases = Annotated[
    tuple[QueueName, ...],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [_NAME_SCHEMA, {"type": "array", "items": _NAME_SCHEMA}]}),
]


class BackoffConfig(Section):
    """After attempt n: min(max, base * factor ^ (min(n, cap) - 1)), give or take the jitter."""

    base: Annotated[float, Seconds(0, LONGEST)] = math.e
    """How long to wait after the first attempt."""
    factor: Annotated[float, Number(1, 100)] = math.e
    """By how much each wait is longer than the one before it."""
    cap: Annotated[int, Whole(1, 32_767)] = 10
    """The attempt after which waits grow no more."""
    max: Annotated[float | None, Maybe(Seconds(0, LONGEST))] = None
    """The longest wait, before jitter."""
    jitter: Annotated[float, Number(0, 1)] = 0.1
    """How far a wait may be off, as a part of it: 0.1 is up to a tenth longer or shorter, 0 is exact."""

    @model_validator(mode="after")
    def _bounded(self) -> "BackoffConfig":
        try:
            self.policy()
        except ValueError as error:
            why = str(error)
        else:
            return self
        return refuse(why)

    def policy(self) -> BackoffPolicy:
        """The same for the engine."""
        return BackoffPolicy(base=self.base, factor=self.factor, cap=self.cap, max=self.max, jitter=self.jitter)


class QueueConfig(Section):
    """One queue: a pool of deliveries that run at once."""

    concurrency: Annotated[int, Whole(1, 10_000)]
    """How many deliveries of this queue and its aliases may run at once."""
    alias: Aliases = ()
    """Further names of the queue: a name, or a list of them. They share its concurrency."""
    scope: Annotated[Literal["daemon", "cluster"], Choice(("daemon", "cluster"))] = "daemon"
    """Whether the concurrency counts for each daemon, or for all of them together."""
    timeout: Annotated[float, Seconds(0.01, 7 * DAY)] = 300.0
    """How long a delivery may take, from connecting to the end of the answer."""
    connect_timeout: Annotated[float, Seconds(0.01, 3_600)] = 10.0
    """How long connecting may take, as a part of the timeout."""
    backoff: Annotated[BackoffPolicy, Made(BackoffConfig, BackoffConfig.policy, asdict)] = BackoffConfig().policy()
    """How long to wait after an attempt that failed."""
    max_attempts: Annotated[int | None, Maybe(Whole(1, 32_767))] = None
    """How often a job is delivered before it becomes a dead letter, where the job itself does not say."""
    strict: Switch = False
    """Whether a job that waits for its retry holds up the serial queue it is in."""
    paused: Switch = False
    """Whether the queue starts paused: its jobs wait until it is resumed."""
    not_found_is_done: Switch = False
    """Whether an answer of 404 or 410 ends the job as done, as in the original, and not as a dead letter."""
