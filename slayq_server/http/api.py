"""The HTTP API of protocol v2: apps send events, register their functions, and cancel runs.

`POST /v2/…` with a JSON body, signed as Standard Webhooks over its raw bytes. The answer is JSON, errors included:
`{"error": {"code", "message", "hint"}}`, where a code of the form SQ0xx is the SQL API's.
"""

from __future__ import annotations

import functools
import json
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import hdrs, web

from slayq.errors import InvalidSignature, StaleTimestamp
from slayq.protocol_v2 import CANCEL_PATH, EVENTS_PATH, FUNCTIONS_PATH
from slayq.signing import SIGNATURE_HEADER_V2, verify_v2
from slayq_server.engine.crontab import Crontab
from slayq_server.http.signed import Bodies, Refused, beside_the_loop, carried_out
from slayq_server.protocol.rpc_v1 import InvalidBody
from slayq_server.protocol.rpc_v2 import crons_of, read_cancel, read_events, read_manifest
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from slayq_server.clock import Clock
    from slayq_server.errors import DatabaseUnavailable
    from slayq_server.metrics import Metrics

_BAD_MANIFEST: Final = "SQ012"


class Apps(Protocol):
    """What carries out what apps ask for; raises the server's errors."""

    async def send(self, events: str) -> list[str | None]: ...
    async def register_app(self, manifest: str) -> str: ...
    async def cancel_run(self, run: str) -> bool: ...


class Api:
    """The three requests. `routes` are for an HttpServer to mount."""

    def __init__(
        self,
        apps: Apps,
        secrets: Sequence[str],
        metrics: Metrics,
        clock: Clock,
        *,
        bodies: Bodies,
        on_error: Callable[[DatabaseUnavailable], None],
    ) -> None:
        """Does nothing yet.

        Args:
            apps: carries requests out.
            secrets: a body may be signed with any of them.
            metrics: counts requests, and those refused for their signature.
            clock: tells how old a signature is.
            bodies: reads them.
            on_error: called when the database is away or refuses a statement.
        """
        self._apps = apps
        self._secrets = tuple(secrets)
        self._metrics = metrics
        self._clock = clock
        self._bodies = bodies
        self._on_error = on_error
        self._repeats = Repeats()

    @property
    def routes(self) -> list[web.RouteDef]:
        """All methods, so that a refusal of the wrong one looks as every other."""
        return [
            web.route("*", EVENTS_PATH, functools.partial(self._serve, "events", self._send)),
            web.route("*", FUNCTIONS_PATH, functools.partial(self._serve, "functions", self._register)),
            web.route("*", CANCEL_PATH, functools.partial(self._serve, "cancel", self._cancel)),
        ]

    def set_secrets(self, secrets: Sequence[str]) -> None:
        """Replaces the secrets, for bodies that are checked from now on."""
        self._secrets = tuple(secrets)

    async def _serve(self, task: str, handler: Callable[[bytes], Awaitable[str]], request: web.Request) -> web.Response:
        try:
            answer = web.Response(text=await self._handle(task, handler, request), content_type="application/json")
        except Refused as refused:
            error = {"code": refused.code, "message": refused.reason, "hint": refused.hint}
            answer = web.Response(
                status=refused.status, text=json.dumps({"error": error}) + "\n", content_type="application/json"
            )
            if refused.retry_after is not None:
                answer.headers[hdrs.RETRY_AFTER] = str(refused.retry_after)
            if refused.status == 405:
                answer.headers[hdrs.ALLOW] = hdrs.METH_POST
        self._metrics.rpc_request(task, answer.status)
        return answer

    async def _handle(self, task: str, handler: Callable[[bytes], Awaitable[str]], request: web.Request) -> str:
        if request.method != hdrs.METH_POST:
            raise Refused(405, "method", "use POST here")
        if SIGNATURE_HEADER_V2 not in request.headers:
            raise self._unauthorized(task, "missing", f"the header {SIGNATURE_HEADER_V2} is missing")
        async with self._bodies.read(request) as body:
            check = functools.partial(verify_v2, self._secrets, request.headers, body, now=self._clock.wall())
            try:
                await beside_the_loop(body, check)
            except InvalidSignature as error:
                raise self._unauthorized(task, "invalid", str(error)) from None
            except StaleTimestamp as error:
                raise self._unauthorized(task, "expired", str(error)) from None
            try:
                return await carried_out(task, handler(body), self._on_error, self._repeats)
            except InvalidBody as error:
                self._repeats.log(INFO, "rpc_refused", kind=task, task=task, reason=str(error))
                raise Refused(400, "body", str(error)) from None

    async def _send(self, body: bytes) -> str:
        runs = await self._apps.send(await beside_the_loop(body, functools.partial(read_events, body)))
        return json.dumps({"runs": runs}) + "\n"

    async def _register(self, body: bytes) -> str:
        manifest = await beside_the_loop(body, functools.partial(_checked_manifest, body))
        return await self._apps.register_app(manifest) + "\n"

    async def _cancel(self, body: bytes) -> str:
        return json.dumps({"cancelled": await self._apps.cancel_run(read_cancel(body))}) + "\n"

    def _unauthorized(self, task: str, reason: str, problem: str) -> Refused:
        self._metrics.auth_failure("v2", reason)
        self._repeats.log(WARNING, "rpc_unauthorized", kind=f"{task} {reason}", task=task, reason=reason)
        return Refused(
            401,
            "timestamp" if reason == "expired" else "signature",
            problem,
            hint="sign the body's bytes as Standard Webhooks, with the server's SLAY_Q_SECRET, as you send them",
        )


def _checked_manifest(body: bytes) -> str:
    """A manifest's JSON text, its cron lines checked, which Postgres cannot do; raises InvalidBody and Refused."""
    text = read_manifest(body)
    for event, cron in crons_of(text):
        try:
            Crontab.parse(cron)
        except ValueError as error:
            raise Refused(
                400,
                _BAD_MANIFEST,
                f"the cron line of the function of {event!r:.200} cannot be used: {error}",
                hint='write five fields, such as "0 3 * * *", after "TZ=Europe/Rome " where a zone is meant',
            ) from None
    return text
