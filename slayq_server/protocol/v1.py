"""Protocol v1's callback: from a job's payload, as Postgres has it, to the bytes that are signed and posted.

A stock app signs again what it has parsed, so a body must be what JavaScript prints (see `js_json`), with its keys in
the order of `slayq.protocol.BODY_KEYS`. What of that depends on the payload alone is prepared once, in `callback_of`;
number and time of a delivery come in with `Callback.body`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from slayq.protocol import CRON_JOB_KEY
from slayq_server.model import quick_dataclass
from slayq_server.protocol.js_json import (
    InvalidJson,
    array_elements,
    has_lone_surrogate,
    kind_of,
    ordered,
    parse,
    quoted,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slayq_server.protocol.js_json import Value

_Object: TypeAlias = "dict[str, Value]"


class UndeliverablePayload(ValueError):
    """A payload that no callback can be made of, whatever the app does. The message says why, and quotes none of it."""


@quick_dataclass
class Callback:
    """A job's callback, but for what differs from delivery to delivery."""

    url: str
    """Where to post, as the payload has it: neither its scheme nor its host is checked here."""
    event: str
    """The event's name."""
    members: str
    """The body's members that come from the payload (event, data, cache), printed: `"event":"a/b","data":{}`."""
    batch_size: int | None = None
    """How many elements `data` has, if the payload is a batch; else None."""

    def body(self, job_key: str | None, retry: int, time_ms: int) -> bytes:
        """The bytes to sign and post. `retry` counts deliveries from 1; `time_ms` is milliseconds since the epoch."""
        key = quoted(CRON_JOB_KEY if job_key is None else job_key)
        return f'{{"job_key":{key},"retry":{retry},"time":{time_ms},{self.members}}}'.encode()


def callback_of(payload: str, patches: str | None = None) -> Callback:
    """The callback that a job's payload asks for; raises UndeliverablePayload.

    `payload` is the JSON text of an object with `url`, `event` and, where they are wanted, `data` and `cache`; or of a
    batch: an array of such objects that share url and event, posted as one callback whose `data` is the array of theirs
    (null for one that has none).

    `patches` is the JSON text of `[[step, value], ...]`, set in the object's `cache` one after the other. A batch has
    no cache: patches do nothing to it.
    """
    value = _parsed(payload, "the payload")
    if isinstance(value, list):
        return _batch_callback(value)
    if not isinstance(value, dict):
        raise UndeliverablePayload(f"the payload must be a JSON object with url and event, not {kind_of(value)}")
    url, event = _target(value, "the payload")
    if patches is not None:
        _apply(_parsed(patches, "the job's list of step results"), value)
    members: _Object = {"event": event}
    for key in ("data", "cache"):
        if key in value:
            members[key] = value[key]
    return Callback(url, event, text_of(members)[1:-1])


def keep_indexes(payload: str, indexes: Sequence[int]) -> str:
    """A batch payload with just the elements at `indexes`, in the payload's order, each spelled as it was.

    Raises ValueError if the payload is no JSON array, and IndexError for an index that it does not have.
    """
    elements = array_elements(payload)
    for index in indexes:
        if not 0 <= index < len(elements):
            raise IndexError(f"the batch has {len(elements)} elements: there is none at index {index}")
    return f"[{','.join(elements[index] for index in sorted(set(indexes)))}]"


def _batch_callback(elements: list[Value]) -> Callback:
    if not elements:
        raise UndeliverablePayload("the payload is an empty array: a batch needs at least one element")
    targets: list[tuple[str, str]] = []
    data: list[Value] = []
    for index, element in enumerate(elements):
        where = f"element {index} of the batch"
        if not isinstance(element, dict):
            raise UndeliverablePayload(f"{where} must be a JSON object with url and event, not {kind_of(element)}")
        targets.append(_target(element, where))
        if targets[index] != targets[0]:
            raise UndeliverablePayload(f"{where} has not the url and event of element 0: a batch must share them")
        data.append(element.get("data"))
    url, event = targets[0]
    return Callback(url, event, text_of({"event": event, "data": data})[1:-1], len(data))


def _target(members: _Object, where: str) -> tuple[str, str]:
    """The url and the event that an object names; `where` says in an error which object it is."""
    url, event = _name(members, "url", where), _name(members, "event", where)
    if has_lone_surrogate(url):
        raise UndeliverablePayload(f"url of {where} holds half a surrogate pair: no URL can")
    return url, event


def _name(members: _Object, key: str, where: str) -> str:
    if key not in members:
        raise UndeliverablePayload(f"{where} has no {key}: add it, as a non-empty string")
    value = members[key]
    if not isinstance(value, str):
        raise UndeliverablePayload(f"{key} of {where} must be a non-empty string, not {kind_of(value)}")
    if not value:
        raise UndeliverablePayload(f"{key} of {where} is empty: it must be a non-empty string")
    return value


def _apply(patches: Value, members: _Object) -> None:
    """Set each step's value in the object's cache; an absent or null cache becomes an object."""
    if not isinstance(patches, list):
        raise UndeliverablePayload(f"the job's step results must be an array of [step, value], not {kind_of(patches)}")
    if not patches:
        return
    cache = members.get("cache")
    if cache is None:
        cache = {}
    if not isinstance(cache, dict):
        raise UndeliverablePayload(
            f"cache of the payload must be an object for steps to be added, not {kind_of(cache)}"
        )
    for index, patch in enumerate(patches):
        match patch:
            case [str(step), value]:
                cache[step] = value
            case _:
                raise UndeliverablePayload(
                    f"step result {index} of the job must be an array of a step's name and a value"
                )
    members["cache"] = ordered(cache)


def _parsed(json_text: str, what: str) -> Value:
    try:
        return parse(json_text)
    except InvalidJson as error:
        raise UndeliverablePayload(f"{what} is {error}") from None
