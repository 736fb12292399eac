"""Waiting in tests: for a condition, with a deadline; never for a time to pass."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

POLL = 0.01
"""Seconds between two looks at a condition."""
WAITS = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
"""SQL: whether that session waits for a lock."""


async def wait_until(predicate: Callable[[], Any], timeout: float = 10.0, what: str | None = None) -> Any:
    """Look until `predicate`, a function or a coroutine function, gives something true; return that.

    Fails the test after `timeout` seconds, naming `what` was waited for and the last value seen.
    """
    value: Any = None
    try:
        async with asyncio.timeout(timeout) as limit:
            while True:
                looked = predicate()
                value = await looked if inspect.isawaitable(looked) else looked
                if value:
                    return value
                await asyncio.sleep(POLL)
    except TimeoutError:
        if not limit.expired():
            raise  # the predicate's own
        name = what or inspect.getsource(predicate).strip()
        raise AssertionError(f"not so within {timeout} s: {name}; last seen was {value!r}") from None
