"""The steps that a function may take: `Step` in an `async def`, `SyncStep` in a plain `def`.

Every step has a name of its own in its run, and one recorded outcome. A function is called again from its start
whenever a step that it waits for has an outcome: what stands in steps happens once, what stands between them each time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from slayq.codec import codec_of, codec_of_return, name_of, type_name
from slayq.duration import seconds_of
from slayq.errors import InvalidStep, Suspended
from slayq.events import Event, event_from, json_object
from slayq.segment.failure import Options
from slayq.segment.steps import Ask, Outcome, Steps, is_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
    from datetime import timedelta
    from uuid import UUID

    from pydantic import BaseModel

    from slayq.events import DataT, Sendable
    from slayq.function import Function, Match

P = ParamSpec("P")
T = TypeVar("T")
InT = TypeVar("InT")
OutT = TypeVar("OutT")

_DEFAULTS = Options()


class StepRuns:
    """Runs bodies as steps, with the options that `Step.options` gave it."""

    def __init__(self, steps: Steps, options: Options = _DEFAULTS) -> None:
        self._steps = steps
        self._options = options

    @overload
    def run(
        self, name: str, body: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, T]: ...
    @overload
    def run(
        self, name: str, body: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, T]: ...
    def run(self, name: str, body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[None, None, Any]:
        """Run `body(*args, **kwargs)` once, and return what it returns, now and whenever the function runs again.

        The result is written down as JSON and read back as what the body's return annotation says; without one it comes
        back as plain dicts, lists and so on. A plain function runs in a thread.

        A body runs at least once: when the app dies before its result is written down, it runs again. `step.run_id`
        and the step's name make an idempotency key for third parties.

        Raises:
            StepFailed: the body raised, and no retry is left; see `options`.
            InvalidStep: the name is no name or has been used in this run, or this is called in the body of a step.
        """
        return self._steps.run(_ask(name), body, args, kwargs, self._options)


class _Asking:
    """What `Step` and `SyncStep` have in common: one coroutine a step."""

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
        else:
            event, codec = target.event, target.output
        if event.schema is not None and not isinstance(data, event.schema):
            raise InvalidStep(
                f"step {ask.name!r} invokes {event.name!r}, which takes {event.schema.__qualname__}, with"
                f" {type_name(data)}: pass an instance of the model"
            )
        seconds = _timeout(ask, timeout)
        return await self._steps.invoke(ask, event.name, json_object(data, event.name), seconds, codec)

    async def _send(self, ask: Ask, events: Iterable[Sendable]) -> None:
        await self._steps.send(ask, [event_from(event) for event in events])

    async def _send_one(
        self, ask: Ask, event: Sendable | str, data: Mapping[str, Any] | BaseModel | None, options: dict[str, Any]
    ) -> None:
        await self._steps.send(ask, [event_from(event, data, **options)])


class Step(StepRuns, _Asking):
    """The steps of an `async def`. Each is awaited, alone or several at once with `asyncio.gather` or a `TaskGroup`.

    A step without an outcome ends the function for now, by a BaseException that nobody need catch.
    """

    def __init__(self, steps: Steps, waits_on: Sequence[Match]) -> None:
        StepRuns.__init__(self, steps)
        _Asking.__init__(self, steps, waits_on)

    def options(
        self,
        *,
        retries: int | None = None,
        timeout: timedelta | str | None = None,
        give_up_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> StepRuns:
        """Options for one step: `await step.options(retries=3, timeout="30s").run("charge", charge, order)`.

        Args:
            retries: how often the step is run again by itself, after 1 s, 2 s, 4 s and so on up to an hour, or after
                what a `RetryAfter` says. No attempt of the function is used. None: a failure is one of the function.
            timeout: how long one run of the body may take; then it fails with TimeoutError. A plain function goes on in
                its thread, and what it returns is dropped.
            give_up_on: types of error for which the step is not tried again.

        Raises InvalidStep.
        """
        return StepRuns(self._steps, _options(retries, timeout, give_up_on))

    def sleep(self, name: str, duration: timedelta | str) -> Coroutine[None, None, None]:
        """Go on after a timedelta, or a text such as "2 days". Nothing runs meanwhile. Raises InvalidStep."""
        return self._sleep(_ask(name), duration)

    def sleep_until(self, name: str, when: datetime) -> Coroutine[None, None, None]:
        """Go on at a time, which must have a time zone. Nothing runs meanwhile. Raises InvalidStep."""
        return self._sleep_until(_ask(name), when)

    @overload
    def wait_for_event(
        self, name: str, event: Event[DataT], *, match: str | None = None
    ) -> Coroutine[None, None, DataT]: ...
    @overload
    def wait_for_event(
        self, name: str, event: Event[DataT], *, timeout: timedelta | str | None, match: str | None = None
    ) -> Coroutine[None, None, DataT | None]: ...
    @overload
    def wait_for_event(
        self, name: str, event: str, *, timeout: timedelta | str | None = None, match: str | None = None
    ) -> Coroutine[None, None, dict[str, Any] | None]: ...
    def wait_for_event(
        self,
        name: str,
        event: Event[Any] | str,
        *,
        timeout: timedelta | str | None = None,
        match: str | None = None,
    ) -> Coroutine[None, None, Any]:
        """The data of an event that belongs to this run, or None when the time-out is up.

        It belongs to the run if its data and the run's have the same value in the property that `waits_on` of the
        function names. One that was sent since the run was created counts, too.

        Args:
            name: of the step.
            event: one that the function declares in `waits_on`.
            timeout: after which the result is None. Without one, the run waits for as long as it takes.
            match: which property, if `waits_on` has the event with several.

        Raises InvalidStep.
        """
        return self._wait(_ask(name), event, timeout, match)

    @overload
    def invoke(
        self, name: str, function: Function[InT, OutT], data: InT, *, timeout: timedelta | str | None = None
    ) -> Coroutine[None, None, OutT]: ...
    @overload
    def invoke(
        self, name: str, function: Function[dict[str, Any], OutT], *, timeout: timedelta | str | None = None
    ) -> Coroutine[None, None, OutT]: ...
    @overload
    def invoke(
        self, name: str, function: Event[DataT], data: DataT, *, timeout: timedelta | str | None = None
    ) -> Coroutine[None, None, Any]: ...
    @overload
    def invoke(
        self,
        name: str,
        function: str,
        data: Mapping[str, Any] | BaseModel = ...,
        *,
        timeout: timedelta | str | None = None,
    ) -> Coroutine[None, None, Any]: ...
    def invoke(
        self, name: str, function: Any, data: Any = None, *, timeout: timedelta | str | None = None
    ) -> Coroutine[None, None, Any]:
        """Start another function, wait for its end, and return what it returned.

        Args:
            name: of the step.
            function: a function of this code, or the event (or its name) of one elsewhere, whose result is plain JSON.
            data: what it is started with.
            timeout: after which StepTimedOut is raised. The invoked run goes on.

        Raises:
            StepFailed: it failed for good, or was cancelled; `error_type` is then "InvocationFailed".
            StepTimedOut, InvalidStep, InvalidEvent.
        """
        return self._invoke(_ask(name), function, {} if data is None else data, timeout)

    def send_event(
        self,
        name: str,
        event: Sendable | str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        id: str | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
    ) -> Coroutine[None, None, None]:
        """Send an event, once: `placed(order)`, `{"event": …, "data": …}`, or a name and its data.

        It is sent in the transaction that records the step. `id`, `run_at` and `priority` go with a name, as for an
        `Event`. Raises InvalidStep and InvalidEvent.
        """
        return self._send_one(_ask(name), event, data, {"id": id, "run_at": run_at, "priority": priority})

    def send_events(self, name: str, events: Iterable[Sendable]) -> Coroutine[None, None, None]:
        """Send several events, all of them once. Raises InvalidStep and InvalidEvent."""
        return self._send(_ask(name), events)


class _Bridge:
    """Calls from a function's thread into the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def call(self, step: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns in the loop. Raises what it raises, and Suspended if it is cancelled."""
        if _running_loop() is self._loop:
            step.close()
            raise InvalidStep("a SyncStep was used in the event loop's thread: take it only in the function itself")
        try:
            return asyncio.run_coroutine_threadsafe(step, self._loop).result()
        except concurrent.futures.CancelledError:
            pass  # Left first: it is an Exception, so that functions could catch it by mistake.
        raise Suspended


class SyncStepRuns:
    """Runs plain bodies as steps, with the options that `SyncStep.options` gave it."""

    def __init__(self, steps: Steps, bridge: _Bridge, options: Options = _DEFAULTS) -> None:
        self._steps = steps
        self._bridge = bridge
        self._options = options

    def run(self, name: str, body: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `body(*args, **kwargs)` once, as `Step.run` does, in the function's own thread.

        With a time-out it runs in a thread of its own. Raises as `Step.run` does.
        """
        value: T = self._run(_ask(name), body, args, kwargs)
        return value

    def _run(self, ask: Ask, body: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if is_async(body):
            raise InvalidStep(
                f"step {ask.name!r} of a plain function has the coroutine function {name_of(body)} as its body:"
                " make the function an `async def` that takes a Step, or the body a plain `def`"
            )
        if self._options.timeout is not None:
            return self._bridge.call(self._steps.run(ask, body, args, kwargs, self._options))
        codec = codec_of_return(body)
        recorded = self._bridge.call(self._steps.begin(ask, codec))
        if recorded is not None:
            return recorded.value
        outcome = self._outcome(ask, self._steps.stand_in(ask) or partial(body, *args, **kwargs))
        return self._bridge.call(self._steps.finish(ask, codec, self._options, outcome))

    def _outcome(self, ask: Ask, call: Callable[[], Any]) -> Outcome:
        try:
            with self._steps.in_body(ask):
                return Outcome(call())
        except BaseException as error:  # whatever it is, the thread is ours
            return Outcome(error=error)


class SyncStep(SyncStepRuns, _Asking):
    """The steps of a plain `def`, which runs in a thread: as those of `Step`, but each waits for its outcome."""

    def __init__(self, steps: Steps, waits_on: Sequence[Match]) -> None:
        SyncStepRuns.__init__(self, steps, _Bridge())
        _Asking.__init__(self, steps, waits_on)

    def options(
        self,
        *,
        retries: int | None = None,
        timeout: timedelta | str | None = None,
        give_up_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> SyncStepRuns:
        """Options for one step, as those of `Step.options`."""
        return SyncStepRuns(self._steps, self._bridge, _options(retries, timeout, give_up_on))

    def sleep(self, name: str, duration: timedelta | str) -> None:
        """As `Step.sleep`."""
        self._bridge.call(self._sleep(_ask(name), duration))

    def sleep_until(self, name: str, when: datetime) -> None:
        """As `Step.sleep_until`."""
        self._bridge.call(self._sleep_until(_ask(name), when))

    @overload
    def wait_for_event(self, name: str, event: Event[DataT], *, match: str | None = None) -> DataT: ...
    @overload
    def wait_for_event(
        self, name: str, event: Event[DataT], *, timeout: timedelta | str | None, match: str | None = None
    ) -> DataT | None: ...
    @overload
    def wait_for_event(
        self, name: str, event: str, *, timeout: timedelta | str | None = None, match: str | None = None
    ) -> dict[str, Any] | None: ...
    def wait_for_event(
        self,
        name: str,
        event: Event[Any] | str,
        *,
        timeout: timedelta | str | None = None,
        match: str | None = None,
    ) -> Any:
        """As `Step.wait_for_event`."""
        return self._bridge.call(self._wait(_ask(name), event, timeout, match))

    @overload
    def invoke(
        self, name: str, function: Function[InT, OutT], data: InT, *, timeout: timedelta | str | None = None
    ) -> OutT: ...
    @overload
    def invoke(
        self, name: str, function: Function[dict[str, Any], OutT], *, timeout: timedelta | str | None = None
    ) -> OutT: ...
    @overload
    def invoke(
        self, name: str, function: Event[DataT], data: DataT, *, timeout: timedelta | str | None = None
    ) -> Any: ...
    @overload
    def invoke(
        self,
        name: str,
        function: str,
        data: Mapping[str, Any] | BaseModel = ...,
        *,
        timeout: timedelta | str | None = None,
    ) -> Any: ...
    def invoke(self, name: str, function: Any, data: Any = None, *, timeout: timedelta | str | None = None) -> Any:
        """As `Step.invoke`."""
        return self._bridge.call(self._invoke(_ask(name), function, {} if data is None else data, timeout))

    def send_event(
        self,
        name: str,
        event: Sendable | str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        id: str | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
    ) -> None:
        """As `Step.send_event`."""
        options = {"id": id, "run_at": run_at, "priority": priority}
        self._bridge.call(self._send_one(_ask(name), event, data, options))

    def send_events(self, name: str, events: Iterable[Sendable]) -> None:
        """As `Step.send_events`."""
        self._bridge.call(self._send(_ask(name), events))


def _ask(name: str) -> Ask:
    """The step that the caller of the caller asks for."""
    frame = sys._getframe(2)
    return Ask(name, frame.f_code, frame.f_lineno)


def _options(
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


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
