"""The steps that a function may take: `Step` in an `async def`; `slayq.sync_step` has those of a plain `def`.

Every step has a name of its own in its run, and one recorded outcome. A function is called again from its start
whenever a step that it waits for has an outcome: what stands in steps happens once, what stands between them each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from slayq.asking import DEFAULTS, Asking, ask_from, options_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from pydantic import BaseModel

    from slayq.events import DataT, Event, Sendable
    from slayq.function import Function, Match
    from slayq.segment.failure import Options
    from slayq.segment.steps import Steps

P = ParamSpec("P")
T = TypeVar("T")
InT = TypeVar("InT")
OutT = TypeVar("OutT")


class StepRuns:
    """Runs bodies as steps, with the options that `Step.options` gave it."""

    def __init__(self, steps: Steps, options: Options = DEFAULTS) -> None:
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
        return self._steps.run(ask_from(name), body, args, kwargs, self._options)


class Step(StepRuns, Asking):
    """The steps of an `async def`. Each is awaited, alone or several at once with `asyncio.gather` or a `TaskGroup`.

    A step without an outcome ends the function for now, by a BaseException that nobody need catch.
    """

    def __init__(self, steps: Steps, waits_on: Sequence[Match]) -> None:
        StepRuns.__init__(self, steps)
        Asking.__init__(self, steps, waits_on)

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
        return StepRuns(self._steps, options_of(retries, timeout, give_up_on))

    def sleep(self, name: str, duration: timedelta | str) -> Coroutine[None, None, None]:
        """Go on after a timedelta, or a text such as "2 days". Nothing runs meanwhile. Raises InvalidStep."""
        return self._sleep(ask_from(name), duration)

    def sleep_until(self, name: str, when: datetime) -> Coroutine[None, None, None]:
        """Go on at a time, which must have a time zone. Nothing runs meanwhile. Raises InvalidStep."""
        return self._sleep_until(ask_from(name), when)

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
        return self._wait(ask_from(name), event, timeout, match)

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
        return self._invoke(ask_from(name), function, {} if data is None else data, timeout)

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
        return self._send_one(ask_from(name), event, data, {"id": id, "run_at": run_at, "priority": priority})

    def send_events(self, name: str, events: Iterable[Sendable]) -> Coroutine[None, None, None]:
        """Send several events, all of them once. Raises InvalidStep and InvalidEvent."""
        return self._send(ask_from(name), events)
