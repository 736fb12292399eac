"""Sending over HTTP, to the daemon: `POST {url}/v2/…`, signed as Standard Webhooks with the secret that both share."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from slayq.drivers.failures import Doing, NothingSent, failure
from slayq.drivers.loops import PerLoop
from slayq.drivers.retrying import FIRST_DELAY, RETRIES, all_have_ids, retried
from slayq.drivers.wording import (
    cancelled_of,
    events_text,
    json_text,
    manifest_text,
    odd_answer,
    registered_of,
    runs_of,
)
from slayq.errors import InvalidDefinition, SendFailed, Unavailable
from slayq.extras import needed
from slayq.protocol_v2 import CANCEL_PATH, EVENTS_PATH, FUNCTIONS_PATH
from slayq.signing import sign_v2, v2_headers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import httpx

    from slayq.drivers import OutgoingEvent, Registered

_KEEP_ALIVE: Final = 10.0
"""Seconds that an idle connection is kept: less than the daemon keeps it, so that it does not go just as we send."""


class RpcDriver:
    """Sends to the daemon over HTTP, with connections that are kept open.

    A call that found the daemon away is tried again (by default twice, within a second) only where that is safe: when
    it could not connect, so that nothing was sent; when every event has an id, as sending those twice creates one run;
    when it registers. Any other call that broke off is for the caller to judge: it may have been carried out.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[str],
        *,
        timeout: float = 15.0,
        retries: int = RETRIES,
        retry_delay: float = FIRST_DELAY,
    ) -> None:
        """Does not connect yet.

        Args:
            url: the daemon's, `https://slayq.internal:8080`; a path in it goes before `/v2/…`.
            secrets: each signs; the daemon takes a message that one of its own has signed. Raises InvalidSecret.
            timeout: seconds for one try of a call.
            retries: how often at most a call is tried again.
            retry_delay: seconds before the first retry; each further one waits twice as long.
        """
        if not url.startswith(("http://", "https://")):
            raise InvalidDefinition(f"{url!r} is no address of a daemon: it begins with http:// or https://")
        sign_v2(secrets, "", 0, b"")  # here, where a bad one was given, and not when something is sent
        self._url = url.rstrip("/")
        self._secrets = tuple(secrets)
        self._timeout = timeout
        self._retries = retries
        self._retry_delay = retry_delay
        self._clients = PerLoop(self._client, _close)

    async def send(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """All of the events, in one request; see `Driver.send`."""
        if not events:
            return []
        body = f'{{"events":{events_text(events)}}}'
        answer = await self._post(EVENTS_PATH, body, Doing.SEND, repeatable=all_have_ids(events))
        return runs_of(answer.get("runs") or (), events)

    async def cancel(self, run: UUID) -> bool:
        """See `Driver.cancel`."""
        answer = await self._post(CANCEL_PATH, json_text({"run": str(run)}), Doing.CANCEL, repeatable=False)
        return cancelled_of(answer.get("cancelled"))

    async def register(self, manifest: Mapping[str, Any]) -> Registered:
        """See `Driver.register`."""
        return registered_of(await self._post(FUNCTIONS_PATH, manifest_text(manifest), Doing.REGISTER, repeatable=True))

    async def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        await self._clients.close()

    def _client(self) -> httpx.AsyncClient:
        with needed("rpc"):
            import httpx
        return httpx.AsyncClient(
            timeout=self._timeout, limits=httpx.Limits(max_connections=20, keepalive_expiry=_KEEP_ALIVE)
        )

    async def _post(self, path: str, text: str, doing: Doing, *, repeatable: bool) -> dict[str, Any]:
        body = text.encode()
        message_id = f"msg_{uuid.uuid4().hex}"  # one message, however often it is tried

        async def attempt() -> dict[str, Any]:
            signed = v2_headers(self._secrets, body, message_id=message_id, now=time.time())
            return _answer_of(await self._exchange(path, body, signed), doing)

        return await retried(attempt, repeatable=repeatable, retries=self._retries, delay=self._retry_delay)

    async def _exchange(self, path: str, body: bytes, signed: Mapping[str, str]) -> httpx.Response:
        client = self._clients.get()
        import httpx

        try:
            async with asyncio.timeout(self._timeout):
                return await client.post(
                    self._url + path, content=body, headers={"content-type": "application/json", **signed}
                )
        except httpx.InvalidURL as error:
            raise InvalidDefinition(f"the daemon's address cannot be read: {error}") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise of_http(error, "the daemon") from error


def of_http(error: Exception, who: str) -> SendFailed:
    """The error for a call that got no answer, by httpx or a time limit."""
    import httpx

    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol):
        return NothingSent(f"{who} cannot be reached: {error or type(error).__name__}")
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return Unavailable(f"{who} did not answer in time")
    return Unavailable(f"the connection to {who} broke: {error or type(error).__name__}")


def _answer_of(response: httpx.Response, doing: Doing) -> dict[str, Any]:
    """The JSON object of a good answer. Raises the error that a bad one stands for."""
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if response.status_code == 200 and isinstance(answer, dict):
        return answer
    match answer:
        case {"error": {"code": str(code), "message": str(message), **rest}}:
            return _refuse(code, message, rest.get("hint"), doing, response.status_code)
        case _ if response.status_code == 200:
            raise odd_answer()
        case _:
            message = f"the daemon's address answered {response.status_code} {response.reason_phrase}".rstrip()
            return _refuse(None, message, None, doing, response.status_code)


def _refuse(code: str | None, message: str, hint: Any, doing: Doing, status: int) -> dict[str, Any]:
    raise failure(code, message, hint if isinstance(hint, str) else None, doing=doing, status=status)


async def _close(client: httpx.AsyncClient) -> None:
    await client.aclose()
