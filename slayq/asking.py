"""What `Step` and `SyncStep` have in common: what a function asks for, checked, and given on to the segment."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from slayq.codec import codec_of, type_name
from slayq.drivers import OutgoingEvent
from slayq.drivers.wording import events_text
from slayq.duration import seconds_of
from slayq.errors import InvalidEvent, InvalidStep
from slayq.events import Event, event_from, json_object
from slayq.protocol_v2 import SENT_EVENTS
from slayq.segment.failure import Options
from slayq.segment.steps import Ask, Steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta
    from uuid import UUID

    from pydantic import BaseModel

    from slayq.events import Sendable
    from slayq.function import Match

DEFAULTS: Final = Options()


class Asking:
    """One coroutine a step."""

    def __init__(self, steps: Steps, waits_on: Sequence[Match]) -> None:
        self._steps = steps
        self._waits_on = waits_on

    @property
    def run_id(self) -> UUID:
        """The run's id, the same in every attempt."""
        return self._steps.segment.run.id

    @property
    def attempt(self) -> int:
        """Which attempt of the function this is, from 1."""
        return self._steps.segment.run.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts the function has."""
        return self._steps.segment.run.max_attempts

    @property
    def created_at(self) -> datetime:
        """When the run was created, in UTC: a time that does not change from one replay to the next."""
        return self._steps.segment.run.created_at

    async def _sleep(self, ask: Ask, duration: timedelta | str) -> None:
        await self._steps.sleep(ask, _seconds(ask, duration))

    async def _sleep_until(self, ask: Ask, when: datetime) -> None:
        if not isinstance(when, datetime):
            raise InvalidStep(f"step {ask.name!r} sleeps until {when!r:.80}: pass a datetime with a time zone")
        if when.tzinfo is None:
            raise InvalidStep(
                f"step {ask.name!r} sleeps until {when.isoformat()}, which has no time zone: pass an aware datetime,"
                f" such as datetime.now(UTC) + …"
            )
        await self._steps.sleep_until(ask, when)

    async def _wait(self, ask: Ask, event: Event[Any] | str, timeout: timedelta | str | None, match: str | None) -> Any:
        name = event.name if isinstance(event, Event) else event
        key = self._key(ask, name, match)
        value = self._steps.segment.run.data.get(key)
        if not isinstance(value, str | int | float):
            raise InvalidStep(
                f"step {ask.name!r} waits for {name!r} with the run's {key!r}, and that is"
                f" {'missing' if value is None else type_name(value)}: it must be a text, a number or a boolean"
            )
        codec = codec_of(event.schema if isinstance(event, Event) and event.schema else Any)
        return await self._steps.wait(ask, name, key, value, _timeout(ask, timeout), codec)

    def _key(self, ask: Ask, event: str, match: str | None) -> str:
        declared = [each.key for each in self._waits_on if each.event.name == event]
        keys = declared if match is None else [key for key in declared if key == match]
        if len(keys) == 1:
            return keys[0]
        if not keys:
            wanted = match or "the property that the event shares with the run's data"
            raise InvalidStep(
                f"step {ask.name!r} waits for {event!r}, which the function does not declare: add"
                f" waits_on=[({event!r}, {wanted!r})] to it"
            )
        raise InvalidStep(f"step {ask.name!r} waits for {event!r}, which is declared with {keys}: say which as match=…")

    async def _invoke(self, ask: Ask, target: Any, data: Any, timeout: timedelta | str | None) -> Any:
        if isinstance(target, str):
            event, codec = Event(target), codec_of(Any)
        elif isinstance(target, Event):
            event, codec = target, codec_of(Any)
        elif not isinstance(getattr(target, "event", None), Event):
            raise InvalidStep(
                f"step {ask.name!r} invokes {type_name(target)}: pass one that @sq.function has made, or its event"
            )
        else:
            event, codec = target.event, target.output
        if event.schema is not None and not isinstance(data, event.schema):
            raise InvalidStep(
                f"step {ask.name!r} invokes {event.name!r}, which takes {event.schema.__qualname__}, with"
                f" {type_name(data)}: pass an instance of the model"
            )
        seconds = _timeout(ask, timeout)
        outgoing = OutgoingEvent(event.name, json_object(data, event.name))
        events_text([outgoing])  # for what it raises
        return await self._steps.invoke(ask, outgoing.event, outgoing.data, seconds, codec)

    async def _send(self, ask: Ask, events: Iterable[Sendable]) -> None:
        await self._send_all(ask, [event_from(event) for event in events])

    async def _send_one(
        self, ask: Ask, event: Sendable | str, data: Mapping[str, Any] | BaseModel | None, options: dict[str, Any]
    ) -> None:
        await self._send_all(ask, [event_from(event, data, **options)])

    async def _send_all(self, ask: Ask, events: Sequence[OutgoingEvent]) -> None:
        # What the server would refuse is refused here, where the function can catch it, and before it goes on.
        if len(events) > SENT_EVENTS:
            raise InvalidEvent(
                f"step {ask.name!r} sends {len(events):,} events, and {SENT_EVENTS:,} are the most: divide them over"
                f" several steps"
            )
        events_text(events)
        await self._steps.send(ask, events)


def ask_from(name: str) -> Ask:
    """The step that the caller of the caller asks for."""
    frame = sys._getframe(2)
    return Ask(name, frame.f_code, frame.f_lineno)


def options_of(
    retries: int | None, timeout: timedelta | str | None, give_up_on: type[Exception] | tuple[type[Exception], ...]
) -> Options:
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise InvalidStep(
            f"the retries of a step are {retries!r:.40}: pass a whole number from 0 up, or leave them out"
        )
    kinds = give_up_on if isinstance(give_up_on, tuple) else (give_up_on,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidStep(f"give_up_on of a step is {give_up_on!r:.80}: pass types of error, such as (ValueError,)")
    try:
        seconds = None if timeout is None else seconds_of(timeout)
    except ValueError as error:
        raise InvalidStep(f"the timeout of a step: {error}") from None
    return Options(retries, seconds, kinds)


def _seconds(ask: Ask, duration: timedelta | str) -> float:
    try:
        return seconds_of(duration)
    except ValueError as error:
        raise InvalidStep(f"step {ask.name!r}: {error}") from None


def _timeout(ask: Ask, timeout: timedelta | str | None) -> float | None:
    return None if timeout is None else _seconds(ask, timeout)
