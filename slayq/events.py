"""Events: a name, and what data goes with it, once for all who send it, wait for it or are started by it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NotRequired, TypedDict, TypeVar, cast, overload

from pydantic import BaseModel

from slayq.codec import Codec, NotJson, codec_of, type_name
from slayq.drivers import OutgoingEvent
from slayq.errors import InvalidDefinition, InvalidEvent
from slayq.protocol_v2 import NAME_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

DataT = TypeVar("DataT", bound="BaseModel | dict[str, Any]")
ModelT = TypeVar("ModelT", bound=BaseModel)


class EventDict(TypedDict):
    """An event to send, as a dict. `run_at` has a time zone; `priority` 0 is the highest."""

    event: str
    data: NotRequired[Mapping[str, Any] | BaseModel]
    id: NotRequired[str | None]
    run_at: NotRequired[datetime | None]
    priority: NotRequired[int | None]
    traceparent: NotRequired[str | None]


class Event(Generic[DataT]):
    """A typed name: `Event("shop/order.placed", OrderPlaced)`, or `Event("shop/ping")` whose data is any JSON object.

    Calling it makes an event to send. Raises InvalidDefinition for a name of more than 512 characters or none, and for
    a schema that is no pydantic model.
    """

    name: str
    schema: type[DataT] | None
    """The pydantic model of the data; None if any JSON object will do."""

    @overload
    def __init__(self: Event[dict[str, Any]], name: str) -> None: ...
    @overload
    def __init__(self, name: str, schema: type[DataT]) -> None: ...
    def __init__(self, name: str, schema: Any = None) -> None:
        self.name = checked_event_name(name, "an event")
        self.schema = checked_schema(schema, f"the event {name!r}")

    def __call__(
        self,
        data: DataT,
        *,
        id: str | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        traceparent: str | None = None,
    ) -> OutgoingEvent:
        """An event to send.

        Args:
            data: an instance of the schema, or a dict if there is none.
            id: sending twice under one id makes one run.
            run_at: an aware time before which the run does not start.
            priority: instead of the function's own; 0 is the highest.
            traceparent: W3C trace context, handed on to the run.

        Raises InvalidEvent.
        """
        if self.schema is not None and not isinstance(data, self.schema):
            raise InvalidEvent(
                f"the event {self.name!r} takes {self.schema.__qualname__}, and was given {type_name(data)}"
            )
        return outgoing(self.name, data, id=id, run_at=run_at, priority=priority, traceparent=traceparent)

    def __repr__(self) -> str:
        schema = "" if self.schema is None else f", {self.schema.__qualname__}"
        return f"Event({self.name!r}{schema})"


Sendable = OutgoingEvent | EventDict
"""What can be sent: what an `Event` makes when it is called, or a dict such as `{"event": "a", "data": {}}`."""

_KEYS = frozenset(EventDict.__annotations__)


def event_from(
    event: Sendable | str, data: Mapping[str, Any] | BaseModel | None = None, **options: Any
) -> OutgoingEvent:
    """An event to send, however it was said. Raises InvalidEvent."""
    if isinstance(event, str):
        return outgoing(event, {} if data is None else data, **options)
    if data is not None or any(value is not None for value in options.values()):
        raise InvalidEvent("the event brings its data and options along: pass them where it is made, not beside it")
    if isinstance(event, OutgoingEvent):
        return event
    if not isinstance(event, dict):
        raise InvalidEvent(f"an event to send is what an Event makes, a dict or a name, not {type_name(event)}")
    given = cast("dict[str, Any]", event)
    if "event" not in given or not _KEYS.issuperset(given):
        raise InvalidEvent(f"an event as a dict has 'event', and may have {', '.join(sorted(_KEYS - {'event'}))}")
    return outgoing(given["event"], **{"data": {}, **{key: given[key] for key in given if key != "event"}})


def outgoing(
    name: str,
    data: Any,
    *,
    id: str | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    traceparent: str | None = None,
) -> OutgoingEvent:
    """An event to send, checked. Raises InvalidEvent."""
    try:
        checked_event_name(name, "an event")
    except InvalidDefinition as error:
        raise InvalidEvent(str(error)) from None
    if run_at is not None and (not isinstance(run_at, datetime) or run_at.tzinfo is None):
        raise InvalidEvent(f"run_at of the event {name!r} is not a datetime with a time zone: give it one, such as UTC")
    if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int) or priority < 0):
        raise InvalidEvent(f"the priority of the event {name!r} is {priority!r}: use a whole number, 0 is the highest")
    if id is not None and not (isinstance(id, str) and id):
        raise InvalidEvent(f"the id of the event {name!r} is no text, or empty: leave it out, or name one")
    return OutgoingEvent(name, json_object(data, name), id, run_at, priority, traceparent)


def json_object(data: Any, name: str) -> dict[str, Any]:
    """The data of an event as a JSON object. Raises InvalidEvent."""
    codec: Codec[Any] = codec_of(type(data) if isinstance(data, BaseModel) else Any)
    try:
        value = codec.dump(data)
    except NotJson as error:
        raise InvalidEvent(f"the data of the event {name!r} {error}") from None
    if not isinstance(value, dict):
        raise InvalidEvent(f"the data of the event {name!r} is {type_name(data)}: pass a pydantic model or a dict")
    return value


def checked_event_name(name: object, what: str) -> str:
    """A name that an event can have. Raises InvalidDefinition."""
    if not isinstance(name, str):
        raise InvalidDefinition(f"the name of {what} is {type_name(name)}: pass a text, such as 'shop/order.placed'")
    if not 1 <= len(name) <= NAME_CHARACTERS or "\0" in name or not is_utf8(name):
        raise InvalidDefinition(
            f"the name of {what}, {name!r:.40}, is not 1 to {NAME_CHARACTERS} characters of text without NUL"
        )
    return name


def checked_schema(schema: Any, what: str) -> Any:
    """A pydantic model or None. Raises InvalidDefinition."""
    if schema is None or (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return schema
    shown = schema.__qualname__ if isinstance(schema, type) else repr(schema)[:80]
    raise InvalidDefinition(f"the schema of {what} is {shown}: pass a pydantic model, that is a class from BaseModel")


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
