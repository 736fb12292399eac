"""A real function behind every adapter: a signed request comes in, ops go out as they happen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from slayq import SlayQ, Step
from slayq.drivers import Registered
from slayq.protocol_v2 import CONTENT_TYPE, PROTOCOL_HEADER
from slayq.receiver import Receiver
from slayq.signing import v2_headers
from tests.sdk.contrib.servers import ADAPTERS, PATH
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

SECRET = "whsec_c2xheXEgdGVzdHMgc2hhcmUgdGhpcyBzZWNyZXQ="
URL = "https://shop.example.com/slayq"
TIME_LIMIT = 20.0


class Registrar:
    """A driver to which an app can register, and no more."""

    async def register(self, manifest: Mapping[str, Any]) -> Registered:
        """Takes whatever there is."""
        return Registered(len(manifest["functions"]))

    async def send(self, events: Any) -> Any:
        """Is not asked for."""
        raise NotImplementedError

    async def cancel(self, run: Any) -> Any:
        """Is not asked for."""
        raise NotImplementedError

    async def close(self) -> None:
        """Has nothing to close."""


class Shop:
    """An app whose function has two steps; the second goes on when it is let."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.state = "new"
        self.sq = SlayQ(app="shop", url=URL, secret=SECRET, driver=Registrar())
        # WSGI finds out that nobody is there when it next writes something.
        self.sq.receiver = Receiver(self.sq.functions, lambda: [SECRET], url=URL, keep_alive=0.05)

        @self.sq.function(event="shop/order.placed")
        async def fulfil(order: dict[str, Any], step: Step) -> str:
            units = await step.run("reserve", self._reserve, order["units"])
            await step.run("ship", self._ship)
            return f"{units} units"

    async def _reserve(self, units: int) -> int:
        return units

    async def _ship(self) -> None:
        self.state = "shipping"
        try:
            async with asyncio.timeout(TIME_LIMIT):
                while not self.let_go.is_set():
                    await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.state = "cancelled"
            raise
        self.state = "shipped"


@pytest.fixture
def shop() -> Shop:
    """The app."""
    return Shop()


@pytest.fixture(params=ADAPTERS)
async def url(request: pytest.FixtureRequest, shop: Shop) -> AsyncIterator[str]:
    """Where it receives, by each adapter."""
    async with ADAPTERS[request.param](shop.sq) as origin:
        yield origin + PATH


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient(timeout=TIME_LIMIT) as opened:
        yield opened


def request_of(event: str = "shop/order.placed", audience: str = URL) -> bytes:
    """A request as the daemon makes it."""
    run = {"id": str(uuid4()), "event": event, "data": {"units": 3}, "attempt": 1, "max_attempts": 26}
    return json.dumps(
        {
            "v": 2,
            "audience": audience,
            "lease": {"token": "t-1", "deadline": time.time() * 1000 + 60_000},
            "run": {**run, "created_at": "2026-01-01T00:00:00Z"},
            "steps": [],
            "limits": {"line_bytes": 1_048_576, "ops": 1000},
        }
    ).encode()


def signed(body: bytes, *, secret: str = SECRET, at: float = 0) -> dict[str, str]:
    """Its headers; `at` is in seconds from now."""
    return {
        "content-type": "application/json",
        PROTOCOL_HEADER: "2",
        **v2_headers([secret], body, message_id="run.1", now=time.time() + at),
    }


async def test_a_step_is_told_before_the_function_has_finished(url: str, shop: Shop, client: httpx.AsyncClient) -> None:
    """What the server is to write down arrives while the next step runs; the last line is how the run ended."""
    body = request_of()
    async with client.stream("POST", url, content=body, headers=signed(body)) as answer:
        assert (200, CONTENT_TYPE) == (answer.status_code, answer.headers["content-type"])
        lines = _ops(answer)
        assert "t-1" == (await anext(lines))["lease"]
        assert {"op": "step", "name": "reserve", "output": 3} == await anext(lines)
        assert shop.state != "shipped"
        shop.let_go.set()
        assert {"op": "step", "name": "ship", "output": None} == await anext(lines)
        assert {"op": "done", "output": "3 units"} == await anext(lines)
        assert [] == [line async for line in lines]


async def test_a_server_that_goes_away_cancels_the_step(url: str, shop: Shop, client: httpx.AsyncClient) -> None:
    """As it does for a run that is cancelled."""
    body = request_of()
    async with client.stream("POST", url, content=body, headers=signed(body)) as answer:
        lines = _ops(answer)
        await anext(lines)
        await anext(lines)
        await wait_until(lambda: shop.state == "shipping")
    await wait_until(lambda: shop.state == "cancelled")


REFUSED = {
    "another secret": (401, request_of(), {"secret": "another"}),
    "stale": (401, request_of(), {"at": -301.0}),
    "another app": (401, request_of(audience="https://elsewhere.example.com/slayq"), {}),
    "unknown function": (404, request_of("shop/nobody"), {}),
    "no request": (400, b'{"v": 2}', {}),
    "no JSON": (400, b"hello", {}),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_what_is_refused(url: str, shop: Shop, client: httpx.AsyncClient, why: str) -> None:
    """The function does not run, and the answer says why."""
    status, body, how = REFUSED[why]
    answer = await client.post(url, content=body, headers=signed(body, **how))
    assert status == answer.status_code
    assert {"code", "message"} == set(answer.json()["error"])
    assert "new" == shop.state


async def test_what_is_not_signed_is_refused(url: str, client: httpx.AsyncClient) -> None:
    """401, whatever it is."""
    assert 401 == (await client.post(url, content=request_of())).status_code


async def _ops(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async with contextlib.aclosing(answer.aiter_lines()) as lines:
        async for line in lines:
            if line:
                yield json.loads(line)
