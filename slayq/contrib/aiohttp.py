"""aiohttp: a handler, or the whole set-up.

setup(app, sq, "/slayq")
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, NoReturn

from slayq.contrib.refusals import BROKEN_OFF, WRONG_METHOD, Body, BodyRefused
from slayq.contrib.startup import registering
from slayq.extras import needed

with needed("aiohttp"):
    from aiohttp import ClientConnectionError, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from slayq.client import SlayQ
    from slayq.receiver import Reply

_LOOK: Final = 0.5
"""Seconds between two looks at whether the caller is still there. aiohttp tells handlers only if asked to at its start
(`handler_cancellation=True`), and a write finds out no sooner than there is something to write."""


class _Gone(Exception):
    """The caller has closed the connection."""


def setup(app: web.Application, sq: SlayQ, path: str = "/slayq", *, register: bool = True) -> None:
    """Lets `sq` receive at `path`.

    The app registers the functions at its start (see `slayq.contrib.startup.registering`), unless `register` is false.
    """

    async def lifespan(_app: web.Application) -> AsyncIterator[None]:
        async with registering(sq):
            yield

    app.router.add_route("*", path, handler(sq))
    if register:
        app.cleanup_ctx.append(lifespan)


def handler(sq: SlayQ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that receives for `sq`: ops leave as they happen, and a caller that goes away cancels the function."""

    async def receive(request: web.Request) -> web.StreamResponse:
        try:
            body = await _read(request)
        except BodyRefused as refused:
            refusal = refused.refusal
            return web.Response(body=refusal.body, status=refusal.status, headers=refusal.headers)
        return await _pass_on(await sq.receive(request.headers, body), request)

    return receive


async def _read(request: web.Request) -> bytes:
    if request.method != "POST":
        raise BodyRefused(WRONG_METHOD)
    body = Body(request.headers.get("content-length"))
    try:
        async for piece in request.content.iter_any():
            body.add(piece)
    except (web.RequestPayloadError, ConnectionError):
        raise BodyRefused(BROKEN_OFF) from None
    return body.whole()


async def _pass_on(reply: Reply, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    try:
        async with asyncio.TaskGroup() as group:
            # It raises when the caller is gone, and the group then cancels the sending, and with it the function.
            watching = group.create_task(_until_gone(request))
            async with contextlib.aclosing(reply.lines) as lines:
                await response.prepare(request)
                async for line in lines:
                    await response.write(line)
            await response.write_eof()
            watching.cancel()
    except* (_Gone, ConnectionError, ClientConnectionError):
        pass
    return response


async def _until_gone(request: web.Request) -> NoReturn:
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # nothing tells us
        await asyncio.sleep(_LOOK)
    raise _Gone
