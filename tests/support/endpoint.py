"""An app's endpoint: a real HTTP server in the test's own loop that records every callback and answers as told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET = "a secret that only the tests know"
LARGEST_BODY = 64 * 2**20


@dataclass(eq=False)
class Received:
    """One callback as it came in, and how long it ran."""

    number: int
    """Its place among all callbacks, from 1."""
    method: str
    path: str
    """With the query string."""
    headers: Mapping[str, str]
    """Case does not matter."""
    raw: bytes
    body: Any
    """What `raw` parses to; None where it is not JSON."""
    signature_valid: bool
    """Whether the signature header is the HMAC-SHA512 of `raw` under the endpoint's secret."""
    started: float
    """Monotonic seconds."""
    ended: float | None = None
    """Monotonic seconds when it was answered, or the caller had gone; None while it runs."""
    abandoned: bool = False
    """Whether the caller went before the answer."""

    @property
    def event(self) -> str:
        """The event's name."""
        return str(self.body["event"])

    @property
    def job_key(self) -> str:
        """The job's key."""
        return str(self.body["job_key"])

    @property
    def retry(self) -> int:
        """The number of this delivery of the job, from 1."""
        return int(self.body["retry"])

    @property
    def data(self) -> Any:
        """The payload's data; None where there is none."""
        return self.body.get("data")


@dataclass(frozen=True)
class Reply:
    """What to answer, once `hold` is set (at once where there is none)."""

    status: int = 200
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: asyncio.Event | None = None


Handler = Callable[[Received], Reply | int | Awaitable[Reply | int]]
"""Decides about each callback: a `Reply`, or just a status; may be a coroutine function."""


class Endpoint:
    """The server. `handler` may be changed at any time; by default every callback is answered with 200.

    async with Endpoint() as endpoint:
        endpoint.handler = lambda callback: 500 if callback.retry < 3 else 200
        ...
        first, second = await endpoint.wait_for(2)
    """

    def __init__(self, secret: str = SECRET, *, port: int = 0) -> None:
        """Listens on `port` of 127.0.0.1; 0: on a free one."""
        self.secret = secret
        self._port = port
        self.handler: Handler = lambda _: 200
        self.received: list[Received] = []
        """Every callback, in the order they came in."""
        self.running = 0
        """Callbacks that are not answered yet."""
        self.most_at_once = 0
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._address = ""

    @property
    def url(self) -> str:
        """Where callbacks go. Any path below it does as well."""
        return f"{self._address}/slayq"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a `callbacks.allow` needs."""
        return self._address

    @property
    def finished(self) -> list[Received]:
        """Those callbacks that were answered, or whose caller had gone, in the order they came in."""
        return [callback for callback in self.received if callback.ended is not None]

    async def wait_for(self, count: int, timeout: float = 10.0) -> list[Received]:
        """Wait until `count` callbacks in all have come in; return all there are."""
        return await self._wait(lambda: self.received, count, timeout, "come in")

    async def wait_for_finished(self, count: int, timeout: float = 10.0) -> list[Received]:
        """Wait until `count` callbacks in all have been answered; return those that were."""
        return await self._wait(lambda: self.finished, count, timeout, "been answered")

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self._address = f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening; callbacks still held are dropped."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _wait(self, some: Callable[[], list[Received]], count: int, timeout: float, what: str) -> list[Received]:
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: len(some()) >= count)
        except TimeoutError:
            raise AssertionError(f"{len(some())} of {count} callbacks have {what} within {timeout} s") from None
        return list(some())

    async def _serve(self, request: web.Request) -> web.Response:
        started = time.monotonic()
        raw = await request.read()
        callback = Received(
            number=len(self.received) + 1,
            method=request.method,
            path=request.path_qs,
            headers=request.headers,
            raw=raw,
            body=_parsed(raw),
            signature_valid=self._verified(raw, request.headers.get("X-SlayQ-Signature", "")),
            started=started,
        )
        self.received.append(callback)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        await self._tell()
        try:
            return await self._answer(callback)
        except asyncio.CancelledError:
            callback.abandoned = True
            raise
        finally:
            callback.ended = time.monotonic()
            self.running -= 1
            await self._tell()

    async def _answer(self, callback: Received) -> web.Response:
        decided = self.handler(callback)
        reply = await decided if inspect.isawaitable(decided) else decided
        if isinstance(reply, int):
            reply = Reply(reply)
        if reply.hold is not None:
            await reply.hold.wait()
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        return web.Response(status=reply.status, body=body, headers=reply.headers)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _verified(self, raw: bytes, signature: str) -> bool:
        """Computed here and not by the project's own code, which it checks."""
        expected = hmac.new(self.secret.encode(), raw, hashlib.sha512).hexdigest()
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogateescape"))


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
