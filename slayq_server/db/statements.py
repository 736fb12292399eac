"""The SQL statements in `queries/`, one a file, by file name without its ending."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "queries"


@cache
def query(name: str) -> str:
    """The text of `queries/NAME.sql`."""
    return (FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def names() -> list[str]:
    """All statements, for the tests that prepare each of them."""
    return sorted(path.stem for path in FOLDER.glob("*.sql"))
