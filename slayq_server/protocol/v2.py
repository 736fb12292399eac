"""Protocol v2's request: from a leased run, as Postgres has it, to the bytes that are signed and posted.

The event's data and the steps' outputs go in as they were stored. What depends on the run alone is prepared once, in
`request_of`; the time of a delivery comes in with `Request.body`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from slayq.protocol_v2 import LINE_BYTES, OPS, REQUEST_BYTES, VERSION
from slayq_server.model import Run
from slayq_server.protocol.js_json import has_lone_surrogate, object_members, parse, quoted
from slayq_server.protocol.v1 import UndeliverablePayload

if TYPE_CHECKING:
    from slayq_server.model import LeasedJob

_TRACEPARENT: Final = re.compile(r"[\x21-\x7e]{1,512}", re.ASCII)
_ROOM: Final = 64 * 1024
"""Bytes of a request for what is neither recorded nor the payload's."""
_LIMITS: Final = f'{{"line_bytes":{LINE_BYTES},"ops":{OPS}}}'


def run_of(text: str) -> Run:
    """What a lease says of a run, from its JSON text. Raises ValueError."""
    # The steps may be many megabytes, which take a second to go through. They come last, as Postgres has put them
    # together; no text before them can have this in it, for want of quotes that are not escaped.
    head, steps_follow, steps = text.partition(',"steps":')
    members = object_members(head + "}" if steps_follow else text)
    if steps_follow:
        members["steps"] = steps[:-1]
    try:
        return Run(
            id=_text(members, "id"),
            url=_text_or_none(members, "url"),
            created_at=_text(members, "created_at"),
            steps=members["steps"],
            seen=int(members["seen"]),
            delivery_failures=int(members["delivery_failures"]),
            traceparent=_text_or_none(members, "traceparent"),
            bytes=int(members["bytes"]),
        )
    except KeyError as error:
        raise ValueError(f"a leased run has no {error.args[0]}") from None


def _text(members: dict[str, str], name: str) -> str:
    value = _text_or_none(members, name)
    if value is None:
        raise ValueError(f"{name} of a leased run is no text")
    return value


def _text_or_none(members: dict[str, str], name: str) -> str | None:
    value = parse(members[name])
    return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Request:
    """A run's request, but for what differs from delivery to delivery."""

    url: str
    """Where to post: neither its scheme nor its host is checked here."""
    id: str
    """This delivery's: of the run, and of the lease under which it goes out. Also the token that the answer echoes."""
    traceparent: str | None
    head: str
    tail: str

    def body(self, deadline_ms: int) -> bytes:
        """The bytes to sign and post. `deadline_ms`: when a silent app is given up, in milliseconds since 1970."""
        return f"{self.head}{deadline_ms}{self.tail}".encode()


def request_of(job: LeasedJob) -> Request:
    """The request that a leased run asks for; raises UndeliverablePayload."""
    run = job.run
    assert run is not None
    if max(run.bytes, len(run.steps)) + len(job.payload) > REQUEST_BYTES - _ROOM:
        raise UndeliverablePayload(
            f"the run has recorded {run.bytes} bytes, and a request may have no more than {REQUEST_BYTES}: "
            "record references to large outputs, or let other runs do some of the work"
        )
    try:
        members = object_members(job.payload)
    except ValueError:
        members = {}
    if not {"url", "event", "data"} <= members.keys():
        raise UndeliverablePayload("the run's payload must be a JSON object with url, event and data")
    # Of a function that is no longer registered: the app may be back there, or says itself that it has none.
    url = parse(members["url"]) if run.url is None else run.url
    if not isinstance(url, str) or has_lone_surrogate(url):
        raise UndeliverablePayload("the function's url must be text, without halves of surrogate pairs")
    message_id = f"{run.id}.{job.lease}"
    traceparent = run.traceparent
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None  # what is no header cannot be sent as one
    return Request(
        url=url,
        id=message_id,
        traceparent=traceparent,
        head=f'{{"v":{VERSION},"audience":{quoted(url)},"lease":{{"token":{quoted(message_id)},"deadline":',
        tail=(
            f'}},"run":{{"id":{quoted(run.id)},"event":{members["event"]},"data":{members["data"]},'
            f'"attempt":{job.attempts},"max_attempts":{job.max_attempts},"created_at":{quoted(run.created_at)}}},'
            f'"steps":{run.steps},"limits":{_LIMITS}}}'
        ),
    )


# What the answer may say of a step depends on what is recorded of it.

CLOSED: Final = "closed"
"""It has its outcome, or waits for one: nothing more may be said of it."""
OPEN: Final = "open"
"""It has failed and is to be tried again: its next attempt may be told."""


def known_steps(steps: str) -> tuple[dict[str, str], bool]:
    """The recorded steps, `CLOSED` or `OPEN` by name, and whether any is pending; from their JSON text."""
    known: dict[str, str] = {}
    pending = False
    if steps == "[]":
        return known, pending
    for step in cast("list[dict[str, object]]", parse(steps)):
        is_pending = step["state"] == "pending"
        pending = pending or is_pending
        known[str(step["name"])] = OPEN if is_pending and step["kind"] == "run" else CLOSED
    return known, pending
