"""FastAPI: a shop that takes an order and fulfils it in the background.

    . .slayq/env && uvicorn examples.fastapi_app:app --port 8101
    curl -X POST http://127.0.0.1:8101/orders/A-17

The way to the server and the secret are read from the environment: SLAY_Q_DATABASE_URL and SLAY_Q_SECRET here. The app
registers its functions when it starts. For the server, list http://127.0.0.1:8101 in `callbacks.allow`.
"""

import os

from fastapi import FastAPI
from pydantic import BaseModel

from slayq import Event, SlayQ, Step
from slayq.contrib.fastapi import router

sq = SlayQ(app="fastapi-shop", url=os.environ.get("APP_URL", "http://127.0.0.1:8101/slayq"))


class Order(BaseModel):
    """What is sent when an order is placed."""

    order_id: str


placed = Event("fastapi/order.placed", Order)


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


app = FastAPI()
app.include_router(router(sq, "/slayq"))


@app.post("/orders/{order_id}", status_code=202)
async def place(order_id: str) -> dict[str, str]:
    """Takes an order."""
    run = await sq.send_event(placed(Order(order_id=order_id), id=f"fastapi order {order_id}"))
    return {"run": str(run)}
