"""How commands print: tables and plain lines for people, one JSON document with `--json`.

Events, keys and errors come from apps, so what is shown on a terminal has its control characters spelled out: nothing
in a job can move the cursor or recolour the screen.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slayq_server.config.rules import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Cell: TypeAlias = "str | int | float | bool | datetime | list[str] | None"

_WIDE = 10_000
"""Columns where nobody looks at a terminal: a pipe gets every cell whole, on one line."""
_NOT_PLAIN = re.compile(r"[^\x20-\x7e\n\r\t]")


class RawJson:
    """JSON text that goes into a document as it is: a payload is not parsed and printed again."""

    def __init__(self, text: str) -> None:
        # Outside of strings JSON is plain ASCII, so each other character may be written as its escape.
        self.text = _NOT_PLAIN.sub(_escape_units, text)


def _escape_units(match: re.Match[str]) -> str:
    return "\\u007f" if match[0] == "\x7f" else json.dumps(match[0])[1:-1]


def print_json(document: Any) -> None:
    """One document on the standard output. Times are UTC, in ISO 8601."""
    raw: dict[str, str] = {}

    def plain(value: object) -> str:
        if isinstance(value, datetime):
            return iso(value)
        if isinstance(value, RawJson):
            mark = f"raw-{uuid.uuid4().hex}"
            raw[f'"{mark}"'] = value.text
            return mark
        raise TypeError(f"{type(value).__name__} has no place in a JSON document")

    text = json.dumps(document, indent=2, default=plain)
    for mark, replacement in raw.items():
        text = text.replace(mark, replacement)
    sys.stdout.write(text + "\n")


def iso(moment: datetime) -> str:
    """A time in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def console(*, stderr: bool = False) -> Console:
    """Where to print; as wide as it takes if it is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else _WIDE, soft_wrap=False)


def say(line: str, *, stderr: bool = False) -> None:
    """A plain line for people."""
    console(stderr=stderr).print(Text(printable(line)), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """A table; the line `empty` where there are no rows. Columns whose cells are all numbers are set to the right."""
    cells = [list(row) for row in rows]
    if not cells:
        say(empty)
        return
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        numeric = all(_is_number(row[number]) for row in cells)
        # The last column, where what is long stands, gives way first on a narrow terminal.
        no_wrap = number < len(columns) - 1
        table.add_column(column, justify="right" if numeric else "left", no_wrap=no_wrap, overflow="fold")
    for row in cells:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    _print_table(table)


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Names and values, one a line, where there is a value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None and value != []:
            table.add_row(name, Text(_shown(value)))
    _print_table(table)


def _print_table(table: Table) -> None:
    out = console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as printed:
        out.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())  # without the padding


def print_payload(title: str, text: str) -> None:
    """A JSON text, indented where it can be parsed."""
    # Stored by others, and as deep and as odd as they like: what Python cannot parse is shown as it is.
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    out = console()
    out.print(Text(f"\n{title}", style="bold"))
    for line in text.splitlines():
        out.print(Text(printable(line)), soft_wrap=True)


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "no"
        case datetime():
            return f"{cell.astimezone():%Y-%m-%d %H:%M:%S}"  # local time: this is for people
        case float():
            return f"{cell:.1f}"
        case list():
            return printable(", ".join(cell))
        case _:
            return printable(str(cell))
