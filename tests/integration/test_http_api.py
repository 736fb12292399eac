"""The HTTP API of protocol v2: sending, registering, cancelling; its errors, its signatures, what it wakes."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession, ClientTimeout

from slayq_server.clock import SystemClock
from slayq_server.db.pool import Pool
from slayq_server.db.rpc import AppCalls
from slayq_server.http.api import Api
from slayq_server.http.health import HealthState
from slayq_server.http.server import HttpServer
from slayq_server.http.signed import BODY_LIMIT, Bodies
from slayq_server.metrics import Metrics
from tests.support.ops_app import SECRET, OpsApp, Request, done, output_of, sign, step
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import asyncpg

    from slayq_server.errors import DatabaseUnavailable
    from tests.conftest import Connect
    from tests.support.daemon import Daemons

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
MANIFEST = {"app": "shop", "url": "https://app.example.com/slayq", "functions": [{"event": "e", "queue": "mail"}]}
EVENT = {"event": "e", "data": {"n": 1}}
NOBODY = "00000000-0000-4000-8000-000000000000"
TIME_LIMIT = 30.0


def signed(body: bytes, secret: str = SECRET, at: float | None = None, **changes: str) -> dict[str, str]:
    """The headers that sign a body, computed here and not by the project's own code."""
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(time.time() if at is None else at))}
    headers["webhook-signature"] = sign(secret, headers, body)
    return headers | changes


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The error's, in the one form that errors have."""
        assert ["error"] == list(self.body)
        assert ["code", "message", "hint"] == list(self.body["error"])
        return str(self.body["error"]["code"])

    @property
    def message(self) -> str:
        """Why it was refused."""
        return str(self.body["error"]["message"])


async def post(base: str, path: str, body: Any, headers: Mapping[str, str] | None = None, method: str = "POST") -> Said:
    """Posts a body (bytes as they are, all else as JSON), signed unless headers are given."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        ClientSession(timeout=ClientTimeout(total=TIME_LIMIT)) as session,
        session.request(
            method, f"{base}/v2/{path}", data=io.BytesIO(data), headers=signed(data) if headers is None else headers
        ) as answer,
    ):
        assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
        return Said(answer.status, json.loads(await answer.read()), answer.headers)


class Apps:
    """Carries out over the test's database, with no own words."""

    def __init__(self, calls: AppCalls) -> None:
        self._calls = calls

    async def send(self, events: str) -> list[str | None]:
        return (await self._calls.send(events, []))[0]

    async def register_app(self, manifest: str) -> str:
        return (await self._calls.register(manifest, []))[0]

    async def cancel_run(self, run: str) -> bool:
        return (await self._calls.cancel(run, []))[0]


@dataclass
class Served:
    """The API, served in this process."""

    base: str
    port: int
    metrics: Metrics
    errors: list[DatabaseUnavailable]
    pool: Pool


@asynccontextmanager
async def serving(pool: Pool, body_timeout: float = 10.0) -> AsyncIterator[Served]:
    metrics = Metrics(["mail"], [], "0", 1)
    errors: list[DatabaseUnavailable] = []
    calls = AppCalls(pool, at_once=2, turn_timeout=0.2, lock_timeout=0.1)
    api = Api(
        Apps(calls),
        ["a newer secret", SECRET],
        metrics,
        SystemClock(),
        bodies=Bodies(body_timeout),
        on_error=errors.append,
    )
    health = HealthState(
        database=True, database_down_for=0.0, schema=True, worker=True, leasing=True, draining=False, detail={}
    )
    server = HttpServer("127.0.0.1", 0, health=lambda: health, metrics=metrics, routes=api.routes)
    await server.start()
    try:
        yield Served(f"http://127.0.0.1:{server.port}", server.port, metrics, errors, pool)
    finally:
        await server.close()


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """The test's own database."""
    opened = Pool(database_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def served(pool: Pool) -> AsyncIterator[Served]:
    """The API over it, with one app registered."""
    async with serving(pool) as running:
        assert {"functions": 1, "warnings": []} == (await post(running.base, "functions", MANIFEST)).body
        yield running


async def test_events_make_runs(served: Served, connection: asyncpg.Connection) -> None:
    """In order; one that nobody has a function for, but somebody waits for, makes none; the same id makes one."""
    functions = [{"event": "e", "queue": "mail", "waits_on": [{"event": "paid", "match": "id"}]}]
    await post(served.base, "functions", {**MANIFEST, "functions": functions})
    events = [{**EVENT, "id": "once"}, {"event": "paid", "data": {"id": 1}}, {**EVENT, "id": "once"}]
    said = await post(served.base, "events", {"events": events})
    first, nobody, again = said.body["runs"]
    assert (200, None, first) == (said.status, nobody, again)
    assert [first] == [str(row["run_id"]) for row in await connection.fetch("select run_id from slayq.job")]


async def test_numbers_stay_as_they_were_spelled(served: Served, connection: asyncpg.Connection) -> None:
    """And order, and escapes: what is signed is what is kept."""
    body = b'{"events":[{"event":"e","data":{"b":1.0,"a":"\\u00e9"}}]}'
    assert 200 == (await post(served.base, "events", body)).status
    assert '{"b":1.0,"a":"\\u00e9"}' in await connection.fetchval("select payload::text from slayq.job")


async def test_a_run_is_cancelled_once(served: Served) -> None:
    """The second time there is none any more."""
    (run,) = (await post(served.base, "events", {"events": [EVENT]})).body["runs"]
    bodies = [(await post(served.base, "cancel", {"run": run})).body for _ in range(2)]
    assert [{"cancelled": True}, {"cancelled": False}] == bodies


async def test_a_manifest_may_warn(served: Served) -> None:
    """Of what it invokes that nobody has."""
    manifest = {**MANIFEST, "functions": [{"event": "e", "invokes": ["later"]}]}
    said = await post(served.base, "functions", manifest)
    assert (200, 1) == (said.status, said.body["functions"])
    assert "later" in said.body["warnings"][0]


REFUSED: dict[str, tuple[str, Any, str, str]] = {
    "no JSON": ("events", b"nonsense", "body", "the body is invalid JSON at character 0"),
    "no object": ("events", [], "body", "the body must be a JSON object"),
    "no events": ("events", {}, "body", "events: is missing"),
    "events object": ("events", {"events": {}}, "body", "events: must be an array of events, not an object"),
    "unknown event": ("events", {"events": [{"event": "x", "data": {}}]}, "SQ010", "no app has registered"),
    "data": ("events", {"events": [{"event": "e", "data": [1]}]}, "SQ011", "the data of 'e' must be a JSON object"),
    "time": ("events", {"events": [{**EVENT, "run_at": "soon"}]}, "SQ005", "event 0 of the array has a run_at"),
    "name": ("events", {"events": [{"event": "e" * 513, "data": {}}]}, "SQ007", "the event's name must have 1 to"),
    "no app": ("functions", {}, "SQ012", "the manifest's app must be a text"),
    "foreign event": ("functions", {**MANIFEST, "app": "other"}, "SQ013", "the event 'e' belongs to the app 'shop'"),
    "cron": (
        "functions",
        {**MANIFEST, "functions": [{"event": "e", "cron": "61 * * * *"}]},
        "SQ012",
        "the cron line of the function of 'e' cannot be used: ",
    ),
    "cron zone": (
        "functions",
        {**MANIFEST, "functions": [{"event": "e", "cron": "TZ=Nowhere 0 3 * * *"}]},
        "SQ012",
        "the cron line of the function of 'e' cannot be used: ",
    ),
    "no run": ("cancel", {}, "body", "run: must be the id of a run"),
    "run number": ("cancel", {"run": 7}, "body", "run: must be the id of a run"),
    "run text": ("cancel", {"run": "x"}, "body", "run: must be the id of a run"),
    "deep": (
        "events",
        b'{"events":[{"event":"e","data":{"a":%s1%s}}]}' % (b"[" * 10**6, b"]" * 10**6),
        "SQ002",
        "the JSON is nested more deeply than Postgres can read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_body_that_does_not_fit(served: Served, connection: asyncpg.Connection, name: str) -> None:
    """400 with a code and a reason that says what is wrong; nothing is done."""
    path, body, code, reason = REFUSED[name]
    said = await post(served.base, path, body)
    assert (400, code) == (said.status, said.code), said
    assert said.message.startswith(reason), said.message
    assert [] == served.errors
    assert not await connection.fetchval("select exists (select from slayq.job)")


BODY = json.dumps({"events": [EVENT]}).encode()
GOOD = signed(BODY)["webhook-signature"]


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"webhook-signature": "v1,AAAA"}, "signature", "invalid"),
        ({"webhook-signature": ""}, "signature", "invalid"),
        ({"webhook-signature": f"v2,{GOOD.partition(',')[2]}"}, "signature", "invalid"),
        ({"webhook-id": "msg_2"}, "signature", "invalid"),
        ({"webhook-id": ""}, "signature", "invalid"),
        ({"webhook-timestamp": "soon"}, "signature", "invalid"),
    ],
)
async def test_a_signature_that_does_not_fit(
    served: Served, connection: asyncpg.Connection, changes: dict[str, str], code: str, reason: str
) -> None:
    """401, whatever is wrong with it; nothing is done."""
    said = await post(served.base, "events", BODY, signed(BODY, **changes))
    assert (401, code) == (said.status, said.code)
    assert SECRET not in json.dumps(said.body)
    assert not await connection.fetchval("select exists (select from slayq.job)")
    counted = f'slayq_auth_failures_total{{reason="{reason}",surface="v2"}} 1.0'
    assert counted in served.metrics.render().decode()
    assert 'slayq_rpc_requests_total{code="401",task="events"} 1.0' in served.metrics.render().decode()


async def test_a_message_without_a_signature(served: Served) -> None:
    """Is not even read."""
    said = await post(served.base, "cancel", {"run": NOBODY}, {})
    assert (401, "signature") == (said.status, said.code)
    assert 'slayq_auth_failures_total{reason="missing",surface="v2"} 1.0' in served.metrics.render().decode()


@pytest.mark.parametrize("age", [-400, 400])
async def test_a_signature_of_another_time(served: Served, age: int) -> None:
    """Five minutes are the most, ahead or behind; what its body says is not looked at."""
    body = b"nonsense"
    said = await post(served.base, "events", body, signed(body, at=time.time() - age))
    assert (401, "timestamp") == (said.status, said.code)
    assert 'slayq_auth_failures_total{reason="expired",surface="v2"} 1.0' in served.metrics.render().decode()
    near = await post(served.base, "events", BODY, signed(BODY, at=time.time() - age / 2))
    assert 200 == near.status


async def test_any_secret_and_any_of_several_signatures(served: Served) -> None:
    """While secrets are rotated."""
    headers = signed(BODY, "a newer secret")
    assert 200 == (await post(served.base, "events", BODY, headers)).status
    headers["webhook-signature"] = f"v1,AAAA v1a,BBBB {headers['webhook-signature']}"
    assert 200 == (await post(served.base, "events", BODY, headers)).status


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_method(served: Served, method: str) -> None:
    """405, in the same form."""
    said = await post(served.base, "events", BODY, method=method)
    assert (405, "method", "POST") == (said.status, said.code, said.headers["Allow"])


async def test_bodies_are_bounded(served: Served) -> None:
    """One byte more than the limit is 413; a large one within it is served."""
    large = BODY[:-1] + b" " * (BODY_LIMIT - len(BODY)) + b"}"
    assert 200 == (await post(served.base, "events", large)).status
    said = await post(served.base, "events", large + b" ")
    assert (413, "too_large") == (said.status, said.code)


async def test_a_body_that_does_not_come(pool: Pool) -> None:
    """408 after the time limit."""
    async with serving(pool, body_timeout=0.1) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed(BODY).items())
        writer.write(f"POST /v2/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n{lines}\r\n".encode())
        async with asyncio.timeout(TIME_LIMIT):
            assert b"408" in await reader.readline()
        writer.close()


async def test_a_database_that_is_away(served: Served) -> None:
    """503, with the time after which to try again."""
    await served.pool.close()
    said = await post(served.base, "events", {"events": [EVENT]})
    assert (503, "unavailable", "5") == (said.status, said.code, said.headers["Retry-After"])
    assert 1 == len(served.errors)


async def test_a_lock_that_is_held(served: Served, connect: Connect) -> None:
    """503 rather than waiting for long: somebody else is registering."""
    other = await connect()
    async with other.transaction():
        await other.execute("select pg_advisory_xact_lock(1936484724, 1)")
        said = await post(served.base, "functions", {**MANIFEST, "sdk": "newer"})
    assert (503, "unavailable") == (said.status, said.code)


@pytest.mark.parametrize("status", [400, 401, 405, 408, 413, 500, 503])
def test_every_status_is_documented(status: int) -> None:
    """In a table of docs/http-api.md."""
    assert re.search(rf"^\| {status} \|", PAGE, re.MULTILINE)


# With the real daemon


async def test_the_daemon_goes_by_what_it_is_told(
    daemons: Daemons, connection: asyncpg.Connection, connect: Connect
) -> None:
    """Registered, sent, run, cancelled, over HTTP alone; what it does itself needs no word from Postgres."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.event == "slow":
            yield step("a")
            await asyncio.sleep(60)
        yield done(request.run["data"])

    async with OpsApp() as app:
        app.script = script
        running = await daemons.start(
            callbacks={"allow": [app.origin]}, retention={"done": "1h"}, worker={"lease": 120, "renew": 5}
        )
        functions = [{"event": event, "queue": "mail"} for event in ("e", "slow")]
        manifest = {"app": "shop", "url": app.url, "functions": functions}
        assert 200 == (await post(running.url, "functions", manifest)).status
        words: list[str] = []
        listener = await connect()
        await listener.add_listener("slayq", lambda *heard: words.append(str(heard[3])))
        (run,) = (await post(running.url, "events", {"events": [EVENT]})).body["runs"]
        assert {"n": 1} == await output_of(connection, run)
        assert [] == [word for word in words if not word.startswith("knock")]

        (slow,) = (await post(running.url, "events", {"events": [{"event": "slow", "data": {}}]})).body["runs"]
        await wait_until(lambda: connection.fetchval("select exists (select from slayq.step)"))
        assert {"cancelled": True} == (await post(running.url, "cancel", {"run": slow})).body
        await wait_until(lambda: app.of("slow")[0].abandoned, 4.0, "the connection being closed")
