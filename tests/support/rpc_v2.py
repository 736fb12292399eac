"""A stand-in for the daemon's HTTP API of protocol v2, which can also be away, busy, or break a connection off.

It checks signatures with the package `standardwebhooks`, an implementation that is not ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import asyncpg
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _text(value: Any) -> str:
    """As short as it came, so that sizes in messages are the same."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


SECRET = "whsec_c2xheXEgdGVzdHMgc2hhcmUgdGhpcyBzZWNyZXQ="
_CALLS = {
    "/v2/functions": ("select slayq.register($1::text::json)::text", _text),
    "/v2/events": (
        "select json_build_object('runs', json_agg(run))::text from slayq.send_many($1::text::json) as run",
        lambda body: _text(body["events"]),
    ),
    "/v2/cancel": (
        "select json_build_object('cancelled', slayq.cancel($1::text::uuid))::text",
        lambda body: body["run"],
    ),
}


@dataclass
class Daemon:
    """The server.

    async with Daemon(database_url) as daemon:
        driver = RpcDriver(daemon.url, [SECRET])
    """

    database_url: str
    url: str = ""
    before: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=list)
    """What the next requests get in place of an answer."""
    after: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=list)
    """What the next requests get once they have been carried out."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """The headers of all requests, names in lower case."""

    async def __aenter__(self) -> Self:
        self._pool = await asyncpg.create_pool(self.database_url, min_size=0, max_size=2, timeout=10)
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()
        await self._pool.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append({name.lower(): value for name, value in request.headers.items()})
        body = await request.read()
        if self.before:
            return await self.before.pop(0)(request)
        try:
            Webhook(SECRET).verify(body, self.requests[-1])
        except WebhookVerificationError as error:
            return refusal(401, "timestamp" if "timestamp" in str(error) else "signature", str(error))
        statement, argument = _CALLS[request.path]
        try:
            async with self._pool.acquire() as connection:
                answer = await connection.fetchval(statement, argument(json.loads(body)))
        except asyncpg.PostgresError as error:
            return refusal(400, error.sqlstate or "", error.args[0], getattr(error, "hint", None))
        if self.after:
            return await self.after.pop(0)(request)
        return web.Response(text=answer, content_type="application/json")


async def broken_off(request: web.Request) -> web.StreamResponse:
    """Closes the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def refusal(status: int, code: str, message: str, hint: str | None = None) -> web.Response:
    """An error in the form that the API has for them."""
    error: dict[str, Any] = {"code": code, "message": message, "hint": hint}
    return web.json_response({"error": error}, status=status)


def answering(response: web.Response) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answers with this."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return response

    return answer
