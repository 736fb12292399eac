"""The logs that the checker judges by: JSON lines, each stamped with the monotonic clock of this one machine."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Record = dict[str, Any]
"""One line. All have `at`, in monotonic seconds, and `what`."""


class Log:
    """Writes lines that outlive this process, whenever it is killed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)

    def __call__(self, what: str, *, at: float | None = None, **more: Any) -> float:
        """Writes a line; its time."""
        at = time.monotonic() if at is None else at
        self._file.write(json.dumps({"at": at, "what": what, **more}) + "\n")
        return at


def read(path: Path) -> list[Record]:
    """All lines of a log, in order; none where there is no log. The last one may have been cut short by a kill."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except ValueError:
            # Each start of a killed process goes on in the same file: only what it was just writing may be broken.
            assert number == len(lines) - 1 or line.rfind("{") > 0, f"{path}:{number + 1} is no record: {line[:200]}"
    return records


def fingerprint(data: Any) -> str:
    """What tells two data apart."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
