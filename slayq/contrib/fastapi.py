"""FastAPI: a router to include. For Starlette, see `slayq.contrib.asgi`.

app.include_router(router(sq, "/slayq"))
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from slayq.contrib.asgi import SlayQApp
from slayq.contrib.startup import registering
from slayq.extras import needed

with needed("fastapi"):
    from fastapi import APIRouter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slayq.client import SlayQ


def router(sq: SlayQ, path: str = "/slayq", *, register: bool = True) -> APIRouter:
    """A router with one route, `path`, at which `sq` receives.

    The app that includes it registers the functions at its start (see `slayq.contrib.startup.registering`), unless
    `register` is false. Ops leave as they happen, and a caller that goes away cancels the function. The route is not
    in the app's OpenAPI schema.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        async with registering(sq):
            yield

    made = APIRouter(lifespan=lifespan if register else None)
    made.add_route(path, SlayQApp(sq), include_in_schema=False)  # type: ignore[arg-type]  # an ASGI app is one, too
    return made
