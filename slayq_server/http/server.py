"""The HTTP server of the daemon: `/livez`, `/readyz`, `/healthz`, `/metrics`, `/openapi.json`, and routes it is given.

Every answer of its own is JSON (but for the metrics), errors included. A probe reads the daemon's memory and never the
database, so it is quick when the database is not. What a slow or hostile client can hold is bounded: small headers, a
limit on bodies, and a connection that has not sent a whole request within `idle_timeout` is closed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError

from slayq_server.errors import ConfigurationError
from slayq_server.http import openapi
from slayq_server.http.listening import START_TIMEOUT, why_not

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from slayq_server.http.health import Health, HealthState, ServerHealth
    from slayq_server.metrics import Metrics

_HEADER_BYTES: Final = 4096
_HEADERS: Final = 64
_LINGER: Final = 2.0
"""Seconds to read the rest of a body that nobody wanted, so that the client sees the answer."""
_HINT: Final = "there is nothing here: GET /livez, /readyz, /healthz or /metrics, or POST a task (/add-worker-job …)"

_log = structlog.stdlib.get_logger(__name__)


def _not_the_clients_fault(record: logging.LogRecord) -> bool:
    """False for bytes that are no HTTP: anyone can send those, and they may hold anything, so they are not logged."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.addFilter(_not_the_clients_fault)


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type="application/json")


def _error(status: int, code: str, message: str) -> web.Response:
    return _json({"status": "error", "error": code, "message": message}, status)


@web.middleware
async def _answers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn what aiohttp raises, and what a handler did not expect, into JSON; no answer is stored or sniffed."""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except web.HTTPNotFound:
        response = _error(404, "not_found", _HINT)
    except web.HTTPMethodNotAllowed as refused:
        allowed = ", ".join(sorted(refused.allowed_methods))
        response = _error(405, "method_not_allowed", f"use {allowed} here")
        response.headers[hdrs.ALLOW] = allowed
    except web.HTTPException as answer:
        response = _error(answer.status, answer.reason.lower().replace(" ", "_"), answer.text or answer.reason)
        response.headers.extend({k: v for k, v in answer.headers.items() if k != hdrs.CONTENT_TYPE})
    except Exception:
        # The path is one of ours (an unknown one is a 404), but a query may hold anything: it is not logged.
        _log.exception("http_request_failed", method=request.method, path=request.path)
        response = _error(500, "internal_error", "the server failed to answer; its log says why")
    if not response.prepared:
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers[hdrs.SERVER] = "slayq"
    return response


class Processes(Protocol):
    """All processes of a server that has several: what is said of the server says it of all of them."""

    async def health(self) -> ServerHealth: ...
    async def metrics(self) -> bytes: ...


class HttpServer:
    """Serves health, metrics and `routes` on one address, from `start` to `close`.

    `health` is asked on every probe and must answer from memory. `metrics_tokens`: if there is any, `/metrics` wants
    one of them as a bearer token. Where the server has several processes, `sockets` are bound already, and shared by
    all of them, and `processes` speaks for all. `max_body_bytes` bounds the body of a request to one of `routes`.
    `idle_timeout` and `close_timeout` are seconds.
    """

    def __init__(
        self,
        bind: str,
        port: int,
        *,
        health: Callable[[], HealthState],
        metrics: Metrics,
        metrics_tokens: Sequence[str] = (),
        routes: Sequence[web.RouteDef] = (),
        sockets: Sequence[socket.socket] = (),
        processes: Processes | None = None,
        max_body_bytes: int = 1024 * 1024,
        idle_timeout: float = 30.0,
        close_timeout: float = 2.0,
    ) -> None:
        self._bind = bind
        self._wanted_port = port
        self._health = health
        self._metrics = metrics
        self._tokens: tuple[bytes, ...] = ()
        self._routes = tuple(routes)
        self._sockets = tuple(sockets)
        self._processes = processes
        self._max_body_bytes = max_body_bytes
        self._idle_timeout = idle_timeout
        self._close_timeout = close_timeout
        self._runner: web.AppRunner | None = None
        self._port: int | None = None
        self.set_metrics_tokens(metrics_tokens)

    @property
    def port(self) -> int:
        """The port that is listened on (where 0 was asked for, the system's choice). Only between start and close."""
        if self._port is None:
            raise RuntimeError("the HTTP server is not running, so it has no port: await start() first")
        return self._port

    def set_metrics_tokens(self, tokens: Sequence[str]) -> None:
        """Replace the tokens of `/metrics` (newest first; none: open to all). An empty one is a ConfigurationError."""
        if not all(tokens):
            raise ConfigurationError("http: a metrics token is empty: give it a value or take it out")
        self._tokens = tuple(token.encode() for token in tokens)

    async def start(self) -> None:
        """Bind and serve. A ConfigurationError says what is wrong with the address, and nothing is left behind."""
        if self._runner is not None:
            raise RuntimeError("the HTTP server is running already")
        runner = web.AppRunner(
            self._application(),
            handle_signals=False,
            access_log=None,
            logger=_wire_log,
            keepalive_timeout=self._idle_timeout,
            shutdown_timeout=self._close_timeout,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            max_headers=_HEADERS,
            lingering_time=_LINGER,
            auto_decompress=False,  # a body is signed as it comes, and no small one becomes a large one
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await runner.setup()
                for site in self._sites(runner):
                    await site.start()
        except BaseException as error:
            await runner.cleanup()
            if isinstance(error, OSError):
                raise ConfigurationError(why_not(self._bind, self._wanted_port, error)) from error
            raise
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening, let answers that are being written end (for `close_timeout`), and close all connections."""
        runner, self._runner, self._port = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    async def stop_listening(self) -> None:
        """Give the address up; connections that there are go on until `close`."""
        for site in list(self._runner.sites) if self._runner is not None else ():
            await site.stop()

    def _sites(self, runner: web.AppRunner) -> list[web.BaseSite]:
        if self._sockets:
            return [web.SockSite(runner, each) for each in self._sockets]
        return [web.TCPSite(runner, self._bind, self._wanted_port)]

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_answers], client_max_size=self._max_body_bytes)
        # add_get answers HEAD as well; any other method is a 405.
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get(openapi.PATH, self._openapi)
        app.add_routes(self._routes)
        return app

    async def _livez(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _openapi(self, request: web.Request) -> web.Response:
        return _json(openapi.document())

    async def _readyz(self, request: web.Request) -> web.Response:
        state = await self._state()
        return _json(state.report(ok=state.ready), 200 if state.ready else 503)

    async def _healthz(self, request: web.Request) -> web.Response:
        state = await self._state()
        return _json(state.report(ok=state.healthy), 200 if state.healthy else 503)

    async def _state(self) -> Health:
        return self._health() if self._processes is None else await self._processes.health()

    async def _metrics_page(self, request: web.Request) -> web.Response:
        if self._tokens and (reason := self._token_fault(request.headers.get(hdrs.AUTHORIZATION))):
            self._metrics.auth_failure("metrics", reason)
            refusal = _error(401, "unauthorized", "send one of the metrics tokens as: Authorization: Bearer TOKEN")
            refusal.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="metrics"'
            return refusal
        if self._processes is not None:
            page = await self._processes.metrics()
        else:
            # With hundreds of queues this takes tens of milliseconds, which the event loop has better uses for.
            page = await asyncio.to_thread(self._metrics.render)
        return web.Response(body=page, headers={hdrs.CONTENT_TYPE: self._metrics.content_type})

    def _token_fault(self, authorization: str | None) -> str | None:
        """Why the header does not open `/metrics`, or None if it does. Takes as long for any wrong token."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return "missing"
        # Compare with each: stopping at the first match would tell which of the tokens it was.
        given = token.strip().encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(given, known) for known in self._tokens]
        return None if any(matches) else "invalid"
