"""The daemon, with a wall clock that can be set and an event loop that can be held up from outside.

    CHAOS_CONTROL=FILE python -m tests.chaos.bent serve CONFIG

The file holds JSON: `offset`, the seconds by which the wall clock is off, read each time that it is asked; `stall`, the
seconds for which the event loop stands still at a SIGUSR2. The product knows nothing of this.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slayq_server.cli import main

if TYPE_CHECKING:
    from types import FrameType


class Control:
    """The file, from either side."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, float]:
        """What it says."""
        told: dict[str, float] = json.loads(self.path.read_text())
        return told

    def write(self, **told: float) -> None:
        """Says something else; nobody ever reads half of it."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"offset": 0.0, "stall": 0.0, **told}))
        fresh.replace(self.path)


def bend(control: Control) -> None:
    """Puts it into this process."""
    true_time = time.time

    def off() -> float:
        return true_time() + control.read()["offset"]

    def stall(number: int, frame: FrameType | None) -> None:
        # Handlers run in the main thread, between two steps of the event loop: nothing of it goes on meanwhile.
        time.sleep(control.read()["stall"])

    unchecked: Any = time
    unchecked.time = off
    signal.signal(signal.SIGUSR2, stall)


if __name__ == "__main__":
    bend(Control(Path(os.environ["CHAOS_CONTROL"])))
    if "CHAOS_PLANT" in os.environ:
        from tests.chaos import planted

        planted.plant(os.environ["CHAOS_PLANT"])
    sys.exit(main())
