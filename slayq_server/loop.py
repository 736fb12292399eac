"""The event loop that daemons run on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def run_fast(main: Coroutine[Any, Any, int]) -> int:
    """Runs on uvloop where it is installed: the same, quicker."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:  # it is not made for every system
        return None
    return new_event_loop
