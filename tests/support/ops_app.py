"""An app that speaks protocol v2 in the test's own words: a real HTTP server that streams what a script says.

No part of the SDK, which it stands in for, so that it can also do what no SDK would.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.support.endpoint import SECRET
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

CONTENT_TYPE = "application/vnd.slayq.ops+ndjson"
SUSPEND = {"op": "suspend"}


def done(output: Any = None) -> dict[str, Any]:
    """The op that ends a run."""
    return {"op": "done", "output": output}


def step(name: str, output: Any = None) -> dict[str, Any]:
    """The op of a step that ran."""
    return {"op": "step", "name": name, "output": output}


def error(message: str = "no") -> dict[str, Any]:
    """An error as it goes over the wire."""
    return {"type": "ValueError", "message": message}


def failed(message: str = "no", *, retry: bool = True, **more: Any) -> dict[str, Any]:
    """The op of a function that threw."""
    return {"op": "failed", "error": error(message), "retry": retry, **more}


class Abort:
    """For a script to yield: the connection is reset."""


class Answer(web.Response):
    """For a script to yield first: the whole answer, in place of a stream."""


@dataclass(eq=False)
class Request:
    """One segment's request as it came in."""

    headers: Mapping[str, str]
    raw: bytes
    body: Any
    abandoned: bool = False
    """The server closed the connection before the script had ended."""
    ended: bool = False

    @property
    def token(self) -> str:
        """The lease's."""
        return str(self.body["lease"]["token"])

    @property
    def run(self) -> Any:
        """The run's object."""
        return self.body["run"]

    @property
    def event(self) -> str:
        """The run's event."""
        return str(self.body["run"]["event"])

    @property
    def steps(self) -> dict[str, Any]:
        """The steps by name."""
        return {entry["name"]: entry for entry in self.body["steps"]}

    @property
    def hello(self) -> dict[str, Any]:
        """What an answer begins with."""
        return {"op": "hello", "lease": self.token, "sdk": "test/1"}

    def signed_by(self, secret: str) -> bool:
        """Whether one of the signatures is by this secret. Computed here and not by the project's code."""
        return self.headers["webhook-signature"].split(" ").count(sign(secret, self.headers, self.raw)) == 1


def sign(secret: str, headers: Mapping[str, str], body: bytes) -> str:
    """One signature, as Standard Webhooks has it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256)).decode()


Script = Callable[[Request], AsyncIterator[Any]]
"""Yields what to say: ops, bytes as they are, Abort, or an Answer. The hello is said before the first op."""


class OpsApp:
    """The server. `script` answers every request; `scripts` those of single events."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.scripts: dict[str, Script] = {}
        self.script: Script = _done_at_once
        self._runner: web.AppRunner | None = None
        self.origin = ""

    @property
    def url(self) -> str:
        """Where runs go."""
        return f"{self.origin}/slayq"

    def of(self, event: str) -> list[Request]:
        """The requests of one event."""
        return [request for request in self.requests if request.event == event]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/slayq", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.origin = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def register(self, connection: asyncpg.Connection, *functions: dict[str, Any], app: str = "shop") -> Any:
        """Registers functions, which are in queue `mail` unless they say otherwise."""
        manifest = {
            "app": app,
            "url": self.url,
            "functions": [{"queue": "mail", "retries": 3, **function} for function in functions],
        }
        return json.loads(await connection.fetchval("select slayq.register($1)", json.dumps(manifest)))

    async def wait_for(self, count: int, timeout: float = 10.0) -> list[Request]:
        """Waits until so many requests in all have come in; all there are."""
        await wait_until(lambda: len(self.requests) >= count, timeout, f"{count} requests")
        return list(self.requests)

    async def _serve(self, web_request: web.Request) -> web.StreamResponse:
        raw = await web_request.read()
        request = Request(web_request.headers, raw, json.loads(raw))
        self.requests.append(request)
        try:
            return await self._answer(request, web_request)
        except asyncio.CancelledError:
            request.abandoned = True
            raise
        except ConnectionError:
            request.abandoned = True
            return web.Response()
        finally:
            request.ended = True

    async def _answer(self, request: Request, web_request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        script = self.scripts.get(request.event, self.script)(request)
        async for said in script:
            if isinstance(said, web.Response):
                return said
            if said is Abort:
                assert web_request.transport is not None
                web_request.transport.abort()
                return response
            if not response.prepared:
                await response.prepare(web_request)
                if not isinstance(said, bytes):
                    await response.write(_line(request.hello))
            await response.write(said if isinstance(said, bytes) else _line(said))
        await response.write_eof()
        return response


def _line(op: Any) -> bytes:
    return json.dumps(op).encode() + b"\n"


async def _done_at_once(request: Request) -> AsyncIterator[Any]:
    yield done()


async def send(connection: asyncpg.Connection, event: str, data: Any = None, **options: Any) -> str | None:
    """Sends an event through the SQL API; its run's id."""
    names = list(options)
    places = "".join(f", {name} => ${number}" for number, name in enumerate(names, start=3))
    run = await connection.fetchval(
        f"select slayq.send($1, $2{places})", event, json.dumps({} if data is None else data), *options.values()
    )
    return None if run is None else str(run)


async def output_of(connection: asyncpg.Connection, run: str | None, timeout: float = 10.0) -> Any:
    """What a run ended with; waits for it. The configuration must keep history."""

    async def ended() -> Any:
        return await connection.fetchrow("select output from slayq.done_job where run_id = $1", run)

    row = await wait_until(ended, timeout, f"run {run} being done")
    return json.loads(row["output"])


async def letter_of(connection: asyncpg.Connection, run: str | None, timeout: float = 10.0) -> Any:
    """The dead letter that a run became; waits for it."""

    async def dead() -> Any:
        return await connection.fetchrow("select * from slayq.dead_letter where run_id = $1", run)

    return await wait_until(dead, timeout, f"run {run} being dead")


__all__ = [
    "SECRET",
    "SUSPEND",
    "Abort",
    "Answer",
    "OpsApp",
    "Request",
    "done",
    "error",
    "failed",
    "letter_of",
    "output_of",
    "send",
    "sign",
    "step",
]
