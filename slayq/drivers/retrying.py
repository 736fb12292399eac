"""Trying again where that is safe: what may have been done is not asked for twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from slayq.drivers.failures import NothingSent
from slayq.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Final

    from slayq.drivers import OutgoingEvent

T = TypeVar("T")

RETRIES: Final = 2
FIRST_DELAY: Final = 0.2
"""Seconds before the first retry; each further one waits twice as long."""


async def retried(
    attempt: Callable[[], Awaitable[T]], *, repeatable: bool, retries: int = RETRIES, delay: float = FIRST_DELAY
) -> T:
    """What `attempt` returns. It is tried again, at most `retries` times, when it raised Unavailable and either
    `repeatable` (doing it twice is the same as once) or nothing of it had been sent."""
    for number in range(retries):
        try:
            return await attempt()
        except NothingSent:
            pass
        except Unavailable:
            if not repeatable:
                raise
        await asyncio.sleep(delay * 2**number)
    return await attempt()


def all_have_ids(events: Sequence[OutgoingEvent]) -> bool:
    """Whether sending these twice creates no run twice."""
    return all(event.id is not None for event in events)
