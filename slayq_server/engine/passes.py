"""Work that comes due now and then: a pass each time, with a pause after one that found the database away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from slayq_server.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SHORTEST: Final = 0.1
_LONGEST: Final = 2.0
"""Seconds between two passes while the database is away."""


async def make_passes(
    until_due: Callable[[], Awaitable[None]],
    make_pass: Callable[[], Awaitable[None]],
    on_error: Callable[[DatabaseUnavailable], None],
) -> None:
    """Makes passes until cancelled.

    Args:
        until_due: returns when the next pass is due.
        make_pass: does what is due. What it has not come to, because it raised, stays due.
        on_error: called when the database is away.
    """
    pause = 0.0
    while True:
        if pause:
            await asyncio.sleep(pause)
        await until_due()
        try:
            await make_pass()
            pause = 0.0
        except DatabaseUnavailable as error:
            on_error(error)
            pause = min(max(pause * 2, _SHORTEST), _LONGEST)
