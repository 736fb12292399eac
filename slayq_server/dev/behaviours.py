"""What the sample app does with each event: programmed by the event's name, so that an answer needs no state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slayq.protocol import NO_RETRY_STATUS

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Reply:
    """How the sample app answers."""

    status: int
    why: str
    """In plain words."""
    seconds: float = 0.0
    """How long it works before it answers."""
    headers: Mapping[str, str] = field(default_factory=dict)


_SLOW = 2.0
_SERIAL = 0.4
_LONGEST = 300.0

EVENTS = {
    "demo/success": "succeeds at once",
    "demo/flaky": "fails twice, then succeeds (data.failures: another number)",
    "demo/broken": "always fails, and ends as a dead letter",
    "demo/slow": f"works for {_SLOW:g} s (data.seconds: another time)",
    "demo/serial": f"works for {_SERIAL} s; meant for a serial queue",
    "demo/no-retry": "says that it must not be tried again",
    "demo/busy": "asks once to come back in a second, then succeeds",
    "demo/cron": "succeeds; meant for a schedule",
    "cron": "the minute tick of protocol v1",
}
"""What there is, for people."""


def reply_to(event: str, retry: int, data: Any) -> Reply:
    """The answer to a callback. `retry` is the number of the delivery, from 1."""
    options = data if isinstance(data, dict) else {}
    match event:
        case "demo/flaky":
            failures = int(_number(options, "failures", 2.0))
            if retry <= failures:
                return Reply(500, f"fails on purpose, {retry} of {failures}")
            return Reply(200, f"succeeds after {failures} failures" if retry > 1 else "succeeds")
        case "demo/broken":
            return Reply(500, "always fails")
        case "demo/slow":
            seconds = _number(options, "seconds", _SLOW)
            return Reply(200, f"succeeds after {seconds:g} s of work", seconds)
        case "demo/serial":
            return Reply(200, "succeeds", _number(options, "seconds", _SERIAL))
        case "demo/no-retry":
            return Reply(NO_RETRY_STATUS, "says: do not try again")
        case "demo/busy":
            if retry == 1:
                return Reply(503, "is busy: asks to come back in 1 s", headers={"Retry-After": "1"})
            return Reply(200, "succeeds")
        case _ if event in EVENTS:
            return Reply(200, "succeeds")
        case _:
            return Reply(404, "knows no such event")


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, int | float) and 0 <= value <= _LONGEST:
        return float(value)
    return default
