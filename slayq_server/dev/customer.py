"""Who places orders with the sample app, and answers when it asks for the payment: with the payment, or by cancelling.

Events are sent straight to Postgres, as an app's own code would.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from slayq.drivers.postgres import PostgresDriver
from slayq_server.dev.functions import STEPS, Order, OrderRef, cancelled, paid, placed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self
    from uuid import UUID

    from slayq_server.dev.sample_app import Seen

PAYS = "order-1"
CANCELS = "order-2"
_MOMENT = timedelta(seconds=0.3)


class Customer:
    """Of the two orders `PAYS` and `CANCELS`."""

    def __init__(self, database_url: str, say: Callable[[str], None]) -> None:
        self._driver = PostgresDriver(database_url)
        self._say = say
        self._asked: asyncio.Queue[str] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._driver.close()

    async def place(self, order_id: str) -> UUID:
        """Places an order; the id of its run. It starts a moment later, so that it can be told first that it was."""
        order = Order(order_id=order_id, fails=order_id == PAYS)
        (run,) = await self._driver.send([placed(order, run_at=datetime.now(UTC) + _MOMENT)])
        assert run is not None
        return run

    def heard(self, seen: Seen) -> None:
        """Takes note of what the sample app tells."""
        if seen.event == placed.name and seen.words == STEPS[-1]:
            self._asked.put_nowait(seen.job_key)

    async def serve(self) -> None:
        """Answers whenever it is asked; until it is cancelled."""
        while True:
            order_id = await self._asked.get()
            if order_id in (PAYS, CANCELS):
                event = paid if order_id == PAYS else cancelled
                await self._driver.send([event(OrderRef(order_id=order_id))])
                self._say(f"sent {event.name} ({order_id})")
