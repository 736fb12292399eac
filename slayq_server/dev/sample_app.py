"""A sample app: receives callbacks, checks their signatures as the stock client does, and prints a line for each.

Run it as a process of its own: `python -m slayq_server.dev.sample_app`. What it does with a job is in `behaviours`; its
durable functions, which the SDK receives for at a path of its own, are in `functions`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from aiohttp import web

from slayq.contrib.aiohttp import setup
from slayq.drivers.postgres import PostgresDriver
from slayq.protocol import CRON_JOB_KEY, MAX_BODY_AGE, SIGNATURE_HEADER
from slayq.signing import verify_v1
from slayq_server.config.rules import printable
from slayq_server.dev import functions
from slayq_server.dev.behaviours import EVENTS, reply_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slayq import SlayQ

HOST = "127.0.0.1"
PATH = "/slayq"
FUNCTIONS_PATH = "/functions"
READY = "the sample app listens on "
_LARGEST_BODY = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """What the app saw of a callback: when it came in (`status` None), and when it was answered.

    Or what a durable function does: `job_key` is then its order, `retry` its attempt, and `status` 200 at its end, 500
    where it fails, else None.
    """

    at: float
    """Seconds since the epoch."""
    event: str
    job_key: str
    retry: int
    status: int | None
    words: str
    """What happened, in plain words."""
    at_once: int
    """Callbacks of this event in progress, this one included."""

    def told(self) -> str:
        """What happened, in one line without the time."""
        key = "" if self.job_key == CRON_JOB_KEY else f" ({self.job_key})"
        return printable(f"{self.event}{key}, attempt {self.retry}: {self.words}")

    def line(self) -> str:
        """One line for people."""
        clock = datetime.fromtimestamp(self.at).astimezone().strftime("%H:%M:%S.%f")[:-3]
        return f"{clock} {self.told()}"


class SampleApp:
    """The endpoint. `tell` gets everything it sees; `sq` are its durable functions, if it has any."""

    def __init__(self, secret: str, tell: Callable[[Seen], None], sq: SlayQ | None = None) -> None:
        self._secret = secret
        self._tell = tell
        self._sq = sq
        self._running: Counter[str] = Counter()

    def application(self) -> web.Application:
        """What aiohttp serves."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_post(PATH, self._callback)
        app.router.add_get("/", self._index)
        if self._sq is not None:
            setup(app, self._sq, FUNCTIONS_PATH)
        return app

    async def _index(self, request: web.Request) -> web.Response:
        lines = [f"{event}: {what}" for event, what in (EVENTS | functions.EVENTS).items()]
        return web.Response(text="\n".join(["The Slay Q sample app. Send it one of these events:", *lines, ""]))

    async def _callback(self, request: web.Request) -> web.Response:
        raw = await request.read()
        refusal = self._refusal(raw, request.headers.get(SIGNATURE_HEADER))
        if refusal is not None:
            self._tell(Seen(time.time(), "?", "?", 0, 401, refusal, 0))
            return web.Response(status=401, text=refusal)
        body = json.loads(raw)
        event, retry = str(body["event"]), int(body["retry"])
        reply = reply_to(event, retry, body.get("data"))
        self._running[event] += 1
        at_once = self._running[event]

        def tell(status: int | None, words: str) -> None:
            self._tell(Seen(time.time(), event, str(body["job_key"]), retry, status, words, at_once))

        try:
            tell(None, "came, signature good" + (f"; works for {reply.seconds:g} s" if reply.seconds else ""))
            await asyncio.sleep(reply.seconds)
            tell(reply.status, f"{reply.why} → {reply.status}")
        except asyncio.CancelledError:
            tell(0, "the server closed the connection")
            raise
        finally:
            self._running[event] -= 1
        return web.Response(status=reply.status, text=reply.why, headers=reply.headers)

    def _refusal(self, raw: bytes, signature: str | None) -> str | None:
        """Why a callback is not to be believed. The signature is checked over the raw bytes, before any parsing."""
        if not verify_v1([self._secret], raw, signature):
            return "REFUSED: the signature is wrong"
        try:
            age = time.time() - json.loads(raw)["time"] / 1000
        except (ValueError, KeyError, TypeError):
            return "REFUSED: the body is no callback"
        if age > MAX_BODY_AGE:
            return f"REFUSED: signed {age:.0f} s ago"
        return None


async def run(port: int, secret: str, database_url: str | None, *, as_json: bool) -> None:
    """Serves until SIGTERM or SIGINT. With a database it registers its durable functions there."""

    def tell(seen: Seen) -> None:
        _print(json.dumps(asdict(seen)) if as_json else seen.line())

    def tell_of_function(event: str, order_id: str, attempt: int, status: int | None, words: str) -> None:
        tell(Seen(time.time(), event, order_id, attempt, status, words, 1))

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with socket.create_server((HOST, port)) as listening:
        bound = listening.getsockname()[1]  # known now, as the functions are registered with it
        sq = None
        if database_url is not None:
            url = f"http://{HOST}:{bound}{FUNCTIONS_PATH}"
            sq = functions.sample_functions(url, secret, PostgresDriver(database_url), tell_of_function)
        runner = web.AppRunner(
            SampleApp(secret, tell, sq).application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listening).start()
            _print(json.dumps({"port": bound}) if as_json else f"{READY}http://{HOST}:{bound}{PATH}")
            await stop.wait()
        finally:
            await runner.cleanup()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; the secret comes from SLAY_Q_SECRET, and the database, if any, from SLAY_Q_DATABASE_URL."""
    parser = argparse.ArgumentParser(prog="python -m slayq_server.dev.sample_app", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="where to listen on 127.0.0.1; 0: any free port")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    given = parser.parse_args(arguments)
    secret = os.environ.get("SLAY_Q_SECRET", "")
    if not secret:
        sys.stderr.write("error: SLAY_Q_SECRET is not set: give the secret that the server signs with\n")
        return 78
    try:
        asyncio.run(run(given.port, secret, os.environ.get("SLAY_Q_DATABASE_URL"), as_json=given.json))
    except OSError as error:
        sys.stderr.write(f"error: cannot listen on {HOST}:{given.port}: {error.strerror or error}\n")
        return 1
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
