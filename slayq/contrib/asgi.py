"""ASGI: an app to mount, or to run by itself. Starlette takes it as the endpoint of a route, too.

app = Starlette(routes=[Route("/slayq", SlayQApp(sq))], lifespan=lambda _: registering(sq))
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

from slayq.contrib.refusals import WRONG_METHOD, Body, BodyRefused, Refusal
from slayq.contrib.startup import registering
from slayq.errors import SlayQError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slayq.client import SlayQ
    from slayq.receiver import Reply

__all__ = ["SlayQApp", "registering"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Gone(Exception):
    """The caller has closed the connection."""


class SlayQApp:
    """An ASGI app that receives for `sq`, whatever the path: ops leave as they happen, and a caller that goes away
    cancels the function.

    Run by itself it registers the functions at its start (see `registering`), unless `register` is false. A mounted app
    is not told of the start: there, put `registering(sq)` into the lifespan of the app around it.
    """

    def __init__(self, sq: SlayQ, *, register: bool = True) -> None:
        self._sq = sq
        self._register = register

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection, or the lifespan."""
        match scope["type"]:
            case "http":
                with contextlib.suppress(_Gone):
                    await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close"})
            case unknown:
                raise NotImplementedError(f"Slay Q's app serves HTTP, not {unknown}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] != "POST":
            await _refuse(send, WRONG_METHOD)
            return
        try:
            body = await _read(receive, headers.get("content-length"))
        except BodyRefused as refused:
            await _refuse(send, refused.refusal)
            return
        await _pass_on(await self._sq.receive(headers, body), receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        started = False
        try:
            async with registering(self._sq) if self._register else contextlib.nullcontext():
                await send({"type": "lifespan.startup.complete"})
                started = True
                await receive()  # lifespan.shutdown
        except Exception as error:
            if not started:
                # Said, and not only raised: a server may take an exception for an app that knows no lifespan.
                await send(
                    {"type": "lifespan.startup.failed", "message": f"Slay Q: {str(error) or type(error).__name__}"}
                )
            if started or not isinstance(error, SlayQError):
                raise
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def _read(receive: Receive, length: str | None) -> bytes:
    body = Body(length)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body.add(message.get("body", b""))
        more = message.get("more_body", False)
    return body.whole()


async def _pass_on(reply: Reply, receive: Receive, send: Send) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            # It raises when the caller is gone, and the group then cancels the sending, and with it the function.
            watching = group.create_task(_until_gone(receive))
            async with contextlib.aclosing(reply.lines) as lines:
                await _start(send, reply.status, reply.headers)
                async for line in lines:
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            watching.cancel()
    except* (_Gone, OSError):
        pass  # some servers say it by an OSError from `send`


async def _until_gone(receive: Receive) -> NoReturn:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _Gone


async def _refuse(send: Send, refusal: Refusal) -> None:
    await _start(send, refusal.status, refusal.headers)
    await send({"type": "http.response.body", "body": refusal.body})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
