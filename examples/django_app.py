"""Django in one file: a shop that takes an order and fulfils it in the background.

    . .slayq/env && slayq register examples.django_app && uvicorn examples.django_app:application --port 8102
    curl -X POST http://127.0.0.1:8102/orders/A-17

The way to the server and the secret are read from the environment: SLAY_Q_DATABASE_URL and SLAY_Q_SECRET here. Django
has no moment at which an app starts, so the functions are registered when it is deployed. For the server, list
http://127.0.0.1:8102 in `callbacks.allow`.

With a database in DATABASES that is the server's, an order row and its event go into one transaction:

    with transaction.atomic():
        order.save()
        sq.send_event_sync(placed(…), conn=connection)
"""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from pydantic import BaseModel

from slayq import Event, SlayQ, Step
from slayq.contrib.django import async_view

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "for this example only"),
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
)

sq = SlayQ(app="django-shop", url=os.environ.get("APP_URL", "http://127.0.0.1:8102/slayq"))


class Order(BaseModel):
    """What is sent when an order is placed."""

    order_id: str


placed = Event("django/order.placed", Order)


async def reserve(order_id: str) -> int:
    """A step: what it returns is kept, and it is not done again."""
    print(f"reserving 3 units for {order_id}", flush=True)
    return 3


def ship(order_id: str, units: int) -> str:
    """The next step: a plain function, in which Django's ORM may be used; it runs in a thread."""
    print(f"shipping {units} units of {order_id}", flush=True)
    return f"parcel-{order_id}"


@sq.function(event=placed)
async def fulfil(order: Order, step: Step) -> str:
    """Runs once for each order that is placed."""
    units = await step.run("reserve", reserve, order.order_id)
    await step.sleep("let it be packed", "1s")
    return await step.run("ship", ship, order.order_id, units)


@csrf_exempt
async def place(request: HttpRequest, order_id: str) -> JsonResponse:
    """Takes an order."""
    run = await sq.send_event(placed(Order(order_id=order_id), id=f"django order {order_id}"))
    return JsonResponse({"run": str(run)}, status=202)


urlpatterns = [path("slayq", async_view(sq)), path("orders/<str:order_id>", place)]
application = get_asgi_application()
