"""Registering an app's functions when the app starts, and again and again while the server is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from slayq.errors import RegistrationFailed, SendFailed, Unauthorized, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slayq.client import SlayQ

PATIENCE: Final = 5.0
"""Seconds that starting an app waits for the server at the most."""
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 30.0

_log = logging.getLogger("slayq")


@contextlib.asynccontextmanager
async def registering(
    sq: SlayQ, *, patience: float = PATIENCE, first_delay: float = FIRST_DELAY, longest_delay: float = LONGEST_DELAY
) -> AsyncIterator[None]:
    """For an app's lifespan: registers the functions at its start, and closes the connections at its end.

    A server that is away, or whose schema is not there yet, does not keep the app from starting: after `patience`
    seconds at the most it starts, and registering goes on beside it, `first_delay` seconds later, then after twice as
    long each time, up to `longest_delay`. Raises what somebody has to mend, if the first try finds it:
    RegistrationFailed, Unauthorized, InvalidDefinition, InvalidSecret and MissingExtra.
    """
    try:
        beside = None
        if not await _registered_at_once(sq, patience):
            beside = asyncio.create_task(_until_registered(sq, first_delay, longest_delay))
        try:
            yield
        finally:
            if beside is not None:
                await _ended(beside)
    finally:
        await sq.close()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # a bug of ours, if anything


async def _registered_at_once(sq: SlayQ, patience: float) -> bool:
    try:
        async with asyncio.timeout(patience):
            await _register(sq)
    except (RegistrationFailed, Unauthorized):
        raise
    except (SendFailed, TimeoutError) as error:
        _log.warning("Slay Q's server is away (%s): the app starts, and registers its functions later", _why(error))
        return False
    return True


async def _until_registered(sq: SlayQ, delay: float, longest_delay: float) -> None:
    while True:
        await asyncio.sleep(delay)
        delay = min(2 * delay, longest_delay)
        try:
            await _register(sq)
        except SendFailed as error:
            level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
            _log.log(level, "the functions are not registered yet: %s; next try in %g s", error, delay)
        else:
            return


async def _register(sq: SlayQ) -> None:
    registered = await sq.register()
    _log.info("functions registered with Slay Q's server: %d", registered.functions)
    for warning in registered.warnings:
        _log.warning("registered, but: %s", warning)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
