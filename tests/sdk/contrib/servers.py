"""Real servers for each adapter, in this process, on a port of 127.0.0.1: a free one, or one that is given."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import uvicorn
from aiohttp import web
from django.conf import settings
from werkzeug.serving import make_server

from slayq.contrib import aiohttp as of_aiohttp
from slayq.contrib import asgi, wsgi
from slayq.contrib import django as of_django
from slayq.contrib import fastapi as of_fastapi
from slayq.contrib import flask as of_flask
from tests.support import django_project
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from slayq.client import SlayQ

PATH = "/slayq"


@contextlib.asynccontextmanager
async def uvicorned(app: Any, port: int = 0, *, lifespan: str = "on") -> AsyncIterator[str]:
    """An ASGI app's origin, in the test's own event loop."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        server = uvicorn.Server(
            uvicorn.Config(app, lifespan=lifespan, log_config=None, ws="none", timeout_graceful_shutdown=1)  # type: ignore[arg-type]
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await wait_until(lambda: server.started or serving.done())
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            with contextlib.suppress(SystemExit):
                await serving


@contextlib.asynccontextmanager
async def werkzeuged(app: Any, port: int = 0) -> AsyncIterator[str]:
    """A WSGI app's origin, each request in a thread of its own."""
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        await asyncio.to_thread(thread.join)
        server.server_close()


@contextlib.asynccontextmanager
async def aiohttped(app: web.Application, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """An aiohttp app's origin, in the test's own event loop."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def _asgi(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    return uvicorned(asgi.SlayQApp(sq), port)


def _starlette(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    from starlette.applications import Starlette
    from starlette.routing import Route

    app = Starlette(routes=[Route(PATH, asgi.SlayQApp(sq))], lifespan=lambda _: asgi.registering(sq))
    return uvicorned(app, port)


def _fastapi(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(of_fastapi.router(sq, PATH))
    return uvicorned(app, port)


def _fastapi_middleware(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    """With middleware that stands between requests and answers, as many apps have it."""
    from fastapi import FastAPI, Request

    app = FastAPI()

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.include_router(of_fastapi.router(sq, PATH))
    return uvicorned(app, port)


def _aiohttp(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    app = web.Application()
    of_aiohttp.setup(app, sq, PATH)
    return aiohttped(app, port)


def _wsgi(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    return werkzeuged(wsgi.SlayQApp(sq), port)


def _flask(sq: SlayQ, port: int = 0) -> AbstractAsyncContextManager[str]:
    from flask import Flask

    app = Flask("shop")
    app.register_blueprint(of_flask.blueprint(sq, PATH))
    return werkzeuged(app, port)


def _django(view: Any) -> None:
    """Makes Django serve one view. Its settings are the process's."""
    from django.urls import clear_url_caches, path

    urls = ModuleType("urls_of_the_test")
    urls.urlpatterns = [path(PATH.lstrip("/"), view)]  # type: ignore[attr-defined]
    django_project.set_up()
    settings.ROOT_URLCONF = urls
    clear_url_caches()


@contextlib.asynccontextmanager
async def _django_asgi(sq: SlayQ, port: int = 0) -> AsyncIterator[str]:
    from django.core.handlers.asgi import ASGIHandler

    _django(of_django.async_view(sq))
    async with uvicorned(ASGIHandler(), port, lifespan="off") as origin:
        yield origin


@contextlib.asynccontextmanager
async def _django_wsgi(sq: SlayQ, port: int = 0) -> AsyncIterator[str]:
    from django.core.handlers.wsgi import WSGIHandler

    _django(of_django.view(sq))
    async with werkzeuged(WSGIHandler(), port) as origin:
        yield origin


ADAPTERS: dict[str, Callable[..., AbstractAsyncContextManager[str]]] = {
    "asgi": _asgi,
    "starlette": _starlette,
    "fastapi": _fastapi,
    "fastapi-middleware": _fastapi_middleware,
    "django-asgi": _django_asgi,
    "django-wsgi": _django_wsgi,
    "flask": _flask,
    "wsgi": _wsgi,
    "aiohttp": _aiohttp,
}
REGISTERING = ("asgi", "starlette", "fastapi", "fastapi-middleware", "aiohttp")
"""Adapters of frameworks that say when an app starts."""
