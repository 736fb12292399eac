"""Segments of runs for tests of the SDK: requests as the server makes them, and the ops that come of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slayq.protocol_v2 import parse_request
from slayq.receiver import OpStream
from slayq.segment.runner import Runner
from slayq.segment.standstill import GRACE_SECONDS

if TYPE_CHECKING:
    from slayq import Function

RUN = "0b9f6a0e-5f0c-4a53-9d3c-2f8f3c1f7a10"


def request(
    event: str = "test/event",
    data: dict[str, Any] | None = None,
    *steps: dict[str, Any],
    attempt: int = 1,
    max_attempts: int = 3,
    **others: Any,
) -> dict[str, Any]:
    """A request as the server makes it."""
    return {
        "v": 2,
        "audience": "https://app.test/slayq",
        "lease": {"token": "token-1", "deadline": 1_700_000_300_000},
        "run": {
            "id": RUN,
            "event": event,
            "data": {} if data is None else data,
            "attempt": attempt,
            "max_attempts": max_attempts,
            "created_at": "2030-01-01T00:00:00+00:00",
        },
        "steps": list(steps),
        "limits": {"line_bytes": 1_048_576, "ops": 1000},
        **others,
    }


def done(name: str, output: Any = None, kind: str = "run") -> dict[str, Any]:
    """A recorded step."""
    return {"name": name, "kind": kind, "state": "done", "output": output}


def pending(name: str, kind: str = "run", **members: Any) -> dict[str, Any]:
    """A step without an outcome."""
    return {"name": name, "kind": kind, "state": "pending", **members}


def stream(
    function: Function[Any, Any],
    *steps: dict[str, Any],
    data: dict[str, Any] | None = None,
    time_multiplier: float = 1.0,
    grace: float = GRACE_SECONDS,
    keep_alive: float = 15.0,
    **members: Any,
) -> OpStream:
    """The answer to a request for a function."""
    segment = parse_request(json.dumps(request(function.event.name, data, *steps, **members)).encode())
    return OpStream(lambda: Runner(function, segment, time_multiplier=time_multiplier, grace=grace), keep_alive)


async def ops(function: Function[Any, Any], *steps: dict[str, Any], **members: Any) -> list[dict[str, Any]]:
    """The ops of a segment, without hello; see `stream`."""
    lines = [json.loads(line) async for line in stream(function, *steps, **members) if line.strip()]
    assert lines[0]["op"] == "hello"
    return lines[1:]


def brief(answer: list[dict[str, Any]]) -> list[str]:
    """Ops in short: what, and the step's name."""
    return [" ".join((op["op"], *([op["name"]] if "name" in op else []))) for op in answer]
