"""The steps of one segment: what a function asks for, what is recorded of it, and the ops that come of it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from slayq.codec import Codec, codec_of_return, decoded_output, settled_output, type_name
from slayq.errors import InvalidOutput, InvalidStep, RepeatedStep, StepFailed, StepTimedOut, Suspended
from slayq.events import is_utf8
from slayq.protocol_v2 import NAME_CHARACTERS, ErrorRecord, Op, StepKind, StepRecord, StepState
from slayq.segment.failure import Options, judge_step, record_of, retry_after
from slayq.segment.standstill import Fault, Standstill
from slayq.segment.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import CodeType

    from slayq.drivers import OutgoingEvent
    from slayq.protocol_v2 import Segment
    from slayq.segment.journal import Journal

_OWN_PREFIX: Final = "slayq:"
_CONTINUE: Final = f"{_OWN_PREFIX}continue:"


@dataclass(frozen=True, slots=True)
class Ask:
    """A step as a function asks for it, and the place in its code."""

    name: str
    code: CodeType
    line: int

    @property
    def place(self) -> str:
        """Where, for messages."""
        return f"{self.code.co_qualname} ({self.code.co_filename}:{self.line})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a body returned, or raised."""

    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The outcome that a step has already."""

    value: Any


StandIn = Callable[[str], Callable[[], Any] | None]


class Steps:
    """One segment's. Its methods are called in the loop's thread, and raise Suspended when the segment is over."""

    def __init__(
        self,
        segment: Segment,
        journal: Journal,
        standstill: Standstill,
        time_multiplier: float,
        stand_in: StandIn | None = None,
    ) -> None:
        """`stand_in` may give another body than the function's for a step of that name; its result is written down as
        that of the function's."""
        self._stand_in = stand_in
        self._loop = asyncio.get_running_loop()
        self.segment = segment
        self._journal = journal
        self._standstill = standstill
        self._family = standstill.family
        self._time_multiplier = time_multiplier
        self._records = {record.name: record for record in segment.steps}
        self._asked: dict[str, Ask] = {}
        self._pending = 0
        self._out_of_room = False
        self.spent: set[str] = set()
        """Those whose failure is final just because no attempt of the function is left."""

    # Steps that run a body

    async def run(
        self, ask: Ask, body: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
    ) -> Any:
        """What a body returns, or has returned: run at most once in this segment."""
        check_body(ask, body)
        codec = codec_of_return(body)
        recorded = await self.begin(ask, codec)
        if recorded is not None:
            return recorded.value
        instead = self.stand_in(ask)
        call = partial(body, *args, **kwargs) if instead is None else _inline(instead)
        try:
            outcome = await self._execute(ask, call, options.timeout)
        except BaseException:
            self._standstill.body_ends()
            raise
        return await self.finish(ask, codec, options, outcome)

    def stand_in(self, ask: Ask) -> Callable[[], Any] | None:
        """What a test wants to be run in place of a body."""
        return None if self._stand_in is None else self._stand_in(ask.name)

    async def begin(self, ask: Ask, codec: Codec[Any]) -> Recorded | None:
        """The recorded outcome, or None: run the body now, and call `finish`. Raises StepFailed."""
        record = await self._admit(ask, StepKind.RUN)
        if record is not None and record.state is not StepState.PENDING:
            return Recorded(self._outcome(record, codec))
        if record is not None and (record.retry_in_ms or 0) > 0:
            await self._block_pending()
        await self._make_room()
        self._standstill.body_begins()
        return None

    async def finish(self, ask: Ask, codec: Codec[Any], options: Options, outcome: Outcome) -> Any:
        """Write down what came of a body, and return it. Raises StepFailed, or Suspended if it is to run again."""
        try:
            if self._standstill.closed:
                raise Suspended
            error = outcome.error
            if error is None:
                try:
                    value = self._finished(ask, codec, outcome.value)
                except InvalidOutput as invalid:
                    error = invalid
                else:
                    await self._journal.left()
                    return value
        finally:
            self._standstill.body_ends()
        return await self._failed(ask, error, options)

    def _finished(self, ask: Ask, codec: Codec[Any], value: Any) -> Any:
        what = f"step {ask.name!r}"
        output, read_back = settled_output(codec, value, what)
        self._journal.write(Op.STEP, what, {"name": ask.name, "output": output})
        return read_back

    async def _failed(self, ask: Ask, error: BaseException, options: Options) -> NoReturn:
        before = self._records.get(ask.name)
        failures = (before.attempts if before else 0) + 1
        run = self.segment.run
        verdict = judge_step(error, failures, options, last_attempt=run.attempt >= run.max_attempts)
        if verdict.final and not judge_step(error, failures, options, last_attempt=False).final:
            self.spent.add(ask.name)
        record = record_of(error, line_bytes=self._journal.limits.line_bytes)
        wait = None if verdict.retry_after is None else verdict.retry_after * self._time_multiplier
        retry = {} if wait is None else {"retry_after": wait}
        self._journal.write(
            Op.STEP_FAILED,
            f"the error of step {ask.name!r}",
            {"name": ask.name, "error": record.wire(), "attempt": failures, **retry, "final": verdict.final},
        )
        if verdict.final:
            raise _step_failed(ask.name, record)
        if wait is None:
            self._standstill.fail(Fault(record, retry_after(error)))
            await self._standstill.block()
        await self._block_pending()

    def in_body(self, ask: Ask) -> AbstractContextManager[None]:
        """Round the body of a step."""
        return self._family.in_body(ask.name)

    async def _execute(self, ask: Ask, call: Callable[[], Any], timeout: float | None) -> Outcome:
        limit = asyncio.timeout(timeout)
        try:
            with self.in_body(ask):
                async with limit:
                    return Outcome(await _called(call, ask.name))
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if self._standstill.closed or task is None or task.cancelling():
                raise
            return Outcome(error=cancelled)  # of something that the body awaited
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if limit.expired() and isinstance(error, TimeoutError):
                return Outcome(error=TimeoutError(f"the body of step {ask.name!r} took longer than {timeout:g} s"))
            return Outcome(error=error)

    # Steps that wait

    async def sleep(self, ask: Ask, seconds: float) -> None:
        """Sleep for so long, before `time_multiplier`."""
        await self._sleep(ask, {"ms": self._milliseconds(seconds)})

    async def sleep_until(self, ask: Ask, when: datetime) -> None:
        """Sleep until a time that has a time zone; `time_multiplier` shortens what is left until then."""
        if self._time_multiplier == 1:
            await self._sleep(ask, {"until": when.isoformat()})
        else:
            left = (when - datetime.now(UTC)).total_seconds()
            await self._sleep(ask, {"ms": self._milliseconds(max(left, 0.0))})

    async def _sleep(self, ask: Ask, span: Mapping[str, Any]) -> None:
        record = await self._admit(ask, StepKind.SLEEP)
        if record is None:
            await self._make_room()
            self._journal.write(Op.SLEEP, f"step {ask.name!r}", {"name": ask.name, **span})
        elif record.state is not StepState.PENDING:
            return
        await self._block_pending()

    async def wait(self, ask: Ask, event: str, key: str, value: Any, timeout: float | None, codec: Codec[Any]) -> Any:
        """The data of an event that has `value` as its `key`; None if there was none in time (seconds)."""
        record = await self._admit(ask, StepKind.WAIT)
        if record is None:
            await self._make_room()
            op = {"name": ask.name, "event": event, "match": {"key": key, "value": value}, **self._timeout(timeout)}
            self._journal.write(Op.WAIT, f"step {ask.name!r}", op)
        elif record.state is StepState.TIMED_OUT:
            return None
        elif record.state is not StepState.PENDING:
            return self._outcome(record, codec)
        return await self._block_pending()

    async def invoke(self, ask: Ask, event: str, data: Any, timeout: float | None, codec: Codec[Any]) -> Any:
        """What the function of an event returns for this data. Raises StepFailed and StepTimedOut."""
        record = await self._admit(ask, StepKind.INVOKE)
        if record is None:
            await self._make_room()
            op = {"name": ask.name, "event": event, "data": data, **self._timeout(timeout)}
            self._journal.write(Op.INVOKE, f"step {ask.name!r}", op)
        elif record.state is not StepState.PENDING:
            return self._outcome(record, codec)
        return await self._block_pending()

    # A step that sends

    async def send(self, ask: Ask, events: Sequence[OutgoingEvent]) -> None:
        """Have events sent, once."""
        if await self._admit(ask, StepKind.SEND) is None and events:
            await self._make_room()
            wire = [event.wire() for event in events]
            self._journal.write(Op.SEND, f"step {ask.name!r}", {"name": ask.name, "events": wire})

    # The end

    @property
    def asked(self) -> frozenset[str]:
        """The names of the steps that the function has asked for."""
        return frozenset(self._asked)

    def suspend(self) -> None:
        """Write the terminal op of a segment that is suspended."""
        if self._out_of_room and self._pending:
            # A run that has a step pending sleeps until that has an outcome. This one has more to do right now.
            number = sum(name.startswith(_CONTINUE) for name in self._records) + 1
            self._journal.write(Op.SLEEP, "the SDK", {"name": f"{_CONTINUE}{number}", "ms": 0})
        self._journal.write(Op.SUSPEND, "the SDK", {})

    # What all have in common

    async def _admit(self, ask: Ask, kind: StepKind) -> StepRecord | None:
        """What is recorded of a step. Raises InvalidStep."""
        if asyncio.get_running_loop() is not self._loop:
            raise InvalidStep(
                f"step {ask.name!r} was asked for in another event loop than its function's, at {ask.place}: await it"
                f" in the function itself, or make the function a plain `def` with a SyncStep"
            )
        await self._standstill.admit()
        try:
            self._check_ask(ask)
        except InvalidStep as error:
            await self._standstill.refuse(error)
        self._asked[ask.name] = ask
        record = self._records.get(ask.name)
        if record is not None and record.kind is not kind:
            raise InvalidStep(
                f"step {ask.name!r} is asked for as a step of kind {kind}, and this run has recorded it as one of kind"
                f" {record.kind}: give the new step another name"
            )
        return record

    def _check_ask(self, ask: Ask) -> None:
        checked_name(ask.name)
        inside = self._family.body()
        if inside is not None:
            raise InvalidStep(
                f"step {ask.name!r} was asked for in the body of step {inside!r}, at {ask.place}: a body is one step,"
                f" so take it out of there, or do its work without a step"
            )
        first = self._asked.get(ask.name)
        if first is not None:
            raise RepeatedStep(
                f"this run has two steps of the name {ask.name!r}: the first at {first.place}, the second at"
                f" {ask.place}. Give each a name of its own; in a loop, make the item's id a part of it"
            )

    async def _make_room(self) -> None:
        """Wait with a new op where there is no room for it, or where the attempt has failed already."""
        if self._standstill.fault is not None:
            await self._standstill.block()
        if not self._journal.has_room(self._standstill.running):
            self._out_of_room = True
            await self._standstill.block()

    async def _block_pending(self) -> NoReturn:
        self._pending += 1
        await self._standstill.block()

    def _timeout(self, seconds: float | None) -> dict[str, int]:
        return {} if seconds is None else {"timeout_ms": self._milliseconds(seconds)}

    def _milliseconds(self, seconds: float) -> int:
        """Whole milliseconds, shortened by `time_multiplier`."""
        return round(seconds * self._time_multiplier * 1000)

    @staticmethod
    def _outcome(record: StepRecord, codec: Codec[Any]) -> Any:
        if record.state is StepState.DONE:
            return decoded_output(codec, record.output, f"step {record.name!r}")
        if record.state is StepState.TIMED_OUT:
            raise StepTimedOut(record.name)
        raise _step_failed(record.name, record.error or ErrorRecord("Error", "the server did not say why"))


def checked_name(name: object) -> None:
    """Raises InvalidStep for what cannot be a step's name."""
    if not isinstance(name, str):
        raise InvalidStep(f"the name of a step is {type_name(name)}: pass a text first, such as 'reserve'")
    if not 1 <= len(name) <= NAME_CHARACTERS or "\0" in name or not is_utf8(name):
        raise InvalidStep(f"the name of a step, {name!r:.40}, is not 1 to {NAME_CHARACTERS} characters without NUL")
    if name.startswith(_OWN_PREFIX):
        raise InvalidStep(f"the name of a step, {name!r:.40}, begins with {_OWN_PREFIX!r}, which is the SDK's own")


def check_body(ask: Ask, body: object) -> None:
    """Raises InvalidStep for what cannot be called, such as the coroutine that calling it made."""
    checked_name(ask.name)
    if callable(body):
        return
    given = f"is {type_name(body)}"
    if inspect.iscoroutine(body):
        body.close()  # so that Python does not complain, too, that nobody awaited it
        given = f"has been called already ({body.__qualname__})"
    raise InvalidStep(
        f"the body of step {ask.name!r} {given}: pass the function, and its arguments after it, such as"
        f" step.run({ask.name!r}, charge, order)"
    )


def _step_failed(name: str, error: ErrorRecord) -> StepFailed:
    return StepFailed(name, error.type, error.message, error.trace)


async def _called(call: Callable[[], Any], name: str) -> Any:
    """What a body returns: a coroutine function in this task, a plain one in a thread."""
    value = call() if is_async(call) else await in_thread(f"slayq step {name}", call)
    return await value if inspect.isawaitable(value) else value


def _inline(call: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def body() -> Any:
        return call()

    return body


def is_async(call: Any) -> bool:
    """Whether calling it makes a coroutine."""
    while isinstance(call, partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(type(call), "__call__", None))  # noqa: B004
