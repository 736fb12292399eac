"""An app's side of RPC over HTTP: signed requests to a server's tasks."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, ClientTimeout

from tests.support.endpoint import SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

TIME_LIMIT = 30.0
HEADER = "X-SlayQ-Signature"


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    body: Any
    """Parsed."""
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether the task was carried out."""
        return (self.status, self.body) == (200, {"status": "ok"})

    @property
    def error(self) -> str:
        """Why it was not, in the one form that errors have."""
        assert ["status", "error"] == list(self.body), self.body
        assert "error" == self.body["status"]
        return str(self.body["error"])


def sign(body: bytes, secret: str = SECRET) -> str:
    """Computed here and not by the project's own code, which it checks."""
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()


async def call(base: str, task: str, body: Any, *, secret: str = SECRET) -> Said:
    """Posts a body (bytes as they are, all else as JSON), signed."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    # aiohttp warns of large bodies as bytes.
    return await post(base, task, io.BytesIO(data), {HEADER: sign(data, secret)})


async def post(base: str, task: str, data: Any, headers: Mapping[str, str] | None = None, method: str = "POST") -> Said:
    """Posts what it is given, as it is."""
    async with (
        ClientSession(timeout=ClientTimeout(total=TIME_LIMIT)) as session,
        session.request(method, f"{base}/{task}", data=data, headers=headers) as answer,
    ):
        assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
        return Said(answer.status, json.loads(await answer.read()), answer.headers)
