"""Takes a function through one segment: starts it, sees when it is over, leaves no task behind, says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from slayq import __version__
from slayq.codec import Codec, settled_output
from slayq.errors import InvalidOutput, StepFailed, Suspended, SwallowedSuspension
from slayq.protocol_v2 import Op
from slayq.segment.failure import blamed, consists_of, may_retry, record_of, retry_after, sole_cause
from slayq.segment.journal import Journal
from slayq.segment.standstill import GRACE_SECONDS, Standstill
from slayq.segment.steps import Steps
from slayq.segment.tasks import Task, end, tracking

if TYPE_CHECKING:
    from slayq.protocol_v2 import Segment
    from slayq.segment.steps import StandIn

logger = logging.getLogger("slayq")

SDK: Final = f"slayq-python/{__version__}"
_UNWIND_SECONDS: Final = 1.0
"""How long a function has to leave once it is suspended or cancelled, before it is cancelled (again)."""
_LEAVING: Final = (Suspended, asyncio.CancelledError)


class Runnable(Protocol):
    """What can be taken through a segment: a function as `slayq.function` makes it."""

    @property
    def label(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether it runs in the loop, and not in a thread."""
        ...

    @property
    def output(self) -> Codec[Any]:
        """How what it returns is written down."""
        ...

    async def call(self, steps: Steps) -> Any:
        """Run its body with the data of the run."""
        ...


class Runner:
    """One segment of a run. Its lines come out of `journal`."""

    def __init__(
        self,
        function: Runnable,
        segment: Segment,
        *,
        time_multiplier: float = 1.0,
        grace: float = GRACE_SECONDS,
        stand_in: StandIn | None = None,
    ) -> None:
        self.journal = Journal(segment.limits)
        self._function = function
        self._segment = segment
        self._time_multiplier = time_multiplier
        self._standstill = Standstill(threaded=not function.is_async, grace=grace)
        self._steps = Steps(segment, self.journal, self._standstill, time_multiplier, stand_in)

    @property
    def asked(self) -> frozenset[str]:
        """The names of the steps that the function has asked for."""
        return self._steps.asked

    async def take(self) -> None:
        """Take the run as far as it goes. Cancelling it cancels the function; then there is no terminal op."""
        try:
            self.journal.write(Op.HELLO, "the SDK", {"lease": self._segment.lease_token, "sdk": SDK})
            with tracking(asyncio.get_running_loop()):
                main = self._start()
                try:
                    ended = await self._ended(main)
                finally:
                    self._standstill.close()
                    await self._sweep(main)
            if ended:
                self._write_end(main)
            else:
                self._write_suspension(main)
        finally:
            self.journal.give_up()

    async def _ended(self, main: Task) -> bool:
        """Wait for the end of the function or of what it can do in this segment; whether it ended by itself."""
        await asyncio.wait({main, self._standstill.over}, return_when=asyncio.FIRST_COMPLETED)
        ended = main.done()
        if not ended:
            await self._suspend(main)
        return ended

    def _start(self) -> Task:
        with self._standstill.family.entered():
            main = asyncio.get_running_loop().create_task(
                self._call(), name=f"slayq run {self._segment.run.id} {self._function.label}"
            )
        self._standstill.watch(main)
        return main

    async def _call(self) -> Any:
        try:
            return await self._function.call(self._steps)
        except SystemExit as exit:
            error = exit
        # Of a task, it would end the loop and the app with it, and again with each retry.
        raise RuntimeError(f"the function raised {error!r}") from error

    async def _suspend(self, main: Task) -> None:
        """Have the function leave: by Suspended where it waits for a step itself, else by cancelling it."""
        if not self._standstill.release():
            main.cancel()
        await asyncio.wait({main}, timeout=_UNWIND_SECONDS)

    async def _sweep(self, main: Task) -> None:
        """End what the function has left behind, and the function if it has not ended."""
        family = self._standstill.family
        left = await end(family.alive() | {main}, _UNWIND_SECONDS)
        started_since = family.alive() - left
        if started_since:
            left |= await end(started_since, _UNWIND_SECONDS)
        if left:
            logger.error(
                "function_ignores_cancellation: %s goes on although it was cancelled; it is left to itself. Let"
                " asyncio.CancelledError and slayq's Suspended pass.",
                self._function.label,
                extra={"run": str(self._segment.run.id)},
            )
            for task in left:
                # So that the end of the loop, which waits for all that it cancels, does not hang on it.
                asyncio.tasks._unregister_task(task)

    def _write_end(self, main: Task) -> None:
        """The terminal op of a function that returned or raised by itself."""
        error = _error_of(main)
        if error is None:
            what = f"function {self._function.label!r}"
            try:
                output, _ = settled_output(self._function.output, main.result(), what)
                self.journal.write(Op.DONE, what, {"output": output})
            except InvalidOutput as invalid:
                self._write_failed(invalid)
        else:
            self._write_failed(error)

    def _write_suspension(self, main: Task) -> None:
        """The terminal op of a function that was made to leave."""
        error = _error_of(main)
        if error is None or not consists_of(error, _LEAVING):
            self._warn_of_swallowing(error)
        fault = self._standstill.fault
        if fault is not None:
            delay = self._delay(fault.retry_after)
            self.journal.write(Op.FAILED, "the error", {"error": fault.error.wire(), "retry": True, **delay})
        elif error is None or not consists_of(error, _LEAVING):
            self._write_failed(self._swallowed(error))
        else:
            self._steps.suspend()

    def _write_failed(self, error: BaseException) -> None:
        steps = blamed(error)
        # Then it is the attempts that are used up, and the server is to say so of the dead letter.
        spent = consists_of(error, (StepFailed,)) and self._steps.spent.issuperset(steps)
        self.journal.write(
            Op.FAILED,
            "the error",
            {
                "error": record_of(error, line_bytes=self.journal.limits.line_bytes).wire(),
                "retry": spent or may_retry(error),
                **self._delay(retry_after(error)),
                **({"steps": steps} if steps else {}),
            },
        )

    def _delay(self, seconds: float | None) -> dict[str, float]:
        return {} if seconds is None else {"retry_after": seconds * self._time_multiplier}

    def _warn_of_swallowing(self, error: BaseException | None) -> None:
        logger.warning("function_swallows_suspension: %s", self._swallowed(error))

    def _swallowed(self, error: BaseException | None) -> SwallowedSuspension:
        did = "went on" if error is None else f"raised {type(sole_cause(error)).__name__}"
        swallowed = SwallowedSuspension(
            f"function {self._function.label!r} {did} when it was suspended. Its `except BaseException`, its bare"
            f" `except`, its `except CancelledError` or its `finally` must let slayq's Suspended and"
            f" asyncio.CancelledError pass; `except Exception` does"
        )
        swallowed.__cause__ = error
        return swallowed


def _error_of(main: Task) -> BaseException | None:
    """What a task raised; None if it returned."""
    if not main.done():
        return None
    if main.cancelled():
        return asyncio.CancelledError("the function cancelled itself, or something that it awaited was cancelled")
    with contextlib.suppress(asyncio.CancelledError):
        return main.exception()
    return None
