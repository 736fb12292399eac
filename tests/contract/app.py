"""The stand-in for a stock app: `python -m tests.contract.app`. Knows nothing of the server but protocol v1.

Its log, one JSON object a line, is what the tests read: each delivery as it came, each step that ran, each call to the
server, each function's result. Tests tell it what to do through /control.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.contract.client import FLAG_LIMIT, Client
from tests.contract.drivers import PostgresDriver, RpcDriver
from tests.contract.functions import CRONTABS, FUNCTIONS

KEYS = ("job_key", "retry", "time", "event", "data", "cache")
OLDEST = 15_000
"""Milliseconds: an older body is refused."""


class App:
    """The HTTP server around the client."""

    def __init__(self) -> None:
        environ = os.environ
        self.secret = environ["SLAY_Q_WORKER_SECRET"]
        self.driver: PostgresDriver | RpcDriver = (
            RpcDriver(self.secret, float(environ["STANDIN_PATIENCE"]), json.loads(environ["STANDIN_BASES"]))
            if environ["STANDIN_DRIVER"] == "rpc"
            else PostgresDriver(environ["SLAY_Q_DATABASE_URL"])
        )
        self._log = Path(environ["STANDIN_LOG"]).open("a", buffering=1)  # noqa: SIM115 (for as long as we live)
        self.client = Client(self.driver, "", FUNCTIONS, CRONTABS, self.log)

    def log(self, kind: str, **facts: Any) -> None:
        self._log.write(json.dumps({"kind": kind, "at": int(time.time() * 1000), **facts}) + "\n")

    async def serve(self, port: int) -> None:
        await self.driver.start()
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/slayq", self.callback)
        app.router.add_post("/control", self.control)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        port = runner.addresses[0][1]
        self.client.url = f"http://127.0.0.1:{port}/slayq"
        self.log("listening", port=port)
        await asyncio.Event().wait()

    async def callback(self, request: web.Request) -> web.Response:
        text = (await request.read()).decode()
        body = json.loads(text)
        if (reason := self.refusal(body, request.headers.get("X-SlayQ-Signature"))) is not None:
            self.log("refused", reason=reason, body=text)
            return web.Response(status=401, text=reason)
        seen = {key: body.get(key) for key in ("event", "retry", "time", "data", "cache")}
        self.log("delivery", key=body["job_key"], members=list(body), **seen)
        try:
            status, headers = await self.client.deliver(body)
        except Exception as error:
            self.log("error", key=body["job_key"], error=repr(error))
            status, headers = 500, {}
        self.log("answer", key=body["job_key"], status=status)
        match status:
            case "hang":
                await asyncio.sleep(FLAG_LIMIT)
            case "die":
                assert request.transport is not None
                request.transport.abort()
        return web.Response(status=status if isinstance(status, int) else 500, headers=headers)

    def refusal(self, body: dict[str, Any], signature: str | None) -> str | None:
        """Why a callback is not to be trusted: signed over what it says, in the order of KEYS, and not long ago."""
        signed = json.dumps({key: body[key] for key in KEYS if key in body}, separators=(",", ":"), ensure_ascii=False)
        expected = hmac.new(self.secret.encode(), signed.encode(), hashlib.sha512).hexdigest()
        if signature is None or not hmac.compare_digest(expected, signature):
            return "the signature is wrong"
        if time.time() * 1000 - body["time"] > OLDEST:
            return "the body is too old"
        return None

    async def control(self, request: web.Request) -> web.Response:
        """What a test asks for."""
        asked = await request.json()
        given: Any = None
        match asked["do"]:
            case "send":
                given = await self.client.send(asked["event"], asked["data"], asked.get("key"))
            case "send_all":
                given = await self.client.send_all([(event, data) for event, data in asked["events"]])
            case "call":
                values = asked["values"]
                if "payload" in values:
                    values["payload"] = {"url": self.client.url, **values["payload"]}
                if "expires_at" in values:
                    values["expires_at"] = datetime.fromisoformat(values["expires_at"])
                await self.client.call(asked["name"], **values)
            case "set":
                self.client.flag(asked["flag"]).set()
            case "connect":
                if isinstance(self.driver, RpcDriver):
                    self.driver.bases = asked["bases"]
        return web.json_response(given)


if __name__ == "__main__":
    asyncio.run(App().serve(int(os.environ["STANDIN_PORT"])))
