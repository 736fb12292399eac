"""An app of protocol v1 whose every answer is planned: a process of its own, so that nothing else holds it up.

    python -m tests.chaos.endpoint PORT TLS_PORT LOG

See `plans` for what it does. Its log is half of what the checker judges by.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme
from aiohttp import web

from slayq.signing import verify_v1
from tests.chaos.plans import UNTRUSTED, deed
from tests.chaos.records import Log, fingerprint

if TYPE_CHECKING:
    from tests.chaos.plans import Deed

HANG_LIMIT = 120.0
ELSEWHERE = "/elsewhere"
"""Where redirects lead to."""


class Endpoint:
    """Answers by plan, and logs."""

    def __init__(self, log: Log, secret: str) -> None:
        self._log = log
        self._secret = secret
        self._numbers = count(1)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One delivery."""
        if request.path == ELSEWHERE:
            self._log("recv_followed")
            return web.Response()
        try:
            raw = await request.read()
        except (OSError, web.RequestPayloadError, asyncio.CancelledError):
            self._log("broken_request")
            raise
        body = json.loads(raw)
        data = body.get("data") or {}
        seq = f"{os.getpid()}-{next(self._numbers)}"
        attempt = body["retry"]
        this = deed(data.get("plan", ()), attempt)
        self._log(
            "recv_start",
            seq=seq,
            id=data.get("id"),
            key=body["job_key"],
            event=body["event"],
            attempt=attempt,
            signed=verify_v1([self._secret], raw, request.headers.get("X-SlayQ-Signature")),
            hash=fingerprint(data),
            plan=this.name,
        )
        try:
            return await self._do(this, request, seq)
        except BaseException as error:
            gone = isinstance(error, asyncio.CancelledError | OSError)
            if this.name != "endless":  # which has been answered, and is always broken off
                self._log("recv_end", seq=seq, answer="abandoned" if gone else "error")
            raise

    async def _do(self, this: Deed, request: web.Request, seq: str) -> web.StreamResponse:
        if this.name == "drip":
            return await self._drip(this.number, request, seq)
        if this.name == "endless":
            return await self._endless(request, seq)
        if this.name in ("mute", "trickle"):
            return await self._never_ends(this.name, request, seq)
        if this.name == "half":
            return await self._half(request, seq)
        if this.name in ("slow", "regret"):
            await asyncio.sleep(this.number)
        elif this.name == "hang":
            await asyncio.sleep(HANG_LIMIT)
        elif this.name == "reset":
            self._log("recv_end", seq=seq, answer="reset")
            reset(request)
            return web.Response()
        status = {"ok": 200, "slow": 200, "tls": 200, "regret": 500, "hang": 503}.get(this.name) or int(this.name)
        headers = {"Retry-After": f"{this.number:.0f}"} if this.name in ("429", "503") else {}
        if status == 301:
            headers["Location"] = ELSEWHERE
        # Before it is sent: so the interval lies within the one that the daemon sees.
        self._log("recv_end", seq=seq, answer=status)
        if status == 666:
            return web.Response(status=666, reason="No Retry")
        return web.Response(status=status, headers=headers)

    async def _drip(self, seconds: float, request: web.Request, seq: str) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 10
        await response.prepare(request)
        for _ in range(9):
            await response.write(b".")
            await asyncio.sleep(seconds / 9)
        self._log("recv_end", seq=seq, answer=200)
        await response.write(b".")
        return response

    async def _endless(self, request: web.Request, seq: str) -> web.StreamResponse:
        """Bytes until the caller has had enough."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        self._log("recv_end", seq=seq, answer=200)
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    async def _never_ends(self, name: str, request: web.Request, seq: str) -> web.StreamResponse:
        """A success that does not come to its end: the caller has to break it off."""
        response = web.StreamResponse()
        response.content_length = 2 * int(HANG_LIMIT)
        await response.prepare(request)
        if name == "mute":
            await asyncio.sleep(HANG_LIMIT)
        for _ in range(int(HANG_LIMIT)):
            await response.write(b".")
            await asyncio.sleep(1)
        self._log("recv_end", seq=seq, answer="never")
        return response

    async def _half(self, request: web.Request, seq: str) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 10
        await response.prepare(request)
        await response.write(b"half.")
        self._log("recv_end", seq=seq, answer="half")
        reset(request)
        return response


def reset(request: web.Request) -> None:
    """Ends the connection with a reset."""
    transport: Any = request.transport
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def serve(port: int, tls_port: int, log: Path) -> None:
    """Serves until it is killed: over HTTP, and over HTTPS with a certificate that nobody vouches for."""
    app = web.Application(client_max_size=2**22)
    app.router.add_route("*", "/{path:.*}", Endpoint(Log(log), os.environ["CHAOS_SECRET"]).serve)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    assert runner.server is not None
    await asyncio.get_running_loop().create_server(runner.server, UNTRUSTED, tls_port, ssl=context)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
