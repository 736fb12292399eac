"""Connections belong to the event loop that they were opened in; a driver may be used from several."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One of something for each event loop, made when that loop first asks for it."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Begins anew, and closes nothing: after a fork, loops and connections are the parent's."""
        self._lock = threading.Lock()
        self._held: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for closed in [each for each in self._held if each.is_closed()]:
                del self._held[closed]  # nothing of it can be closed any more
            if loop not in self._held:
                self._held[loop] = self._make()
            return self._held[loop]

    async def close(self) -> None:
        """Closes all of them, each in its own loop. The next `get` makes a new one."""
        with self._lock:
            held, self._held = self._held, {}
        for loop, thing in held.items():
            if loop is asyncio.get_running_loop():
                await self._close(thing)
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._closing(thing), loop))

    async def _closing(self, thing: T) -> None:
        await self._close(thing)


_all: Final[WeakSet[PerLoop[Any]]] = WeakSet()


def _after_fork() -> None:
    for each in _all:
        each.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
