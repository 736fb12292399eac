"""An event loop in a thread of its own, for those who call from code that is not async."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class BackgroundLoop:
    """Started when it is first used, and again in a process that was forked since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns, or raises. The calling thread waits; if that is cut short, it is cancelled.

        Raises RuntimeError in the loop's own thread, which cannot wait for itself.
        """
        if asyncio._get_running_loop() is self._loop is not None:
            coroutine.close()
            raise RuntimeError(
                "a method that ends in _sync was called by code that runs in Slay Q's own event loop, as coroutine"
                " functions do under WSGI: await the method that does not end in _sync"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._loop = asyncio.new_event_loop()
                self._process = os.getpid()
                threading.Thread(target=self._loop.run_forever, name="slayq loop", daemon=True).start()
            return self._loop


def _after_fork() -> None:
    background.__init__()  # type: ignore[misc]  # the lock may have been held by a thread that is not here


background: Final = BackgroundLoop()
"""The one of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
