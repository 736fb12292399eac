"""Flask: a shop that takes an order and fulfils it in the background.

    . .slayq/env && slayq register examples.flask_app && flask --app examples.flask_app run --port 8103
    curl -X POST http://127.0.0.1:8103/orders/A-17

The way to the server and the secret are read from the environment: SLAY_Q_DATABASE_URL and SLAY_Q_SECRET here. Flask
has no moment at which an app starts, so the functions are registered when it is deployed. For the server, list
http://127.0.0.1:8103 in `callbacks.allow`.
"""

import os

from flask import Flask
from pydantic import BaseModel

from slayq import Event, SlayQ, SyncStep
from slayq.contrib.flask import blueprint

sq = SlayQ(app="flask-shop", url=os.environ.get("APP_URL", "http://127.0.0.1:8103/slayq"))


class Order(BaseModel):
    """What is sent when an order is placed."""

    order_id: str


placed = Event("flask/order.placed", Order)


def reserve(order_id: str) -> int:
    """A step: what it returns is kept, and it is not done again."""
    print(f"reserving 3 units for {order_id}", flush=True)
    return 3


def ship(order_id: str, units: int) -> str:
    """The next step."""
    print(f"shipping {units} units of {order_id}", flush=True)
    return f"parcel-{order_id}"


@sq.function(event=placed)
def fulfil(order: Order, step: SyncStep) -> str:
    """Runs once for each order that is placed: a plain function, as the rest of a Flask app."""
    units = step.run("reserve", reserve, order.order_id)
    step.sleep("let it be packed", "1s")
    return step.run("ship", ship, order.order_id, units)


app = Flask(__name__)
app.register_blueprint(blueprint(sq, "/slayq"))


@app.post("/orders/<order_id>")
def place(order_id: str) -> tuple[dict[str, str], int]:
    """Takes an order."""
    run = sq.send_event_sync(placed(Order(order_id=order_id), id=f"flask order {order_id}"))
    return {"run": str(run)}, 202
