"""aiohttp: a shop that takes an order and fulfils it in the background.

    . .slayq/env && python -m examples.aiohttp_app
    curl -X POST http://127.0.0.1:8104/orders/A-17

The way to the server and the secret are read from the environment: SLAY_Q_DATABASE_URL and SLAY_Q_SECRET here. The app
registers its functions when it starts. For the server, list http://127.0.0.1:8104 in `callbacks.allow`.
"""

import os
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import BaseModel

from slayq import Event, SlayQ, Step
from slayq.contrib.aiohttp import setup

URL = os.environ.get("APP_URL", "http://127.0.0.1:8104/slayq")
sq = SlayQ(app="aiohttp-shop", url=URL)


class Order(BaseModel):
    """What is sent when an order is placed."""

    order_id: str


placed = Event("aiohttp/order.placed", Order)


async def reserve(order_id: str) -> int:
    """A step: what it returns is kept, and it is not done again."""
    print(f"reserving 3 units for {order_id}", flush=True)
    return 3


async def ship(order_id: str, units: int) -> str:
    """The next step."""
    print(f"shipping {units} units of {order_id}", flush=True)
    return f"parcel-{order_id}"


@sq.function(event=placed)
async def fulfil(order: Order, step: Step) -> str:
    """Runs once for each order that is placed."""
    units = await step.run("reserve", reserve, order.order_id)
    await step.sleep("let it be packed", "1s")
    return await step.run("ship", ship, order.order_id, units)


async def place(request: web.Request) -> web.Response:
    """Takes an order."""
    order_id = request.match_info["order_id"]
    run = await sq.send_event(placed(Order(order_id=order_id), id=f"aiohttp order {order_id}"))
    return web.json_response({"run": str(run)}, status=202)


def application() -> web.Application:
    """The app."""
    app = web.Application()
    app.router.add_post("/orders/{order_id}", place)
    setup(app, sq, "/slayq")
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=urlsplit(URL).port, access_log=None)
