"""An app that the tests of drivers send to: what it registers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slayq.drivers import OutgoingEvent

if TYPE_CHECKING:
    import asyncpg

PLACED = "shop/order.placed"
CANCELLED = "shop/order.cancelled"
URL = "https://shop.example.com/slayq"


def function(event: str, **more: Any) -> dict[str, Any]:
    """A function of a manifest."""
    plain = {
        "name": event.rpartition("/")[2],
        "queue": "general",
        "retries": 3,
        "priority": 0,
        "cron": None,
        "cancel_on": [],
        "waits_on": [],
        "invokes": [],
        "schema": None,
    }
    return {"event": event, **plain, **more}


def manifest(*functions: dict[str, Any], app: str = "shop", url: str = URL) -> dict[str, Any]:
    """What an app registers."""
    return {"app": app, "url": url, "sdk": "slayq-python/0.1.0", "functions": list(functions)}


SHOP = manifest(function(PLACED, cancel_on=[{"event": CANCELLED, "match": "order_id"}], invokes=["shop/render"]))


def placed(order_id: object = "A-17", **more: Any) -> OutgoingEvent:
    """An event that the shop has a function for."""
    return OutgoingEvent(PLACED, {"order_id": order_id}, **more)


async def runs(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """All runs there are, in order."""
    return list(
        await connection.fetch(
            "select run_id as run, payload::jsonb -> 'data' as data, run_at, priority, traceparent"
            " from slayq.job where run_id is not null order by id"
        )
    )
