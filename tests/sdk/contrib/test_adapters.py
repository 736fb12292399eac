"""What every adapter does, each in its framework, behind a real server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from slayq.contrib import refusals
from slayq.contrib.asgi import SlayQApp
from slayq.contrib.startup import registering
from slayq.errors import RegistrationFailed, SendFailed, Unauthorized, Unavailable
from slayq.protocol_v2 import CONTENT_TYPE
from tests.sdk.contrib.scripted import FIRST, LAST, Scripted
from tests.sdk.contrib.servers import ADAPTERS, PATH, REGISTERING, aiohttped, uvicorned
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slayq.client import SlayQ

BODY = b'{"v": 2}'


@pytest.fixture
def scripted() -> Scripted:
    """What the adapter hands requests to."""
    return Scripted()


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    """The name of an adapter."""
    return cast("str", request.param)


@pytest.fixture
async def url(adapter: str, scripted: Scripted) -> AsyncIterator[str]:
    """Where that adapter receives."""
    async with ADAPTERS[adapter](of(scripted)) as origin:
        yield origin + PATH


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient(timeout=20) as opened:
        yield opened


def of(scripted: Scripted) -> SlayQ:
    """What an adapter asks for, as far as adapters use it."""
    return cast("SlayQ", scripted)


async def test_ops_leave_as_they_happen(url: str, scripted: Scripted, client: httpx.AsyncClient) -> None:
    """The first op arrives while the function runs; the status, the headers and the body are passed on as they are."""
    async with client.stream("POST", url, content=BODY, headers={"Webhook-Id": "7"}) as answer:
        assert 200 == answer.status_code
        assert CONTENT_TYPE == answer.headers["content-type"]
        assert "yes" == answer.headers["x-of-slayq"]
        pieces = answer.aiter_bytes()
        assert FIRST == (await anext(pieces)).strip(b"\n") + b"\n"
        assert not scripted.finished
        scripted.let_go.set()
        rest = b"".join([piece async for piece in pieces])
    assert LAST == rest.strip(b"\n") + b"\n"
    assert [BODY] == scripted.bodies
    assert "7" == scripted.headers[0]["webhook-id"]


async def test_a_caller_that_goes_away_ends_the_function(
    url: str, scripted: Scripted, client: httpx.AsyncClient
) -> None:
    """The function is cancelled, and does not come to its end."""
    async with client.stream("POST", url, content=BODY) as answer:
        await anext(answer.aiter_bytes())
    await wait_until(scripted.ended.is_set)
    assert not scripted.finished


async def test_what_receive_refuses_is_passed_on(url: str, scripted: Scripted, client: httpx.AsyncClient) -> None:
    """A refusal of `receive` arrives with its own status and body."""
    scripted.status = 401
    scripted.let_go.set()
    answer = await client.post(url, content=BODY)
    assert (401, FIRST + LAST) == (answer.status_code, answer.content)
    assert scripted.ended.is_set()


async def test_a_body_over_the_limit_is_not_taken(
    adapter: str, url: str, scripted: Scripted, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413, whether the length is said beforehand or not, and `receive` is not asked; a body of the limit is taken."""
    for module in ("refusals", "django", "wsgi", "flask"):
        monkeypatch.setattr(f"slayq.contrib.{module}.REQUEST_BYTES", 1000)
    scripted.let_go.set()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    for body in _said_and_unsaid(adapter, b"x" * 1001, pieces()):
        answer = await client.post(url, content=body)
        assert (413, "size") == (answer.status_code, answer.json()["error"]["code"])
    assert [] == scripted.bodies
    assert 200 == (await client.post(url, content=b"x" * 1000)).status_code
    assert [b"x" * 1000] == scripted.bodies


async def test_other_limits_of_the_framework_do_not_count(
    adapter: str, url: str, scripted: Scripted, client: httpx.AsyncClient
) -> None:
    """A body of more than 4 MiB arrives whole, in one piece or in many."""
    scripted.let_go.set()
    large = b"x" * 4_500_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    bodies = _said_and_unsaid(adapter, large, pieces())
    for body in bodies:
        assert 200 == (await client.post(url, content=body)).status_code
    assert [len(large)] * len(bodies) == [len(body) for body in scripted.bodies]


def _said_and_unsaid(adapter: str, whole: bytes, pieces: AsyncIterator[bytes]) -> list[Any]:
    """A body whose length is said beforehand, and one that comes in chunks, which Django does not read under WSGI."""
    return [whole] if adapter == "django-wsgi" else [whole, pieces]


async def test_other_methods_are_refused(url: str, scripted: Scripted, client: httpx.AsyncClient) -> None:
    """405 for a browser's GET; nothing is received."""
    answer = await client.get(url)
    assert 405 == answer.status_code
    assert "POST" in answer.headers["allow"]
    assert [] == scripted.bodies


# Start-up


@pytest.mark.parametrize("adapter", REGISTERING)
async def test_the_functions_are_registered_at_start_up(adapter: str, scripted: Scripted) -> None:
    """Once, before the app serves; at its end the connections are closed."""
    async with ADAPTERS[adapter](of(scripted)):
        assert 1 == scripted.registrations
        assert 0 == scripted.closed
    assert (1, 1) == (scripted.registrations, scripted.closed)


@pytest.mark.parametrize("first", [Unavailable("away"), SendFailed("no schema yet")])
async def test_a_server_that_is_away_does_not_keep_the_app_from_starting(
    first: Exception, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """The app serves, and its functions are registered as soon as the server is there, whatever it said before."""
    caplog.set_level(logging.INFO, "slayq")
    scripted.failures = [first, Unavailable("away still"), Unauthorized("who are you")]
    async with registering(of(scripted), first_delay=0, longest_delay=0):
        assert 1 == scripted.registrations
        await wait_until(lambda: "functions registered with Slay Q's server: 1" in caplog.text)
        assert 4 == scripted.registrations
    assert "it invokes what nobody has" in caplog.text
    assert "away still" in caplog.text


async def test_a_server_that_says_nothing_does_not_keep_the_app_from_starting(scripted: Scripted) -> None:
    """The app waits a few seconds at the most; what goes on beside it ends with it."""

    class Silent(Scripted):
        async def register(self) -> Any:
            self.registrations += 1
            await asyncio.Event().wait()

    silent = Silent()
    async with registering(of(silent), patience=0.01, first_delay=0):
        await wait_until(lambda: silent.registrations == 2)
    assert 1 == silent.closed


@pytest.mark.parametrize("problem", [RegistrationFailed("not yours"), Unauthorized("another secret")])
async def test_an_app_that_cannot_be_registered_does_not_start(scripted: Scripted, problem: Exception) -> None:
    """What somebody has to mend is found at the start."""
    scripted.failures = [problem]
    with pytest.raises(type(problem)):
        async with registering(of(scripted)):
            pytest.fail("started")
    assert 1 == scripted.closed


async def test_an_asgi_app_says_why_it_does_not_start(scripted: Scripted) -> None:
    """The ASGI server gets to hear why, and is not told that the app has started."""
    scripted.failures = [RegistrationFailed("the event x belongs to another app")]
    sent = await exchanged(SlayQApp(of(scripted)), {"type": "lifespan"}, [{"type": "lifespan.startup"}])
    assert [{"type": "lifespan.startup.failed", "message": "Slay Q: the event x belongs to another app"}] == sent


async def test_a_bug_at_the_start_is_said_too(scripted: Scripted) -> None:
    """It is raised, and the ASGI server does not take it for an app without a lifespan."""
    scripted.failures = [ZeroDivisionError()]
    sent: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        await exchanged(SlayQApp(of(scripted)), {"type": "lifespan"}, [{"type": "lifespan.startup"}], sent)
    assert [{"type": "lifespan.startup.failed", "message": "Slay Q: ZeroDivisionError"}] == sent


@pytest.mark.parametrize("adapter", ["asgi", "fastapi", "aiohttp"])
async def test_registering_can_be_left_out(adapter: str, scripted: Scripted) -> None:
    """For apps that register when they are deployed."""
    from aiohttp import web
    from fastapi import FastAPI

    from slayq.contrib import aiohttp, asgi, fastapi

    sq = of(scripted)
    match adapter:
        case "asgi":
            served = uvicorned(asgi.SlayQApp(sq, register=False))
        case "fastapi":
            app = FastAPI()
            app.include_router(fastapi.router(sq, register=False))
            served = uvicorned(app)
        case _:
            application = web.Application()
            aiohttp.setup(application, sq, register=False)
            served = aiohttped(application)
    async with served:
        pass
    assert 0 == scripted.registrations


async def test_aiohttp_may_cancel_the_handler_itself(scripted: Scripted, client: httpx.AsyncClient) -> None:
    """With aiohttp's `handler_cancellation`, the function is cancelled as well."""
    from aiohttp import web

    from slayq.contrib.aiohttp import handler

    app = web.Application()
    app.router.add_post(PATH, handler(of(scripted)))
    async with aiohttped(app, handler_cancellation=True) as origin:
        async with client.stream("POST", origin + PATH, content=BODY) as answer:
            await anext(answer.aiter_bytes())
        await wait_until(scripted.ended.is_set)
    assert not scripted.finished


async def test_a_router_may_be_below_a_prefix_and_stays_out_of_the_schema(
    scripted: Scripted, client: httpx.AsyncClient
) -> None:
    """FastAPI's own way to move routes works, and the docs of the API do not mention the route."""
    from fastapi import FastAPI

    from slayq.contrib.fastapi import router

    app = FastAPI()
    app.include_router(router(of(scripted), "/jobs"), prefix="/internal")
    scripted.let_go.set()
    async with uvicorned(app) as origin:
        assert 200 == (await client.post(f"{origin}/internal/jobs", content=BODY)).status_code
    assert {} == app.openapi()["paths"]


async def test_a_connection_that_ends_within_the_body_is_no_request(scripted: Scripted) -> None:
    """An ASGI server that says so is believed: `receive` is not asked, nothing is answered."""
    scope = {"type": "http", "method": "POST", "headers": [], "path": PATH}
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    assert [] == await exchanged(SlayQApp(of(scripted)), scope, messages)
    assert [] == scripted.bodies


async def test_a_websocket_is_closed(scripted: Scripted) -> None:
    """An ASGI app is also asked for what it does not do."""
    sent = await exchanged(SlayQApp(of(scripted)), {"type": "websocket"}, [{"type": "websocket.connect"}])
    assert [{"type": "websocket.close"}] == sent


async def exchanged(
    app: SlayQApp, scope: dict[str, Any], messages: list[dict[str, Any]], sent: list[Any] | None = None
) -> list[Any]:
    """What an ASGI app says to an ASGI server that says these messages."""
    coming = iter(messages)
    sent = [] if sent is None else sent

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_refusals_are_json() -> None:
    """Each has a code and a message, like those of `receive`."""
    for refusal in (refusals.TOO_LARGE, refusals.WRONG_METHOD, refusals.BROKEN_OFF):
        assert b'{"error": {"code": "' == refusal.body[:20]
