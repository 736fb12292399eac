"""The same error again and again: logged with a growing interval, and with a count of what was left out.

    repeats = Repeats()
    repeats.log(WARNING, "listener_lost", kind="ConnectionRefusedError", retry_seconds=5.0)
    …
    repeats.recovered("listener_lost", "listener_back")

The first of a run of errors is always logged, and so is the recovery from any that was. What is left out is there at
level `debug`. An error that comes back soon after a recovery goes on where its run was, so that something which flaps
does not fill the log either; after some time of quiet it is a first one again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PAUSE: Final = 1.0
"""Seconds in which the second of two equal errors is left out; doubled with each one that is logged."""
LONGEST_PAUSE: Final = 300.0
QUIET: Final = 60.0
"""Seconds without an error after which the next one is a first one; twice the pause, where that is more."""
_MOST_TOPICS: Final = 1_000
_OTHERS: Final = "_other"
_log = structlog.get_logger()


@dataclass(slots=True)
class _Run:
    """Equal errors, one after the other."""

    pause: float
    logged_at: float
    last_at: float
    left_out: int = 0
    open: bool = True
    """The log's last word is that it fails."""


class Repeats:
    """What one part of the server has logged lately. To be used on one thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._topics: dict[tuple[str, str], dict[str, _Run]] = {}

    def log(self, level: int, event: str, *, kind: str = "", of: str = "", **fields: Any) -> None:
        """Logs an error, or leaves it out.

        Args:
            level: of the line, as in `logging`.
            event: the line's name.
            kind: which error it is: another kind of the same event is logged in its own right.
            of: who has it, if there are several: an endpoint, say.
            fields: the rest of the line.
        """
        left_out = self._left_out(event, kind, of)
        if left_out is None:
            _log.debug(event, **fields)
        elif left_out:
            _log.log(level, event, left_out=left_out, **fields)
        else:
            _log.log(level, event, **fields)

    def recovered(self, event: str, said: str, *, of: str = "", **fields: Any) -> None:
        """What had this error goes well again: `said` is logged, unless the log has it that all is well already.

        Costs next to nothing while nothing fails.
        """
        if not self._topics:
            return
        open_runs = [run for run in self._topics.get((event, of), {}).values() if run.open]
        if not open_runs:
            return
        left_out = sum(run.left_out for run in open_runs)
        for run in open_runs:
            run.open, run.left_out = False, 0
        _log.info(said, **({"left_out": left_out} if left_out else {}), **fields)

    def _left_out(self, event: str, kind: str, of: str) -> int | None:
        """How many were left out before this one; None: it is to be left out itself."""
        now = self._monotonic()
        runs = self._topic(event, of, now)
        run = runs.get(kind)
        if run is None or now - run.last_at > max(QUIET, 2 * run.pause):
            runs[kind] = _Run(FIRST_PAUSE, now, now)
            return 0 if run is None else run.left_out
        run.last_at = now
        if now - run.logged_at < run.pause:
            run.left_out += 1
            return None
        left_out, run.left_out = run.left_out, 0
        run.pause, run.logged_at, run.open = min(run.pause * 2, LONGEST_PAUSE), now, True
        return left_out

    def _topic(self, event: str, of: str, now: float) -> dict[str, _Run]:
        topic = event, of
        if topic not in self._topics and len(self._topics) >= _MOST_TOPICS:
            self._topics = {
                each: runs
                for each, runs in self._topics.items()
                if any(now - run.last_at <= max(QUIET, 2 * run.pause) for run in runs.values())
            }
            if len(self._topics) >= _MOST_TOPICS:
                topic = event, _OTHERS  # whoever makes up endpoints shall not fill our memory
        return self._topics.setdefault(topic, {})
