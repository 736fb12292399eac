"""What the tour needs beside its functions: promises and how each is checked, and a server for each framework."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from slayq import SlayQ
from slayq_server.db.admin import Admin
from slayq_server.db.admin_runs import RunDetail, StepRow

PATIENCE = 40.0
"""Seconds that a check waits for what was promised. Nothing takes a tenth of it on an idle machine."""


class Broken(Exception):
    """Something was not as promised."""


def expect(actual: object, wanted: object, what: str) -> None:
    """Raises Broken if they differ."""
    if actual != wanted:
        raise Broken(f"{what}: {actual!r}, and not {wanted!r}")


def demand(true: object, what: str) -> None:
    """Raises Broken, with what is wrong, unless it is true."""
    if not true:
        raise Broken(what)


class Diary:
    """What functions and steps say that they did, in order, under names of their own. Safe to write from threads."""

    def __init__(self) -> None:
        self._pages: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, page: str, what: str) -> None:
        """One line more."""
        self._pages[page].append(what)

    def read(self, page: str) -> list[str]:
        """All lines of a page so far."""
        return list(self._pages[page])


class Tour:
    """What checks are given: the app, and a look into the database from behind."""

    def __init__(self, sq: SlayQ, admin: Admin, database_url: str, *, notices_closing: bool) -> None:
        self.sq = sq
        self.admin = admin
        self.database_url = database_url
        self.notices_closing = notices_closing
        """Whether the framework tells at once when the server closes a connection."""

    async def until(self, condition: Callable[[], Awaitable[Any] | Any], what: str) -> Any:
        """What the condition gives once that is true. Raises Broken after a long time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = condition()
                    if isinstance(found, Awaitable):
                        found = await found
                    if found:
                        return found
                    await asyncio.sleep(0.03)
        raise Broken(f"{what} did not happen within {PATIENCE:g} s")

    async def show(self, run: UUID | None) -> tuple[RunDetail, dict[str, StepRow]] | None:
        """A run and its steps by name, as `slayq-server runs show` has them; None if there is no trace of it."""
        demand(run is not None, "no run was made")
        assert run is not None
        found = await self.admin.runs.show(run)
        return None if found is None else (found[0], {step.name: step for step in found[1]})

    async def ended(self, run: UUID | None) -> RunDetail:
        """A run once it has ended, well or not."""

        async def look() -> RunDetail | None:
            found = await self.show(run)
            return found[0] if found is not None and found[0].ended_at is not None else None

        ended: RunDetail = await self.until(look, f"the end of run {run}")
        return ended

    async def result(self, run: UUID | None) -> Any:
        """What a run returned, once it is done. Raises Broken if it became a dead letter."""
        ended = await self.ended(run)
        demand(ended.state == "done", f"the run is {ended.state}: {ended.last_error}")
        return json.loads(ended.output or "null")

    async def letter(self, run: UUID | None, reason: str) -> RunDetail:
        """A run that became a dead letter, for this reason."""
        ended = await self.ended(run)
        expect(ended.state, f"dead: {reason}", f"the end of the run ({ended.last_error})")
        return ended

    async def until_step(self, run: UUID | None, name: str) -> StepRow:
        """A step once it is written down, in whatever state."""

        async def look() -> StepRow | None:
            found = await self.show(run)
            return None if found is None else found[1].get(name)

        step: StepRow = await self.until(look, f"step {name!r} being written down")
        return step

    async def until_gone(self, run: UUID | None) -> None:
        """Waits until nothing is left of a run."""

        async def look() -> bool:
            return await self.show(run) is None

        await self.until(look, f"the end of run {run}, without a trace")

    async def command(self, *arguments: str) -> Any:
        """What `slayq-server …  --json` prints, run on this database."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slayq_server", *arguments, "--json"),
            env={**os.environ, "SLAY_Q_DATABASE_URL": self.database_url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            printed, complaint = await process.communicate()
        expect(
            process.returncode, 0, f"`slayq-server {' '.join(arguments)}` ({complaint.decode().strip()}) exited with"
        )
        return json.loads(printed)


Check = Callable[[Tour], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Promise:
    """One feature: what is promised of it, and what finds out whether that holds."""

    feature: str
    words: str
    check: Check


PROMISES: list[Promise] = []


def promise(feature: str, words: str) -> Callable[[Check], Check]:
    """Puts a check into the tour. It returns what happened, in words, or raises Broken."""

    def keep(check: Check) -> Check:
        PROMISES.append(Promise(feature, words, check))
        return check

    return keep


async def walk(tour: Tour, say: Callable[[str], None]) -> bool:
    """Checks all promises at once, and says of each, in their order, what came of it. Whether all were kept."""
    kept = True
    async with asyncio.TaskGroup() as group:
        courses = [(each, group.create_task(_outcome(each, tour))) for each in PROMISES]
        for each, course in courses:
            good, words = await course
            kept = kept and good
            say(f"{'✓' if good else '✗'} {each.feature}")
            say(f"    promised: {each.words}")
            say(f"    {'happened' if good else 'BROKEN  '}: {words}")
    return kept


async def _outcome(each: Promise, tour: Tour) -> tuple[bool, str]:
    try:
        return True, await each.check(tour)
    except Broken as broken:
        return False, str(broken)
    except Exception as error:  # a check that fails in another way is a broken promise, too
        return False, f"{type(error).__name__}: {error}"


# A server for each framework


@contextlib.asynccontextmanager
async def served(adapter: str, sq: SlayQ) -> AsyncIterator[None]:
    """The app under a framework, listening where its URL says. At the end it has ended."""
    assert sq.url is not None
    address = urlsplit(sq.url)
    assert address.port is not None
    async with ADAPTERS[adapter](sq, address.path, address.port):
        yield


@contextlib.asynccontextmanager
async def _asgi(sq: SlayQ, _path: str, port: int) -> AsyncIterator[None]:
    from slayq.contrib.asgi import SlayQApp

    async with _uvicorn(SlayQApp(sq), port):
        yield


@contextlib.asynccontextmanager
async def _fastapi(sq: SlayQ, path: str, port: int) -> AsyncIterator[None]:
    from fastapi import FastAPI

    from slayq.contrib.fastapi import router

    app = FastAPI()
    app.include_router(router(sq, path))
    async with _uvicorn(app, port):
        yield


@contextlib.asynccontextmanager
async def _aiohttp(sq: SlayQ, path: str, port: int) -> AsyncIterator[None]:
    from aiohttp import web

    from slayq.contrib.aiohttp import setup

    app = web.Application()
    setup(app, sq, path)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _flask(sq: SlayQ, path: str, port: int) -> AsyncIterator[None]:
    from flask import Flask

    from slayq.contrib.flask import blueprint

    app = Flask("tour")
    app.register_blueprint(blueprint(sq, path))
    await sq.register()  # Flask has no moment at which an app starts
    async with _werkzeug(app, port):
        yield


@contextlib.asynccontextmanager
async def _django(sq: SlayQ, path: str, port: int) -> AsyncIterator[None]:
    from slayq.contrib.django import async_view

    _configure_django(path, async_view(sq))
    from django.core.handlers.asgi import ASGIHandler

    await sq.register()  # nor has Django
    async with _uvicorn(ASGIHandler(), port, lifespan="off"):
        yield


@contextlib.asynccontextmanager
async def _django_sync(sq: SlayQ, path: str, port: int) -> AsyncIterator[None]:
    from slayq.contrib.django import view

    _configure_django(path, view(sq))
    from django.core.handlers.wsgi import WSGIHandler

    await sq.register()
    async with _werkzeug(WSGIHandler(), port):
        yield


ADAPTERS: dict[str, Callable[[SlayQ, str, int], contextlib.AbstractAsyncContextManager[None]]] = {
    "asgi": _asgi,
    "fastapi": _fastapi,
    "django": _django,
    "django-sync": _django_sync,
    "flask": _flask,
    "aiohttp": _aiohttp,
}
WSGI = ("django-sync", "flask")
"""Under these an app learns that a connection is closed no sooner than when it writes to it."""


def _configure_django(path: str, view: Any) -> None:
    from types import ModuleType

    import django
    from django.conf import settings
    from django.urls import path as at

    urls = ModuleType("tour_urls")
    urls.urlpatterns = [at(path.lstrip("/"), view)]  # type: ignore[attr-defined]
    settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=urls, LOGGING_CONFIG=None)
    django.setup()


@contextlib.asynccontextmanager
async def _uvicorn(app: Any, port: int, *, lifespan: Any = "on") -> AsyncIterator[None]:
    import uvicorn

    with socket.create_server(("127.0.0.1", port)) as listening:
        config = uvicorn.Config(app, lifespan=lifespan, log_config=None, ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listening]))
            try:
                while not server.started:  # uvicorn tells nobody
                    demand(not serving.done(), "uvicorn did not start")
                    await asyncio.sleep(0.01)
                yield
            finally:
                server.should_exit = True


@contextlib.asynccontextmanager
async def _werkzeug(app: Any, port: int) -> AsyncIterator[None]:
    import logging

    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        await asyncio.to_thread(thread.join)
        server.server_close()
