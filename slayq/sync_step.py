"""The steps of a plain `def`, which runs in a thread: those of `slayq.step`, each of which waits for its outcome."""

from __future__ import annotations

import asyncio
import concurrent.futures
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from slayq.asking import DEFAULTS, Asking, ask_from, options_of
from slayq.codec import codec_of_return, name_of
from slayq.errors import InvalidStep, Suspended
from slayq.segment.steps import Outcome, check_body, is_async

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from pydantic import BaseModel

    from slayq.events import DataT, Event, Sendable
    from slayq.function import Function, Match
    from slayq.segment.failure import Options
    from slayq.segment.steps import Ask, Steps

P = ParamSpec("P")
T = TypeVar("T")
InT = TypeVar("InT")
OutT = TypeVar("OutT")


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

    def __init__(self, steps: Steps, bridge: _Bridge, options: Options = DEFAULTS) -> None:
        self._steps = steps
        self._bridge = bridge
        self._options = options

    def run(self, name: str, body: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `body(*args, **kwargs)` once, as `Step.run` does, in the function's own thread.

        With a time-out it runs in a thread of its own. Raises as `Step.run` does.
        """
        value: T = self._run(ask_from(name), body, args, kwargs)
        return value

    def _run(self, ask: Ask, body: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        check_body(ask, body)
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


class SyncStep(SyncStepRuns, Asking):
    """The steps of a plain `def`, which runs in a thread: as those of `Step`, but each waits for its outcome."""

    def __init__(self, steps: Steps, waits_on: Sequence[Match]) -> None:
        SyncStepRuns.__init__(self, steps, _Bridge())
        Asking.__init__(self, steps, waits_on)

    def options(
        self,
        *,
        retries: int | None = None,
        timeout: timedelta | str | None = None,
        give_up_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> SyncStepRuns:
        """Options for one step, as those of `Step.options`."""
        return SyncStepRuns(self._steps, self._bridge, options_of(retries, timeout, give_up_on))

    def sleep(self, name: str, duration: timedelta | str) -> None:
        """As `Step.sleep`."""
        self._bridge.call(self._sleep(ask_from(name), duration))

    def sleep_until(self, name: str, when: datetime) -> None:
        """As `Step.sleep_until`."""
        self._bridge.call(self._sleep_until(ask_from(name), when))

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
        return self._bridge.call(self._wait(ask_from(name), event, timeout, match))

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
        return self._bridge.call(self._invoke(ask_from(name), function, {} if data is None else data, timeout))

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
        self._bridge.call(self._send_one(ask_from(name), event, data, options))

    def send_events(self, name: str, events: Iterable[Sendable]) -> None:
        """As `Step.send_events`."""
        self._bridge.call(self._send(ask_from(name), events))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
