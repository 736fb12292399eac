"""How the stand-in speaks to its server: the SQL functions (protocol v1, section 3) or RPC over HTTP (section 4)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable

TIME_LIMIT = 20.0
"""Seconds for one call."""

# Of each call its arguments in order: the name here, the type in SQL, the name in RPC.
CALLS = {
    "add_worker_job": [
        ("identifier", "text", "identifier"),
        ("payload", "json", "payload"),
        ("queue_name", "text", "queue_name"),
        ("run_at", "timestamptz", "run_at"),
        ("max_attempts", "int", "max_attempts"),
        ("job_key", "text", "job_key"),
        ("priority", "int", "priority"),
        ("flags", "text[]", "flags"),
        ("job_key_mode", "text", "job_key_mode"),
    ],
    "wait_for_worker_event": [
        ("job_key", "text", "jobKey"),
        ("event", "text", "event"),
        ("match_key", "text", "matchKey"),
        ("match_value", "text", "matchValue"),
        ("step_name", "text", "stepName"),
        ("expires_at", "timestamptz", "expiresAt"),
    ],
    "wait_for_invocation": [
        ("invoker_job_key", "text", "invokerJobKey"),
        ("target_job_key", "text", "targetJobKey"),
        ("step_name", "text", "stepName"),
    ],
    "trigger_waiting_workers": [
        ("event", "text", "event"),
        ("match_key", "text", "match"),
        ("match_value", "text", "matchVal"),
    ],
    "trigger_waiting_invoker": [("job_key", "text", "jobKey"), ("result", "json", "result")],
    "cancel_pending_tasks": [
        ("event", "text", "event"),
        ("match_key", "text", "matchKey"),
        ("match_value", "text", "matchVal"),
    ],
}


class Driver(Protocol):
    """Makes one of CALLS. What is left out is the server's to choose."""

    async def call(self, name: str, **values: Any) -> None: ...


class PostgresDriver:
    """Calls the functions, each argument in its place: an explicit null for all that is not set."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=4, command_timeout=TIME_LIMIT)

    async def call(self, name: str, **values: Any) -> None:
        assert self._pool is not None
        arguments = [_as_sql(kind, values.get(argument)) for argument, kind, _ in CALLS[name]]
        places = ", ".join(f"${place}::{kind}" for place, (_, kind, _) in enumerate(CALLS[name], start=1))
        await self._pool.fetchval(f"select {name}({places})", *arguments, timeout=TIME_LIMIT)


class RpcDriver:
    """Posts signed calls to the daemons at `bases`, in turn; for `patience` seconds again while one is gone."""

    def __init__(self, secret: str, patience: float, bases: list[str]) -> None:
        self.bases = bases
        self._secret = secret
        self._patience = patience
        self._calls = 0
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIME_LIMIT))

    async def call(self, name: str, **values: Any) -> None:
        members = {member: _as_json(values.get(argument)) for argument, _, member in CALLS[name]}
        # A callee that returns nothing says so with null; all else that is not set is left out.
        body = {member: value for member, value in members.items() if value is not None or member == "result"}
        await self._patiently(lambda: self._post(name.replace("_", "-"), json.dumps(body).encode()))

    async def _post(self, task: str, body: bytes) -> None:
        assert self._session is not None
        self._calls += 1
        base = self.bases[self._calls % len(self.bases)]
        signature = hmac.new(self._secret.encode(), body, hashlib.sha512).hexdigest()
        headers = {"Content-Type": "application/json", "X-SlayQ-Signature": signature}
        async with self._session.post(f"{base}/{task}", data=body, headers=headers) as answer:
            said = await answer.text()
            if answer.status != 200 or json.loads(said) != {"status": "ok"}:
                raise RuntimeError(f"{task} was answered with {answer.status}: {said}")

    async def _patiently(self, attempt: Callable[[], Any]) -> None:
        """A daemon that is killed takes its calls with it: each may be made again, all six may be repeated."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                await attempt()
            except aiohttp.ClientConnectionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


def _as_sql(kind: str, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if kind == "json" and value is not None else value


def _as_json(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
