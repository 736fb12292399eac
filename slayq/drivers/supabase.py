"""Sending through Supabase's HTTP API: functions of schema public, called by name with the client `postgrest`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from slayq.drivers.failures import Doing, failure
from slayq.drivers.loops import PerLoop
from slayq.drivers.retrying import FIRST_DELAY, RETRIES, all_have_ids, retried
from slayq.drivers.rpc import of_http
from slayq.drivers.wording import cancelled_of, events_text, manifest_text, odd_answer, registered_of, runs_of
from slayq.errors import InvalidDefinition
from slayq.extras import needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from postgrest import AsyncPostgrestClient

    from slayq.drivers import OutgoingEvent, Registered

_SUPABASE_PATH: Final = "/rest/v1"


class _Client:
    """The client of one event loop."""

    def __init__(self, url: str, key: str, timeout: float) -> None:
        with needed("supabase"):
            import httpx
            from postgrest import AsyncPostgrestClient
        headers = {"apikey": key, "authorization": f"Bearer {key}"}
        # A client of our own for HTTP: the other one takes its time limit as deprecated, and follows redirects.
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout)
        self.api: AsyncPostgrestClient = AsyncPostgrestClient(url, headers=headers, http_client=self._http)

    async def close(self) -> None:
        await self._http.aclose()


class SupabaseDriver:
    """Sends through Supabase (or any PostgREST), with connections that are kept open.

    Tries again where that is safe, by the same rules as `RpcDriver`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        path: str = _SUPABASE_PATH,
        timeout: float = 15.0,
        retries: int = RETRIES,
        retry_delay: float = FIRST_DELAY,
    ) -> None:
        """Does not connect yet.

        Args:
            url: the project's, `https://….supabase.co`.
            key: a secret key, or the service role's. It must never reach a browser.
            path: where PostgREST is below `url`; "" for one of your own.
            timeout: seconds for one try of a call.
            retries: how often at most a call is tried again.
            retry_delay: seconds before the first retry; each further one waits twice as long.
        """
        if not url.startswith(("http://", "https://")):
            raise InvalidDefinition(f"{url!r} is no address of a Supabase project: it begins with https://")
        if not key:
            raise InvalidDefinition("the Supabase key is empty: set it to the project's secret key")
        address = url.rstrip("/") + path
        self._timeout = timeout
        self._retries = retries
        self._retry_delay = retry_delay
        self._clients = PerLoop(lambda: _Client(address, key, timeout), _Client.close)

    async def send(self, events: Sequence[OutgoingEvent]) -> list[UUID | None]:
        """All of the events, in one request; see `Driver.send`."""
        if not events:
            return []
        events_text(events)  # for its errors, which are those of the other drivers
        arguments = {"events": [event.wire() for event in events]}
        answer = await self._call("slayq_send_many", arguments, Doing.SEND, repeatable=all_have_ids(events))
        if not isinstance(answer, list):
            raise odd_answer()
        return runs_of(answer, events)

    async def cancel(self, run: UUID) -> bool:
        """See `Driver.cancel`."""
        return cancelled_of(await self._call("slayq_cancel", {"run": str(run)}, Doing.CANCEL, repeatable=False))

    async def register(self, manifest: Mapping[str, Any]) -> Registered:
        """See `Driver.register`."""
        manifest_text(manifest)
        arguments = {"manifest": dict(manifest)}
        return registered_of(await self._call("slayq_register", arguments, Doing.REGISTER, repeatable=True))

    async def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        await self._clients.close()

    async def _call(self, function: str, arguments: dict[str, Any], doing: Doing, *, repeatable: bool) -> Any:
        return await retried(
            lambda: self._attempt(function, arguments, doing),
            repeatable=repeatable,
            retries=self._retries,
            delay=self._retry_delay,
        )

    async def _attempt(self, function: str, arguments: dict[str, Any], doing: Doing) -> Any:
        client = self._clients.get()
        import httpx
        from postgrest import APIError

        try:
            async with asyncio.timeout(self._timeout):
                return (await client.api.rpc(function, arguments).execute()).data
        except APIError as error:
            raise _of_api(error, doing) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise of_http(error, "Supabase") from error


def _of_api(error: Any, doing: Doing) -> Exception:
    """PostgREST's error; where a proxy before it answered, the client gives the HTTP status as the code."""
    code = str(error.code or "")  # older clients give a number
    if code.isdigit() and len(code) == 3:
        message = f"the address of Supabase answered {code} {error.message or ''}".rstrip()
        return failure(None, message, doing=doing, status=int(code))
    return failure(code, error.message or "Supabase refused the call", error.hint, doing=doing)
