"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

A test of waiting, back-off and deadlines takes no time at all and comes out the same each time. Nothing in such a test
may wait for the outside world: no sockets, no threads, no processes.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_P = ParamSpec("_P")
_LIMIT = 100_000.0
"""Virtual seconds that a test may take."""
_MOST_TURNS = 20_000
"""Turns of the loop without time passing that a test may take: more is a task that spins."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: tells the loop how long it would have."""

    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            self._jump(timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time starts at 0 and passes only while everybody waits."""

    def __init__(self) -> None:
        self._now = 0.0
        self._turns = 0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return self._now

    def _jump(self, seconds: float | None) -> None:
        assert seconds is not None, "every task waits for ever"
        self._turns = 0 if seconds > 0 else self._turns + 1
        assert self._turns < _MOST_TURNS, "a task spins: the loop turns and turns and no time passes"
        self._now += seconds


class VirtualClock:
    """The running loop's time, as the engine's clock."""

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Virtual seconds since an epoch of its own."""
        return 1_000_000.0 + self.monotonic()


def now() -> float:
    """Virtual seconds since the test began."""
    return asyncio.get_running_loop().time()


def in_virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Runs a test, or any coroutine function, on a `VirtualLoop`."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(_LIMIT):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(limited())

    return run
