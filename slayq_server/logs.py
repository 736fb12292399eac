"""Logs: one JSON object a line, or colours on a terminal. Never a payload, a URL's query, credentials or a secret.

    {"ts": "2030-01-31T08:30:00.123Z", "level": "info", "event": "ready", "service": "slayq-server", "version": …}

Parts log through `structlog.get_logger()`: an event name in snake_case, the rest as fields. What all lines of a task
should have is bound once: `structlog.contextvars.bind_contextvars(worker=7)`. Lines of libraries have the event
`library_message`, with the library's `logger` and `message`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import structlog

from slayq_server import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from types import TracebackType

    from structlog.typing import Processor, WrappedLogger

LogFormat = Literal["json", "pretty", "auto"]
LogLevel = Literal["debug", "info", "warning", "error"]

SERVICE: Final = "slayq-server"
FIELDS: Final = (
    "ts",
    "level",
    "event",
    "service",
    "version",
    "worker",
    "queue",
    "job_id",
    "job_key",
    "event_name",
    "attempt",
    "max_attempts",
    "outcome",
    "status_code",
    "duration_seconds",
    "error_type",
    "trace_id",
    "span_id",
)
"""The fields that stand first, in this order; others follow as they were given."""

_SECRET_WORDS: Final = frozenset(
    {
        "authorization",
        "body",
        "cache",
        "cookie",
        "cookies",
        "credentials",
        "data",
        "dsn",
        "headers",
        "passwd",
        "password",
        "payload",
        "payloads",
        "query",
        "secret",
        "secrets",
        "signature",
        "token",
        "tokens",
    }
)
"""A field whose name has one of these words is left out, unless it is a number, true, false or null."""
_LONGEST_TEXT: Final = 1_000
_LONGEST_EXCEPTION: Final = 8_000
_MOST_ITEMS: Final = 50
_DEEPEST: Final = 4
_HIDDEN: Final = "..."

_CREDENTIALS: Final = re.compile(
    r"(\bpostgres(?:ql)?://)\S{0,2000}@|(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@]{0,2000}@", re.IGNORECASE
)
_QUERY: Final = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s?#\"'<>]{0,2000})[?#][^\s\"'<>]*", re.IGNORECASE)
_ASSIGNED: Final = re.compile(
    r"\b(password|passwd|pwd|secret|token|signature)([\"']?\s*[=:]\s*)(\"[^\"]{0,2000}\"|'[^']{0,2000}'|[^\s,;&]+)",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE)


def shown_pretty(format: LogFormat, stream: TextIO | None = None) -> bool:
    """What a format means for this stream (standard error)."""
    return format == "pretty" or (format == "auto" and _is_terminal(stream or sys.stderr))


def shows_colors(stream: TextIO | None = None) -> bool:
    """Whether the stream (standard error) is for people who want colours."""
    return _is_terminal(stream or sys.stderr) and not os.environ.get("NO_COLOR")


def configure(
    format: LogFormat = "auto",
    level: LogLevel = "info",
    *,
    stream: TextIO | None = None,
    colors: bool | None = None,
    process: int | None = None,
) -> None:
    """Make all logging of this process, libraries and uncaught exceptions included, go to `stream` (standard error).

    Args:
        format: `auto` is `pretty` where the stream is a terminal, else `json`.
        level: the least that is written; less costs next to nothing. Libraries are heard from `warning` on.
        stream: written to line by line; a line that cannot be written is dropped, never an error for who logs.
        colors: whether `pretty` has any; None: where the stream is a terminal.
        process: which of the server's processes this is; every line says so.

    May be called again, and then changes all loggers that there are.
    """
    out = sys.stderr if stream is None else stream
    colored = shows_colors(out) if colors is None else colors
    structlog.configure(
        processors=_processors(pretty=shown_pretty(format, out), colors=colored, process=process),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Sink(out),
        # A cached logger would not see a later call of this function.
        cache_logger_on_first_use=False,
    )
    _bridge_libraries(level)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _processors(*, pretty: bool, colors: bool, process: int | None) -> list[Processor]:
    first: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _exception]
    if process is not None:
        first.append(_of_process(process))
    if not pretty:
        return [*first, _common, _clean, _render_json]
    console = structlog.dev.ConsoleRenderer(
        colors=colors,
        timestamp_key="ts",
        sort_keys=False,
        pad_event_to=24,
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [*first, _local_time, _clean, _harmless, console]


class _Sink:
    """Where lines go. It never fails: a full disk or a closed pipe must not end a delivery."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, *args: object) -> _Sink:
        """The logger factory: all loggers are this one."""
        return self

    def write(self, line: str) -> None:
        """Write one line, as one call."""
        try:
            with self._lock:
                self._stream.write(f"{line}\n")
                self._stream.flush()
        except (OSError, ValueError):
            # ValueError: the stream is closed. There is nowhere left to say so.
            return

    log = debug = info = warning = error = critical = write


class _Bridge(logging.Handler):
    """Hands what libraries log to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage().rstrip()
        except Exception:  # A library's message that cannot be formatted is no reason to lose it, or to fail.
            message = str(record.msg)
        level = max(10, min(50, record.levelno // 10 * 10))
        fields = {"logger": record.name, "message": message}
        structlog.get_logger().log(level, "library_message", **fields, exc_info=record.exc_info or None)


def _bridge_libraries(level: LogLevel) -> None:
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.captureWarnings(True)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        structlog.get_logger().critical("uncaught_exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread else None
        structlog.get_logger().critical("uncaught_exception", thread=name, exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    # The object itself is not shown: its repr may hold anything.
    where = f"{args.err_msg or 'Exception ignored in'} {type(args.object).__qualname__}"
    structlog.get_logger().error("unraisable_exception", message=where, exc_info=args.exc_value)


# Processors


def _exception(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """`exc_info` becomes the text `exception` and the name `error_type`."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else None
    if isinstance(info, tuple):
        error = info[1]
    elif info is True:
        error = sys.exc_info()[1]
    if error is not None:
        event.setdefault("error_type", type(error).__name__)
        event["exception"] = "".join(traceback.format_exception(error)).rstrip()
    return event


def _of_process(number: int) -> Processor:
    def add(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = number
        return event

    return add


def _common(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["ts"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event["service"] = SERVICE
    event["version"] = __version__
    return event


def _local_time(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["ts"] = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    return event


def _clean(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out what may be secret, take credentials and queries out of texts, and shorten what is long."""
    return _clean_object(event, 0)


def _harmless(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what a terminal would obey."""
    for name, value in event.items():
        if isinstance(value, str):
            keep = "\n\t" if name == "exception" else ""
            event[name] = "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in value)
    return event


def _render_json(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> str:
    ordered = {name: event.pop(name) for name in FIELDS if name in event}
    return json.dumps({**ordered, **event}, separators=(",", ":"))


def _clean_object(fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    cleaned = {}
    for key, value in fields.items():
        name = key if isinstance(key, str) else str(key)
        simple = value is None or isinstance(value, bool | int | float)
        if simple or _SECRET_WORDS.isdisjoint(name.lower().replace("-", "_").split("_")):
            cleaned[_short(name, 100)] = _clean_value(value, depth, _LONGEST_EXCEPTION if name == "exception" else 0)
        if len(cleaned) >= _MOST_ITEMS:
            break
    return cleaned


def _clean_value(value: Any, depth: int, longest: int = 0) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict | list | tuple | set | frozenset) and depth < _DEEPEST:
        if isinstance(value, dict):
            return _clean_object(value, depth + 1)
        return [_clean_value(item, depth + 1) for item in list(value)[:_MOST_ITEMS]]
    text = value if isinstance(value, str) else str(value)
    longest, keep_end = longest or _LONGEST_TEXT, bool(longest)
    # Cut roughly first, so that the search stays quick; finely after it, so that no half of a password is left over.
    return _short(_without_secrets(_roughly(text, longest, keep_end=keep_end)), longest, keep_end=keep_end)


def _without_secrets(text: str) -> str:
    if "://" in text:
        text = _QUERY.sub(rf"\1?{_HIDDEN}", _CREDENTIALS.sub(r"\1\2", text))
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(rf"\1\2{_HIDDEN}", text)
    if " " in text:
        text = _BEARER.sub(rf"\1 {_HIDDEN}", text)
    return text


def _roughly(text: str, longest: int, *, keep_end: bool) -> str:
    """Twice as much as is to be left, without the word at the cut, which may be half of a connection string."""
    if len(text) <= 2 * longest:
        return text
    kept = text[-2 * longest :] if keep_end else text[: 2 * longest]
    whole = kept.partition(" ")[2] if keep_end else kept.rpartition(" ")[0]
    return whole if len(whole) > longest else kept


def _short(text: str, longest: int, *, keep_end: bool = False) -> str:
    """The text, or its start; of a traceback the end, where the error is."""
    if len(text) <= longest:
        return text
    return f"{_HIDDEN}{text[-longest:]}" if keep_end else f"{text[:longest]}{_HIDDEN}"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
