"""What came of an error: how it is written down, and whether what raised it is to be tried again."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import slayq
from slayq.errors import InvalidData, InvalidOutput, InvalidStep, NoRetry, RetryAfter, StepFailed
from slayq.protocol_v2 import LINE_BYTES, TRACE_CHARACTERS, ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TYPE_CHARACTERS: Final = 200
_MESSAGE_CHARACTERS: Final = 4_000
_FIRST_BACKOFF: Final = 1.0
_LONGEST_BACKOFF: Final = 3600.0
_MOST_BLAMED: Final = 100
_OURS: Final = os.path.join(Path(slayq.__file__).parent, "")


@dataclass(frozen=True, slots=True)
class Options:
    """How a step's body is run. `retries` None: a failure takes one of the function's attempts. Seconds."""

    retries: int | None = None
    timeout: float | None = None
    give_up_on: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """What becomes of a step whose body failed.

    `final`: the failure is its outcome. Otherwise it runs again: after `retry_after` seconds if it has retries of its
    own, and if that is None, with the function's next attempt.
    """

    final: bool
    retry_after: float | None = None


def judge_step(error: BaseException, failures: int, options: Options, *, last_attempt: bool) -> StepVerdict:
    """What becomes of a step that has now failed for the `failures`-th time."""
    final: tuple[type[BaseException], ...] = (NoRetry, InvalidStep, *options.give_up_on)
    if isinstance(error, final) or any(isinstance(each, final) for each in _leaves(error)):
        return StepVerdict(final=True)
    if options.retries is None:
        return StepVerdict(final=last_attempt)
    if failures > options.retries:
        return StepVerdict(final=True)
    wish = retry_after(error)
    return StepVerdict(final=False, retry_after=_backoff(failures) if wish is None else wish)


def _backoff(failures: int) -> float:
    """1 s, 2 s, 4 s … up to an hour."""
    return min(_FIRST_BACKOFF * 2.0 ** min(failures - 1, 30), _LONGEST_BACKOFF)


def may_retry(error: BaseException) -> bool:
    """Whether a function that ended with this error is to be tried again: its failed steps would fail again."""
    leaves = list(_leaves(error))
    return not any(isinstance(each, NoRetry | InvalidOutput | InvalidData) for each in leaves) and not all(
        isinstance(each, StepFailed) for each in leaves
    )


def retry_after(error: BaseException) -> float | None:
    """The seconds after which an error wants its cause to be tried again; None if it does not say."""
    return max((each.seconds for each in _leaves(error) if isinstance(each, RetryAfter)), default=None)


def blamed(error: BaseException) -> list[str]:
    """The steps whose failures the function let pass: a run that is put back tries them again."""
    names = [each.step for each in _leaves(error) if isinstance(each, StepFailed)]
    return list(dict.fromkeys(names))[:_MOST_BLAMED]


def sole_cause(error: BaseException) -> BaseException:
    """An error, out of the groups in which it is alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def consists_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an error, or all of a group, is of these kinds."""
    return all(isinstance(each, kinds) for each in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def record_of(error: BaseException, *, line_bytes: int = LINE_BYTES) -> ErrorRecord:
    """An error as it goes over the wire: shortened, so that any fits in a line of so many bytes."""
    error = sole_cause(error)
    return ErrorRecord(
        type=_sendable(type(error).__name__, _TYPE_CHARACTERS),
        message=_sendable(_message(error), min(_MESSAGE_CHARACTERS, line_bytes // 32)),
        trace=_sendable(trace_of(error), min(TRACE_CHARACTERS, line_bytes // 16)),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error's own __str__ may fail
        return "(an error that cannot be shown as text)"


def trace_of(error: BaseException) -> str:
    """The traceback of an error, without the SDK's own frames, each call on a line or two."""
    try:
        shown = traceback.TracebackException.from_exception(error, limit=-50, compact=True)
        _leave_out_ours(shown)
        return "".join(shown.format())
    except Exception:  # an error's own __str__ may fail, or its source may be no text
        return type(error).__name__


def _leave_out_ours(shown: traceback.TracebackException) -> None:
    shown.stack = traceback.StackSummary.from_list(
        [each for each in shown.stack if not each.filename.startswith(_OURS)]
    )
    for each in _related(shown):
        _leave_out_ours(each)


def _related(shown: traceback.TracebackException) -> Iterable[traceback.TracebackException]:
    return [each for each in (shown.__cause__, shown.__context__, *(shown.exceptions or ())) if each is not None]


def _sendable(text: str, most: int) -> str:
    """A text without what neither UTF-8 nor Postgres can say, shortened in its middle: the ends say the most."""
    text = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= most:
        return text
    head = most // 4
    return f"{text[:head]}\n…\n{text[len(text) - (most - head - 3) :]}"
