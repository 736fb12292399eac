"""Logs: one JSON object a line with known fields, whoever logs; no secrets; and logging never fails."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from slayq_server import __version__, logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Undoes what `configure` does to the process."""
    root = logging.getLogger()
    level, handlers, show = root.level, list(root.handlers), warnings.showwarning
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    logging.captureWarnings(False)
    warnings.showwarning = show
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def out() -> io.StringIO:
    """Where JSON at level info goes."""
    stream = io.StringIO()
    logs.configure("json", "info", stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The objects that were logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def line(stream: io.StringIO) -> dict[str, Any]:
    """The one object that was logged."""
    (only,) = lines(stream)
    return only


def test_a_line_is_one_object_with_the_fields_in_order(out: io.StringIO) -> None:
    """What every line has comes first, then what the design names, then the rest."""
    structlog.contextvars.bind_contextvars(worker=7)
    structlog.get_logger().info("job_done", colour="red", status_code=200, job_id=2**40, queue="mail", outcome=None)
    assert 1 == out.getvalue().count("\n")
    entry = line(out)
    assert [
        "ts",
        "level",
        "event",
        "service",
        "version",
        "worker",
        "queue",
        "job_id",
        "outcome",
        "status_code",
        "colour",
    ] == list(entry)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("ts"))
    assert {
        "level": "info",
        "event": "job_done",
        "service": "slayq-server",
        "version": __version__,
        "worker": 7,
        "queue": "mail",
        "job_id": 2**40,
        "outcome": None,
        "status_code": 200,
        "colour": "red",
    } == entry


def test_the_fields_of_the_design_stand_in_its_order() -> None:
    """As the design lists them."""
    assert (
        "ts level event service version worker queue job_id job_key event_name attempt max_attempts outcome "
        "status_code duration_seconds error_type trace_id span_id"
    ) == " ".join(logs.FIELDS)


def test_what_is_below_the_level_is_not_written(out: io.StringIO) -> None:
    """Nor looked at: the fields' own methods are not called."""

    class Costly:
        def __str__(self) -> str:
            raise AssertionError("looked at")

    structlog.get_logger().debug("detail", costly=Costly())
    assert "" == out.getvalue()


def test_a_later_call_changes_loggers_that_there_are(out: io.StringIO) -> None:
    """Level and stream, for loggers in use, and the bridge of the libraries is there once."""
    log = structlog.get_logger("anything")
    log.info("first")
    later = io.StringIO()
    logs.configure("json", "error", stream=later)
    log.info("second")
    log.error("third")
    logging.getLogger("asyncio").warning("quiet")
    logging.getLogger("asyncio").error("loud")
    assert ["first"] == [entry["event"] for entry in lines(out)]
    assert ["third", "library_message"] == [entry["event"] for entry in lines(later)]


def test_odd_values_become_json(out: io.StringIO) -> None:
    """No value makes a line that is no JSON, or no line."""
    structlog.get_logger().info(
        "odd",
        numbers=[float("nan"), float("inf"), 1.5],
        data_bytes=12,
        raw=b"hunter2",
        error=ValueError("no"),
        items={3},
        mapping={1: (2, None), "deep": [[[[["hunter2"]]]]]},
        text="ü\ud800\0\n\x1b[31m",
    )
    entry = line(out)
    assert (["nan", "inf", 1.5], 12, "7 bytes", "no", [3]) == (
        entry["numbers"],
        entry["data_bytes"],
        entry["raw"],
        entry["error"],
        entry["items"],
    )
    assert [2, None] == entry["mapping"]["1"]
    assert "ü\ud800\0\n\x1b[31m" == entry["text"]
    assert out.getvalue().isascii()


@pytest.mark.parametrize(
    "name",
    [
        *("payload", "data", "body", "headers", "dsn", "secret", "secrets", "password", "token", "authorization"),
        *("signature", "cookie", "cache", "url_query", "worker_secret", "Set-Cookie", "old_password"),
    ],
)
def test_fields_that_sound_secret_are_left_out(out: io.StringIO, name: str) -> None:
    """At any depth; a number of that name, such as a size, stays."""
    structlog.get_logger().info("done", **{name: "hunter2"}, inner={name: ["hunter2"], "kept": 1})
    entry = line(out)
    assert "hunter2" not in out.getvalue()
    assert name not in entry
    assert {"kept": 1} == entry["inner"]


def test_numbers_that_sound_secret_stay(out: io.StringIO) -> None:
    """A size or a flag is none."""
    structlog.get_logger().info("done", payload_bytes=120, has_token=True, job_key="k")
    entry = line(out)
    assert (120, True, "k") == (entry["payload_bytes"], entry["has_token"], entry["job_key"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example/x?token=hunter2&y=1", "https://a.example/x?..."),
        ('got "https://a.example/x#hunter2" back', 'got "https://a.example/x?..." back'),
        ("http://user:hunter2@a.example/x", "http://a.example/x"),
        ("cannot reach postgres://u:hunter2@h:5432/d!", "cannot reach postgres://h:5432/d!"),
        ("postgresql://u:hun/ter2@h/d?password=hunter2 is away", "postgresql://h/d?... is away"),
        ("password=hunter2 host=h", "password=... host=h"),
        ("{'secret': 'hunter2 x'}", "{'secret': ...}"),
        ('"token": "hunter2"', '"token": ...'),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ..."),
        ("a plain text: with = signs", "a plain text: with = signs"),
        ("https://a.example/x", "https://a.example/x"),
    ],
)
def test_texts_lose_credentials_and_queries(out: io.StringIO, text: str, expected: str) -> None:
    """In whatever field they come."""
    structlog.get_logger().info("odd", error=text, inner=[text])
    entry = line(out)
    assert (expected, [expected]) == (entry["error"], entry["inner"])


def test_long_texts_and_long_lists_are_cut(out: io.StringIO) -> None:
    """A line stays a line; a megabyte is quickly dealt with."""
    structlog.get_logger().info(
        "long", text="a-" * 500_000, items=list(range(1_000)), mapping={str(n): n for n in range(1_000)}
    )
    entry = line(out)
    assert "a-" * 500 + "..." == entry["text"]
    assert (50, 50) == (len(entry["items"]), len(entry["mapping"]))


def test_a_password_at_the_cut_is_not_left_over(out: io.StringIO) -> None:
    """Texts are cleaned before they are cut."""
    structlog.get_logger().info("long", error="x" * 980 + " postgres://u:hunter2@h/d")
    queries = "http://h/?" + "x" * 1300 + " b" * 250
    structlog.get_logger().info("long", error=f"{queries} {'b' * 170} postgres://u:hunter2@h/d")
    structlog.get_logger().info("long", error=f"{queries} {'b' * 171} postgres://u:hunter2@h/d")
    assert "hunt" not in out.getvalue()


def test_an_exception_is_fields_of_the_same_line(out: io.StringIO) -> None:
    """Its type by name; its traceback as text, without what is secret."""
    try:
        raise ConnectionError("no answer from postgres://u:hunter2@h/d")
    except ConnectionError:
        structlog.get_logger().exception("database_away", job_id=3)
    entry = line(out)
    assert ("error", "ConnectionError", 3) == (entry["level"], entry["error_type"], entry["job_id"])
    assert entry["exception"].startswith("Traceback (most recent call last):\n")
    assert entry["exception"].endswith("ConnectionError: no answer from postgres://h/d")


def test_of_a_long_traceback_the_end_is_kept(out: io.StringIO) -> None:
    """That is where the error is."""
    structlog.get_logger().error("broken", exc_info=ValueError("x" * 20_000 + " the end"))
    entry = line(out)
    assert entry["exception"].endswith("x the end")
    assert 8_003 == len(entry["exception"])


def test_libraries_log_into_the_same_stream(out: io.StringIO) -> None:
    """From warning on, as `library_message` with their name; also where message or level are odd."""
    # pytest's own handlers, there while a test runs, fail where a message cannot be formatted.
    logging.getLogger().handlers[:] = [each for each in logging.getLogger().handlers if isinstance(each, logs._Bridge)]
    logging.getLogger("asyncio").info("not heard")
    logging.getLogger("aiohttp.server").error("Error %s", "http://u:hunter2@h/?q=1")
    logging.getLogger("asyncpg").warning("%d", "no number")
    logging.getLogger("other").log(35, "between")
    assert [
        ("error", "library_message", "aiohttp.server", "Error http://h/?..."),
        ("warning", "library_message", "asyncpg", "%d"),
        ("warning", "library_message", "other", "between"),
    ] == [(entry["level"], entry["event"], entry["logger"], entry["message"]) for entry in lines(out)]


def test_a_librarys_exception_keeps_its_traceback(out: io.StringIO) -> None:
    """As asyncio logs a task's that nobody looked at."""
    try:
        raise KeyError("lost")
    except KeyError as error:
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    entry = line(out)
    assert "KeyError" == entry["error_type"]
    assert entry["exception"].endswith("KeyError: 'lost'")


def test_warnings_are_logged(out: io.StringIO) -> None:
    """As those of a library."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", UserWarning, stacklevel=1)
    entry = line(out)
    assert ("warning", "py.warnings") == (entry["level"], entry["logger"])
    assert "UserWarning: careful" in entry["message"]


def test_logging_does_not_fail_when_its_stream_does(out: io.StringIO) -> None:
    """A closed or full stream must not end a delivery."""
    log = structlog.get_logger()
    out.close()
    log.error("nobody_hears")

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    logs.configure("json", "info", stream=Full())
    log.error("nobody_hears")
    logging.getLogger("asyncio").error("nor this")


def test_lines_of_threads_do_not_mix(out: io.StringIO) -> None:
    """Each line is whole."""
    log = structlog.get_logger()
    threads = [threading.Thread(target=lambda n=n: [log.info("tick", n=n) for _ in range(200)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert dict.fromkeys(range(4), 200) == {n: [entry["n"] for entry in lines(out)].count(n) for n in range(4)}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("wanted", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("pretty", io.StringIO, False),
    ],
)
def test_auto_is_pretty_on_a_terminal_only(wanted: logs.LogFormat, stream: type[io.StringIO], is_json: bool) -> None:
    """Elsewhere lines are for machines."""
    out = stream()
    logs.configure(wanted, "info", stream=out)
    structlog.get_logger().info("ready", port=8288)
    assert is_json is out.getvalue().startswith("{")


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a file, and not where NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    logs.configure("pretty", "info", stream=out)
    structlog.get_logger().info("ready")
    assert "\x1b[" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    logs.configure("pretty", "info", stream=out)
    structlog.get_logger().info("ready")
    assert "\x1b[" not in out.getvalue()


def test_pretty_lines_are_short_safe_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time of day, event, fields; nothing that a terminal would obey; tracebacks without local variables."""
    out = io.StringIO()
    logs.configure("pretty", "info", stream=out)
    local = "hunter2"
    try:
        raise ValueError("bad\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("odd", job_id=len(local), key="a\x1b[31m\rb", payload="hunter2")
    text = out.getvalue()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \[error    \] odd +job_id=7 ", text)
    assert "ValueError: bad\\x1b[2J" in text
    assert "Traceback (most recent call last):\n" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "hunter2" not in text.replace('local = "hunter2"', "")


ROOT = Path(__file__).parents[2]
RAISES = """
import threading
from slayq_server import logs
logs.configure("json", "info")
class Bad:
    def __del__(self):
        raise ValueError("in the end")
def fail():
    raise KeyError("in a thread")
thread = threading.Thread(target=fail, name="helper")
thread.start(); thread.join()
bad = Bad()
del bad
raise RuntimeError("password=hunter2")
"""


def test_uncaught_exceptions_are_one_line_each() -> None:
    """Of the program, of a thread, of a destructor."""
    ended = subprocess.run(
        [sys.executable, "-c", RAISES], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert 1 == ended.returncode
    assert "hunter2" not in ended.stderr
    assert [
        ("critical", "uncaught_exception", "KeyError"),
        ("error", "unraisable_exception", "ValueError"),
        ("critical", "uncaught_exception", "RuntimeError"),
    ] == [(entry["level"], entry["event"], entry["error_type"]) for entry in map(json.loads, ended.stderr.splitlines())]
