"""What commands print: for people, or as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HEADINGS: Final = ("EVENT", "FUNCTION", "QUEUE", "RETRIES", "PRIORITY", "MORE")


def say(line: str) -> None:
    """A line on the standard output."""
    sys.stdout.write(f"{_printable(line)}\n")


def warn(message: str) -> None:
    """A warning on the standard error."""
    sys.stderr.write(f"warning: {_printable(message)}\n")


def complain(message: str) -> None:
    """An error on the standard error."""
    sys.stderr.write(f"error: {_printable(message)}\n")


def print_json(value: Any) -> None:
    """A JSON document on the standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def functions_table(functions: Iterable[Mapping[str, Any]]) -> None:
    """The functions of a manifest, a line each, in columns."""
    rows: list[Sequence[str]] = [_HEADINGS]
    rows += [
        (
            each["event"],
            each["name"],
            each["queue"],
            str(each["retries"]),
            str(each["priority"]),
            "; ".join(_more(each)),
        )
        for each in functions
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _more(function: Mapping[str, Any]) -> list[str]:
    said = [f"cron {function['cron']}"] if function["cron"] else []
    for key, words in (("cancel_on", "cancelled by"), ("waits_on", "waits for")):
        if function[key]:
            pairs = [f"{each['event']} ({each['match']})" for each in function[key]]
            said.append(f"{words} {', '.join(pairs)}")
    if function["invokes"]:
        said.append(f"invokes {', '.join(function['invokes'])}")
    return said


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
