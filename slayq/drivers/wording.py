"""What drivers say to the server and how they read its answers, whichever way both go: JSON in, ids out."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from slayq.drivers import Registered
from slayq.errors import InvalidEvent, RegistrationFailed, SendFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slayq.drivers import OutgoingEvent


_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""The escape of a NUL character, and not a backslash that stands before u0000."""


def events_text(events: Sequence[OutgoingEvent]) -> str:
    """The events as the text of a JSON array. Raises InvalidEvent for data that is no JSON."""
    return f"[{','.join(map(_event_text, events))}]"


def _event_text(event: OutgoingEvent) -> str:
    try:
        text = json_text(event.wire())
    except UnicodeEncodeError:
        raise _unreadable(event) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"the event {event.event!r:.200} is no JSON: {error}") from error
    if _NUL.search(text):
        raise _unreadable(event)
    return text


def _unreadable(event: OutgoingEvent) -> InvalidEvent:
    """As the server says it. It is said here because PostgREST says it otherwise, before the server sees the event."""
    return InvalidEvent(
        f"the event {event.event!r:.200} holds a NUL character or half of a surrogate pair",
        code="SQ011",
        hint="Remove such characters, or send the text in base64.",
    )


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as JSON. Raises RegistrationFailed."""
    try:
        return json_text(dict(manifest))
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistrationFailed(f"the manifest is no JSON: {error}") from error


def json_text(value: Any) -> str:
    """JSON that UTF-8 can carry. Raises TypeError, ValueError (NaN, lone surrogates) and RecursionError."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    text.encode()
    return text


def runs_of(answer: Iterable[Any], events: Sequence[OutgoingEvent]) -> list[UUID | None]:
    """The ids that the server answered, one an event. Raises SendFailed where that is not what they are."""
    try:
        runs = [None if run is None else UUID(run) for run in answer]
    except (TypeError, ValueError, AttributeError):
        raise odd_answer() from None
    if len(runs) != len(events):
        raise odd_answer()
    return runs


def registered_of(answer: Any) -> Registered:
    """What the server answered to a manifest. Raises SendFailed where it is something else."""
    match answer:
        case {"functions": int(functions), "warnings": list(warnings)}:
            return Registered(functions, tuple(str(each) for each in warnings))
        case _:
            raise odd_answer()


def cancelled_of(answer: Any) -> bool:
    """Whether the server said that it cancelled. Raises SendFailed where it said something else."""
    if not isinstance(answer, bool):
        raise odd_answer()
    return answer


def odd_answer() -> SendFailed:
    """For an answer that is not the one of the protocol."""
    return SendFailed("what answered does not speak as Slay Q's server does: check the address, and both versions")
