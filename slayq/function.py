"""Functions: what a developer defines, checked where it is defined, and as the server is told of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from slayq.codec import Codec, codec_of, codec_of_return, name_of, parameter_annotation, problems_of, type_name
from slayq.errors import InvalidData, InvalidDefinition
from slayq.events import Event, checked_event_name
from slayq.segment.steps import is_async
from slayq.segment.threads import in_thread
from slayq.step import Step
from slayq.sync_step import SyncStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq.segment.steps import Steps

InputT = TypeVar("InputT", contravariant=True)
OutputT = TypeVar("OutputT", covariant=True)


@dataclass(frozen=True, slots=True)
class Match:
    """An event that counts for a run if its data has the same value as the run's under `key`."""

    event: Event[Any]
    key: str

    def wire(self) -> dict[str, str]:
        """As an object of the manifest."""
        return {"event": self.event.name, "match": self.key}


@dataclass(frozen=True)
class Function(Generic[InputT, OutputT]):
    """A durable function: `SlayQ.function` makes them, `Step.invoke` and `invokes=` take them.

    `body` is the function as it was written; `matches` are those of `waits_on`.
    """

    event: Event[Any]
    name: str
    body: Callable[..., Any]
    queue: str
    retries: int
    priority: int
    cron: str | None
    cancel_on: tuple[Match, ...]
    waits_on: tuple[Match, ...]
    invokes: tuple[str, ...]
    takes_data: bool
    is_async: bool

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.name

    @property
    def output(self) -> Codec[Any]:
        """How what it returns is written down and read back."""
        return codec_of_return(self.body)

    async def call(self, steps: Steps) -> Any:
        """Run the body, a plain one in a thread. Raises InvalidData, and what the body raises."""
        _ = self.output  # first of all: what cannot be written down in the end need not begin
        arguments = [self.read_data(steps.segment.run.data)] if self.takes_data else []
        if self.is_async:
            return await self.body(*arguments, Step(steps, self.waits_on))
        return await in_thread(f"slayq {self.name}", partial(self.body, *arguments, SyncStep(steps, self.waits_on)))

    def read_data(self, data: dict[str, Any]) -> Any:
        """A run's data as its schema says. Raises InvalidData."""
        if self.event.schema is None:
            return data
        try:
            return codec_of(self.event.schema).load(data)
        except ValidationError as error:
            raise InvalidData(
                f"the run's data does not fit {self.event.schema.__qualname__}, the schema of function {self.name!r}:"
                f" {problems_of(error)}"
            ) from None

    def manifest(self) -> dict[str, Any]:
        """What the server is told of it. Raises InvalidStep if what it returns cannot be recorded."""
        _ = self.output
        schema: type[BaseModel] | None = self.event.schema
        return {
            "event": self.event.name,
            "name": self.name,
            "queue": self.queue,
            "retries": self.retries,
            "priority": self.priority,
            "cron": self.cron,
            "cancel_on": [match.wire() for match in self.cancel_on],
            "waits_on": [match.wire() for match in self.waits_on],
            "invokes": list(self.invokes),
            "schema": None if schema is None else schema.model_json_schema(by_alias=True),
        }


def define(
    body: Callable[..., Any],
    *,
    event: Event[Any],
    name: str | None,
    queue: str,
    retries: int,
    priority: int,
    cron: str | None,
    cancel_on: Iterable[tuple[Event[Any] | str, str]],
    waits_on: Iterable[tuple[Event[Any] | str, str]],
    invokes: Iterable[Function[Any, Any] | Event[Any] | str],
) -> Function[Any, Any]:
    """A function, checked. Raises InvalidDefinition."""
    what = f"function {name or name_of(body)!r}"
    if name is not None:
        _text(name, "name", what)
    for key, given in (("cancel_on", cancel_on), ("waits_on", waits_on), ("invokes", invokes)):
        _check_several(given, key, what)
    if cron is not None:
        _check_cron(cron, event, what)
    return Function[Any, Any](
        event=event,
        name=name or str(getattr(body, "__name__", name_of(body))),
        body=body,
        queue=_text(queue, "queue", what),
        retries=_count(retries, "retries", what),
        priority=_count(priority, "priority", what),
        cron=cron,
        cancel_on=_matches(cancel_on, "cancel_on", event, what),
        waits_on=_matches(waits_on, "waits_on", event, what),
        invokes=tuple(_event_name(each, what) for each in invokes),
        takes_data=_takes_data(body, event, what),
        is_async=is_async(body),
    )


def _check_cron(cron: object, event: Event[Any], what: str) -> None:
    if not isinstance(cron, str) or not cron.strip():
        raise InvalidDefinition(f"the cron of {what} is {cron!r}: write one such as 'TZ=Asia/Singapore 0 3 * * *'")
    if event.schema is not None:
        raise InvalidDefinition(
            f"{what} has a cron and the data schema {event.schema.__qualname__}, and a tick brings no data: leave out"
            f" the schema, or have a function with a cron send the event"
        )


def _text(value: object, key: str, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidDefinition(f"{key} of {what} is {value!r}: name one, or leave it out")
    return value


def _count(value: object, key: str, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InvalidDefinition(f"{key} of {what} is {value!r}: pass a whole number from 0 up")
    return value


def _check_several(given: object, key: str, what: str) -> None:
    """A text is several, too: its characters."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidDefinition(f"{key} of {what} is {given!r:.80}: pass a list, even of one")


def _event_name(target: object, what: str) -> str:
    if isinstance(target, Function | Event):
        return target.event.name if isinstance(target, Function) else target.name
    if isinstance(target, str):
        return checked_event_name(target, f"an event that {what} invokes")
    raise InvalidDefinition(f"invokes of {what} has {type_name(target)}: name functions of Slay Q, or their events")


def _matches(pairs: Iterable[tuple[Event[Any] | str, str]], key: str, own: Event[Any], what: str) -> tuple[Match, ...]:
    found: list[Match] = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], str) or not pair[1]:
            raise InvalidDefinition(
                f"{key} of {what} is a list of pairs such as [(paid, 'order_id')], and has {pair!r:.80}"
            )
        event = (
            pair[0]
            if isinstance(pair[0], Event)
            else Event(checked_event_name(pair[0], f"an event in {key} of {what}"))
        )
        match = Match(event, pair[1])
        if match.wire() in [each.wire() for each in found]:
            raise InvalidDefinition(f"{key} of {what} names {event.name!r} with {pair[1]!r} twice: leave one out")
        _check_property(event, pair[1], f"{key} of {what} says that {event!r} is matched by {pair[1]!r}")
        _check_property(own, pair[1], f"{key} of {what} says that {own!r} is matched by {pair[1]!r}")
        found.append(match)
    return tuple(found)


def _check_property(event: Event[Any], key: str, claim: str) -> None:
    if event.schema is None:
        return
    properties = event.schema.model_json_schema(by_alias=True).get("properties", {})
    if key not in properties:
        known = ", ".join(properties) or "none"
        raise InvalidDefinition(f"{claim}, and its schema has no such property: name one that it has ({known})")


def _takes_data(body: Callable[..., Any], event: Event[Any], what: str) -> bool:
    """Whether a body wants the run's data; checks that it can be called at all."""
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise InvalidDefinition(f"{what} is a generator: return a value in place of `yield`")
    try:
        signature = inspect.signature(body)
    except (TypeError, ValueError):
        raise InvalidDefinition(f"{what} is no function: decorate a `def` or an `async def`") from None
    parameters = [
        each
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if not 1 <= len(parameters) <= 2 or any(each.kind is each.KEYWORD_ONLY for each in parameters):
        raise InvalidDefinition(f"{what} takes {len(parameters)} arguments: let it take (data, step), or only (step)")
    _check_order(body, [each.name for each in parameters], what)
    _check_step_annotation(body, parameters[-1].name, what)
    if len(parameters) == 2:
        _check_data_annotation(body, parameters[0].name, event, what)
    return len(parameters) == 2


def _check_order(body: Callable[..., Any], parameters: list[str], what: str) -> None:
    """Refuses (step, data), and (data) alone, which would be given the step."""
    first, last = (parameter_annotation(body, parameters[at]) for at in (0, -1))
    is_model = isinstance(last, type) and issubclass(last, BaseModel)
    if is_model or (len(parameters) == 2 and first in (Step, SyncStep)):
        raise InvalidDefinition(f"{what} takes ({', '.join(parameters)}): let it take (data, step), or only (step)")


def _check_step_annotation(body: Callable[..., Any], parameter: str, what: str) -> None:
    wanted, other = (Step, SyncStep) if is_async(body) else (SyncStep, Step)
    if parameter_annotation(body, parameter) is other:
        kind = "an `async def`" if wanted is Step else "a plain `def`"
        raise InvalidDefinition(f"{what} is {kind} and takes {other.__name__}: annotate the last as {wanted.__name__}")


def _check_data_annotation(body: Callable[..., Any], parameter: str, event: Event[Any], what: str) -> None:
    wanted = parameter_annotation(body, parameter)
    is_model = isinstance(wanted, type) and issubclass(wanted, BaseModel)
    if is_model and (event.schema is None or not issubclass(event.schema, wanted)):
        has = "no schema" if event.schema is None else f"the schema {event.schema.__qualname__}"
        raise InvalidDefinition(
            f"{what} takes {wanted.__qualname__}, and its event {event.name!r} has {has}: pass"
            f" schema={wanted.__qualname__} or an Event of it"
        )
