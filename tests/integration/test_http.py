"""The daemon's HTTP server, over real sockets: what each endpoint answers in each state of the daemon."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from structlog.testing import capture_logs

from slayq_server.errors import ConfigurationError
from slayq_server.http.health import HealthState
from slayq_server.http.listening import bound
from slayq_server.http.server import HttpServer
from slayq_server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READY = HealthState(database=True, database_down_for=0.0, schema=True, worker=True, leasing=True, draining=False)
AWAY = replace(READY, database=False, worker=False, leasing=False)
ENDPOINTS = ["/livez", "/readyz", "/healthz", "/metrics"]
DEADLINE = 10.0


def new_metrics() -> Metrics:
    return Metrics(["mail"], ["nightly"], "9.9.9", 7)


@asynccontextmanager
async def serving(state: HealthState = READY, **options: Any) -> AsyncIterator[HttpServer]:
    options.setdefault("metrics", new_metrics())
    options.setdefault("health", lambda: state)
    server = HttpServer("127.0.0.1", 0, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(server: HttpServer, path: str, method: str = "GET", **options: Any) -> tuple[int, dict[str, str], bytes]:
    """One request: (status, headers, body)."""
    async with (
        ClientSession(timeout=ClientTimeout(total=DEADLINE)) as session,
        session.request(method, f"http://127.0.0.1:{server.port}{path}", **options) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


async def status_and_json(server: HttpServer, path: str, method: str = "GET", **options: Any) -> tuple[int, Any]:
    status, headers, body = await ask(server, path, method, **options)
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    return status, json.loads(body)


STATES = {
    "ready": (READY, 200, 200),
    "database away for a moment": (replace(AWAY, database_down_for=0.0), 503, 200),
    "database away just under the grace": (replace(AWAY, database_down_for=29.9), 503, 200),
    "database away as long as the grace": (replace(AWAY, database_down_for=30.0), 503, 503),
    "database away for good": (replace(AWAY, database_down_for=3600.0), 503, 503),
    "database away while draining": (replace(AWAY, database_down_for=1.0, draining=True), 503, 503),
    "schema does not fit": (replace(READY, schema=False), 503, 503),
    "worker row not trusted": (replace(READY, worker=False), 503, 503),
    "not leasing": (replace(READY, leasing=False), 503, 503),
    "draining": (replace(READY, draining=True), 503, 503),
}


@pytest.mark.parametrize(("state", "ready", "healthy"), STATES.values(), ids=STATES.keys())
async def test_each_state_has_its_answers(state: HealthState, ready: int, healthy: int) -> None:
    """Live whatever the state; ready only if all is well; healthy also while the database is away for under 30 s."""
    async with serving(state) as server:
        assert await status_and_json(server, "/livez") == (200, {"status": "ok"})
        assert [(await ask(server, path))[0] for path in ("/readyz", "/healthz")] == [ready, healthy]


async def test_readyz_names_each_check_and_the_details() -> None:
    """The body of /readyz says which check fails, how long the database has been away, and the daemon's details."""
    state = replace(AWAY, database_down_for=12.345, detail={"unserved_queues": ["video"]})
    async with serving(state) as server:
        assert await status_and_json(server, "/readyz") == (
            503,
            {
                "status": "unavailable",
                "checks": {
                    "database": False,
                    "schema": True,
                    "worker": False,
                    "leasing": False,
                    "not_draining": True,
                },
                "database_down_for_seconds": 12.3,
                "detail": {"unserved_queues": ["video"]},
            },
        )
        status, body = await status_and_json(server, "/healthz")
        assert (status, body["status"], body["checks"]["database"]) == (200, "ok", False)


async def test_probes_see_the_state_of_the_moment() -> None:
    """Each probe asks anew: no answer is cached, by us or by what lies between."""
    states = [READY, replace(READY, draining=True)]
    async with serving(health=lambda: states.pop(0)) as server:
        first, headers, _ = await ask(server, "/readyz")
        second, _, _ = await ask(server, "/readyz")
    assert ([first, second], headers["Cache-Control"]) == ([200, 503], "no-store")


async def test_metrics_page() -> None:
    """/metrics is Prometheus's text format, with what was recorded."""
    metrics = new_metrics()
    metrics.attempt("mail", "completed", 3)
    async with serving(metrics=metrics) as server:
        status, headers, body = await ask(server, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'slayq_job_attempts_total{outcome="completed",queue="mail"} 3.0\n' in body
    assert body == metrics.render()


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_head_is_answered_like_get_without_a_body(path: str) -> None:
    """HEAD gives the status of GET, and no body."""
    async with serving() as server:
        status, _, body = await ask(server, path, "HEAD")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(path: str, method: str) -> None:
    """Anything but GET and HEAD is 405, says what is allowed, as JSON."""
    async with serving() as server:
        status, headers, body = await ask(server, path, method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(body) == {
        "status": "error",
        "error": "method_not_allowed",
        "message": "use GET, HEAD here",
    }


@pytest.mark.parametrize("path", ["/", "/nothing", "/livez/", "/metrics/../secret", "/%2e%2e/etc/passwd"])
async def test_unknown_paths(path: str) -> None:
    """What is not there is 404 as JSON that names what is, and tells nothing of the software or its version."""
    async with serving() as server:
        status, headers, body = await ask(server, path)
    assert (status, json.loads(body)["error"], headers["Server"]) == (404, "not_found", "slayq")


TOKENS = ["new-token", "old-token"]
AUTHORIZATIONS = {
    "none": (None, 401, "missing"),
    "another scheme": ("Basic bmV3LXRva2Vu", 401, "missing"),
    "no token": ("Bearer ", 401, "missing"),
    "a wrong token": ("Bearer wrong", 401, "invalid"),
    "the start of a token": ("Bearer new-toke", 401, "invalid"),
    "both tokens": ("Bearer new-token old-token", 401, "invalid"),
    "not ASCII": ("Bearer né", 401, "invalid"),
    "the newest token": ("Bearer new-token", 200, None),
    "an older token": ("Bearer old-token", 200, None),
    "lower-case scheme": ("bearer old-token", 200, None),
}


@pytest.mark.parametrize(("header", "status", "reason"), AUTHORIZATIONS.values(), ids=AUTHORIZATIONS.keys())
async def test_metrics_behind_tokens(header: str | None, status: int, reason: str | None) -> None:
    """With tokens set, /metrics wants one of them; a refusal is counted, and the probes stay open."""
    metrics = new_metrics()
    async with serving(metrics=metrics, metrics_tokens=TOKENS) as server:
        given = {} if header is None else {"Authorization": header}
        got, headers, body = await ask(server, "/metrics", headers=given)
        assert [(await ask(server, path))[0] for path in ("/livez", "/readyz", "/healthz")] == [200, 200, 200]
    assert got == status
    counted = [line for line in metrics.render().decode().splitlines() if line.startswith("slayq_auth_failures_total{")]
    nonzero = [line for line in counted if not line.endswith(" 0.0")]
    if reason is None:
        assert nonzero == []
    else:
        assert nonzero == [f'slayq_auth_failures_total{{reason="{reason}",surface="metrics"}} 1.0']
        assert headers["WWW-Authenticate"] == 'Bearer realm="metrics"'
        assert b"token" not in body.replace(b"metrics tokens", b"")


async def test_tokens_can_be_rotated_while_serving() -> None:
    """A reload replaces the tokens: the new one opens the page, the one that was dropped no longer does."""
    async with serving(metrics_tokens=["first"]) as server:
        server.set_metrics_tokens(["second"])
        codes = [
            (await ask(server, "/metrics", headers={"Authorization": f"Bearer {t}"}))[0] for t in ("first", "second")
        ]
    assert codes == [401, 200]


def test_an_empty_token_is_refused() -> None:
    """An empty token would open /metrics to anyone who guesses nothing: it is a configuration error."""
    with pytest.raises(ConfigurationError, match="a metrics token is empty"):
        HttpServer("127.0.0.1", 0, health=lambda: READY, metrics=new_metrics(), metrics_tokens=["good", ""])


async def test_port_in_use() -> None:
    """A port in use is a clear configuration error that names the address and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = HttpServer("127.0.0.1", port, health=lambda: READY, metrics=new_metrics())
        with pytest.raises(ConfigurationError) as caught:
            await server.start()
    assert str(caught.value) == f"http: 127.0.0.1:{port} is in use: stop what listens there, or set http.port"
    # The refused start left nothing behind: now that the port is free, the same server starts.
    await server.start()
    assert server.port == port
    await server.close()


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("192.0.2.1", "http: 192.0.2.1 is no address of this machine: set http.bind"),
        ("2001:db8::1", r"http: (2001:db8::1 is no address of this machine|cannot listen on \[2001:db8::1\]:0)"),
        ("not a host", "http: 'not a host' cannot be resolved: set http.bind to an address of this machine"),
    ],
)
async def test_unusable_bind_address(bind: str, message: str) -> None:
    """An address that is not this machine's, or no address at all, is a configuration error that names http.bind."""
    with pytest.raises(ConfigurationError, match=message):
        await HttpServer(bind, 0, health=lambda: READY, metrics=new_metrics()).start()


async def test_routes_are_mounted_beside_the_endpoints() -> None:
    """Routes given by the daemon are served, their HTTP errors become JSON, and their bodies have a limit."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def refuse(request: web.Request) -> web.Response:
        raise web.HTTPConflict(text="taken")

    routes = [web.post("/echo", echo), web.post("/refuse", refuse)]
    async with serving(routes=routes, max_body_bytes=1000) as server:
        assert (await ask(server, "/echo", "POST", data=b"x" * 1000))[::2] == (200, b"x" * 1000)
        assert (await status_and_json(server, "/echo", "POST", data=b"x" * 1001))[0] == 413
        assert await status_and_json(server, "/refuse", "POST") == (
            409,
            {"status": "error", "error": "conflict", "message": "taken"},
        )
        assert (await ask(server, "/livez"))[0] == 200


async def test_a_fault_of_ours_is_a_500_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error is logged, and answered as JSON that gives nothing of it away; the server goes on."""

    def broken() -> HealthState:
        raise RuntimeError("s3cret detail")

    # A fresh logger: one that another test has used may be bound to that test's configuration.
    monkeypatch.setattr("slayq_server.http.server._log", structlog.stdlib.get_logger())
    with capture_logs() as logged:
        async with serving(health=broken) as server:
            status, body = await status_and_json(server, "/readyz?token=s3cret-query")
            assert (await ask(server, "/livez"))[0] == 200
    assert (status, body["error"]) == (500, "internal_error")
    assert "s3cret" not in json.dumps(body)
    event = {"event": "http_request_failed", "log_level": "error", "method": "GET", "path": "/readyz", "exc_info": True}
    assert logged == [event]


async def raw(server: HttpServer, request: bytes) -> bytes:
    """Send bytes, leave the connection open, and read until the server closes it (or the deadline fails the test)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /livez?" + b"q" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"v" * 8000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: v\r\n" % i for i in range(200)) + b"\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=["long line", "long header", "many headers", "not HTTP"],
)
async def test_requests_out_of_bounds(request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A request line or header over 4 KiB, more than 64 headers, what is no HTTP at all: 400, closed, not logged."""
    async with serving() as server:
        status_line = (await raw(server, request_bytes)).partition(b"\r\n")[0]
    assert (status_line, caplog.records) == (b"HTTP/1.0 400 Bad Request", [])


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a request"])
async def test_a_client_that_does_not_finish_its_request_is_dropped(sent: bytes) -> None:
    """A connection that has not sent a whole request within the idle time-out is closed."""
    async with serving(idle_timeout=0.05) as server:
        assert await raw(server, sent) == b""


async def test_port_is_known_only_while_serving() -> None:
    """Asked for port 0 the system chooses; before start and after close there is no port, and nothing listens."""
    server = HttpServer("127.0.0.1", 0, health=lambda: READY, metrics=new_metrics())
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.port
    await server.start()
    port = server.port
    with pytest.raises(RuntimeError, match="running already"):
        await server.start()
    await server.close()
    await server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_close_ends_idle_connections_at_once() -> None:
    """Closing does not wait for clients that keep their connection open."""
    server = HttpServer("127.0.0.1", 0, health=lambda: READY, metrics=new_metrics(), close_timeout=DEADLINE)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await server.close()
        await reader.read()
    writer.close()


async def test_several_servers_share_sockets_and_give_the_address_up() -> None:
    """Whichever is there answers; once none listens, the address is free, while connections that there are go on."""
    sockets = await bound("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    async with (
        serving(READY, sockets=[each.dup() for each in sockets]) as one,
        serving(READY, sockets=[each.dup() for each in sockets]) as two,
        ClientSession(timeout=ClientTimeout(total=DEADLINE), connector=TCPConnector(limit=1)) as session,
    ):
        for each in sockets:
            each.close()
        assert port == one.port == two.port
        url = f"http://127.0.0.1:{port}/livez"
        with pytest.raises(ConfigurationError, match="is in use"):
            await HttpServer("127.0.0.1", port, health=lambda: READY, metrics=new_metrics()).start()
        await one.stop_listening()
        async with session.get(url) as answer:
            assert 200 == answer.status
        await two.stop_listening()
        for each in await bound("127.0.0.1", port):
            each.close()
        async with session.get(url) as answer:  # over the connection that there is
            assert 200 == answer.status
