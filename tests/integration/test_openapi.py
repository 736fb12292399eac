"""`/openapi.json` says what the daemon's port answers to: all of it, and nothing else; and answers are as it says."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
import requests.auth
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from slayq.protocol import Task
from slayq_server.clock import SystemClock
from slayq_server.db.pool import Pool
from slayq_server.db.rpc import AppCalls
from slayq_server.http import openapi
from slayq_server.http.api import Api
from slayq_server.http.health import HealthState
from slayq_server.http.rpc import Rpc
from slayq_server.http.server import HttpServer
from slayq_server.http.signed import Bodies
from slayq_server.metrics import Metrics
from tests.support import rpc
from tests.support.ops_app import SECRET, sign

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from slayq_server.errors import DatabaseUnavailable
    from slayq_server.protocol.rpc_v1 import Call

HEALTH = HealthState(database=True, database_down_for=0.0, schema=True, worker=True, leasing=True, draining=False)
V2: dict[str, Any] = {
    "/v2/functions": {"app": "shop", "url": "https://app.example.com/slayq", "functions": [{"event": "e"}]},
    "/v2/events": {"events": [{"event": "e", "data": {"n": 1}}]},
    "/v2/cancel": {"run": "00000000-0000-4000-8000-000000000000"},
}
"""The calls, each with a body that is taken once those before it have been."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TIME_LIMIT = 30.0

bounded = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


class Engine:
    """Carries out over the test's database, and counts."""

    def __init__(self, calls: AppCalls) -> None:
        self._calls = calls
        self.done = 0

    async def carry_out(self, call: Call) -> None:
        await self._calls.carry_out(call, [])
        self.done += 1

    async def send(self, events: str) -> list[str | None]:
        runs = (await self._calls.send(events, []))[0]
        self.done += 1
        return runs

    async def register_app(self, manifest: str) -> str:
        answer = (await self._calls.register(manifest, []))[0]
        self.done += 1
        return answer

    async def cancel_run(self, run: str) -> bool:
        found = (await self._calls.cancel(run, []))[0]
        self.done += 1
        return found


class Served:
    """The daemon's port, served by a loop in a thread of its own, for clients that are not asynchronous."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.faults: list[DatabaseUnavailable] = []

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIME_LIMIT)

    async def start(self) -> None:
        self._pool = Pool(self._url)
        await self._pool.open()
        metrics = Metrics(["mail"], [], "0", 1)
        self.engine = Engine(AppCalls(self._pool, at_once=2, turn_timeout=5.0, lock_timeout=5.0))
        bodies, on_error = Bodies(10.0), self.faults.append
        api = Api(self.engine, [SECRET], metrics, SystemClock(), bodies=bodies, on_error=on_error)
        tasks = Rpc(self.engine.carry_out, [rpc.SECRET], metrics, bodies=bodies, on_error=on_error)
        routes = [*tasks.routes, *api.routes]
        self.http = HttpServer("127.0.0.1", 0, health=lambda: HEALTH, metrics=metrics, routes=routes)
        await self.http.start()
        self.base = f"http://127.0.0.1:{self.http.port}"

    async def stop(self) -> None:
        await self.http.close()
        await self._pool.close()

    @classmethod
    @contextmanager
    def on(cls, url: str) -> Iterator[Served]:
        served = cls(url)
        served._thread.start()
        try:
            served.run(served.start())
            try:
                yield served
            finally:
                served.run(served.stop())
        finally:
            served._loop.call_soon_threadsafe(served._loop.stop)
            served._thread.join(TIME_LIMIT)
            served._loop.close()

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """One request: POST if there is a body."""
        request = urllib.request.Request(self.base + path, body, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=TIME_LIMIT) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture
def served(database_url: str) -> Iterator[Served]:
    """The port of a daemon on the test's own database."""
    with Served.on(database_url) as running:
        yield running


def signature(body: bytes) -> dict[str, str]:
    """The headers that sign a body in protocol v2."""
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(time.time()))}
    return {**headers, "webhook-signature": sign(SECRET, headers, body)}


def test_every_route_is_described(served: Served) -> None:
    """And the other way round. A route for all methods is there to say in JSON that POST is the one."""
    status, body = served.ask("/openapi.json")
    assert (200, openapi.document()) == (status, json.loads(body))
    router: web.UrlDispatcher = served.http._application().router
    routes = {
        ("post" if route.method == "*" else route.method.lower(), route.resource.canonical)
        for route in router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    described = {(method, path) for path, item in openapi.document()["paths"].items() for method in item}
    assert routes == described


def test_the_document_is_sound() -> None:
    """Its schemas are JSON Schema, and its references lead somewhere."""
    schemathesis.openapi.from_dict(openapi.document()).validate()


class Signer(requests.auth.AuthBase):
    """Signs what is really sent."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        request.headers.update(signature(body.encode() if isinstance(body, str) else body))
        return request


def answers_as_described(served: Served, path: str, examples: int) -> None:
    """Bodies that fit and bodies that do not, signed: each answer must be one that the document has."""
    operation = schemathesis.openapi.from_dict(openapi.document())[path]["POST"]
    fitting = operation.as_strategy()
    unfitting = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(bounded, max_examples=examples)
    @given(case=fitting | unfitting)
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=served.base, auth=Signer(), timeout=TIME_LIMIT, checks=CHECKS)

    for each, body in V2.items():
        good = schemathesis.openapi.from_dict(openapi.document())[each]["POST"].Case(body=body)
        said = good.call_and_validate(base_url=served.base, auth=Signer(), timeout=TIME_LIMIT, checks=CHECKS)
        assert 200 == said.status_code
    check()
    assert [] == served.faults


@pytest.mark.parametrize("path", V2)
def test_answers_are_as_described(served: Served, path: str) -> None:
    """To any body that is signed: a status and a form that the document has, and never a 500."""
    answers_as_described(served, path, 20)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", V2)
def test_answers_are_as_described_to_many_more(served: Served, path: str) -> None:
    """As above."""
    answers_as_described(served, path, 1000)


@bounded
@given(data=st.data())
def mutated(served: Served, data: st.DataObject) -> None:
    """One request whose body was changed after it had been signed, or whose signature was."""
    path = data.draw(st.sampled_from([*V2, *(f"/{task}" for task in Task)]))
    body = json.dumps({"events": [], "run": "x", "app": "a"}).encode()
    headers = signature(body) if path in V2 else {rpc.HEADER: rpc.sign(body)}
    name = data.draw(st.sampled_from(sorted(headers)))
    what = data.draw(st.sampled_from(["body", "header", "missing", "cut"]))
    if what == "body":
        place = data.draw(st.integers(0, len(body) - 1))
        body = body[:place] + bytes([body[place] ^ data.draw(st.integers(1, 255))]) + body[place + 1 :]
    elif what == "missing":
        del headers[name]
    elif what == "cut":
        headers[name] = headers[name][: data.draw(st.integers(0, len(headers[name]) - 1))]
    else:
        headers[name] = data.draw(st.text(st.characters(codec="latin-1", exclude_categories=["C"]), max_size=200))
    status, answer = served.ask(path, body, {"Content-Type": "application/json", **headers})
    assert 401 == status, (path, what, name, answer)


def test_nothing_is_carried_out_unsigned(served: Served) -> None:
    """Whatever is wrong with the signature, the answer is a 401, and nobody hears of the body."""
    mutated(served)
    assert 0 == served.engine.done
