"""Plain functions run in threads of their own.

Not in the loop's pool: its few threads could all be taken by functions that wait for a step which needs one, too. They
are daemons, so that a process can end although one of them is busy: what it does is not recorded, and runs again.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def in_thread(name: str, body: Callable[[], T]) -> T:
    """What a function returns or raises, run in a thread called `name`, in a copy of this context.

    Cancelling stops the waiting, not the thread.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = context.run(body)
        except StopIteration as stop:  # a future cannot hold one
            error = RuntimeError(f"the function raised {stop!r}")
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            pass  # The loop has ended, and with it all who could want to know.
        finally:
            del value, error  # an error holds its frames, and they this one

    threading.Thread(target=work, name=name, daemon=True).start()
    return await outcome
