"""The endpoint of the soak's v1 jobs, a process of its own: does what a job's number asks for, and keeps the account.

    python -m bench.soak.endpoint SIZE      prints the port it listens on; the database is in SOAK_DATABASE_URL

GET /window: what has arrived since the last time. GET /account?N: what was lost of the first N jobs, or came twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections import Counter
from typing import Any

import asyncpg
import uvloop

from bench.rig import SECRET
from bench.soak import work
from bench.soak.tally import Tally, summary
from slayq.signing import verify_v1

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SIGNATURE = re.compile(rb"x-slayq-signature: *([0-9a-f]+)", re.IGNORECASE)
WAITS_FOR = {"waits": 120.0, "times_out": 2.0}
SLOW = 0.3
TIMED = frozenset({"plain", "delayed", "urgent", "keyed", "rpc"})
"""Kinds that wait for nothing but their turn."""


def answer(status: int, body: bytes = b'{"status":"ok"}') -> bytes:
    """An HTTP response."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Account:
    """What has arrived, and what of it was wrong."""

    def __init__(self, size: int) -> None:
        self._tally = Tally(size)
        self._lanes = [-1] * work.LANES
        self._odd: list[str] = []
        self._odd_number = 0
        self.ticks: Counter[str] = Counter()
        self._waits: list[float] = []
        self._arrived = 0

    def note(self, number: int, sent_at: float) -> int:
        """One delivery; which of this job it is, from 1."""
        now = time.monotonic()
        self._arrived += 1
        count = self._tally.note(number)
        if count == 1 and work.kind(number) in TIMED:
            self._waits.append(max(0.0, now - sent_at - work.delay(number)) * 1000)
        if work.kind(number) == "serial" and count == 1:
            lane = work.lane(number)
            if number < self._lanes[lane]:
                self.odd(f"job {number} of lane {lane} came after {self._lanes[lane]}")
            self._lanes[lane] = max(number, self._lanes[lane])
        return count

    def odd(self, what: str) -> None:
        """Something that must not be."""
        self._odd_number += 1
        if len(self._odd) < 20:
            self._odd.append(what)

    def window(self) -> dict[str, Any]:
        """Since the last time: how many deliveries, and milliseconds from due to here."""
        waits, self._waits = sorted(self._waits), []
        arrived, self._arrived = self._arrived, 0
        if not waits:
            return {"deliveries": arrived, "p50_ms": None, "p99_ms": None, "max_ms": None}
        return {
            "deliveries": arrived,
            "p50_ms": waits[len(waits) // 2],
            "p99_ms": waits[int(len(waits) * 0.99)],
            "max_ms": waits[-1],
        }

    def total(self, sent: int) -> dict[str, Any]:
        """Of all that was sent."""
        return {
            **summary(self._tally.wrong(sent, work.deliveries)),
            "odd": self._odd_number,
            "odd_first": self._odd,
            "ticks": dict(self.ticks),
        }


class Desk:
    """Decides on the answers."""

    def __init__(self, account: Account, pool: asyncpg.Pool[asyncpg.Record], group: asyncio.TaskGroup) -> None:
        self._account = account
        self._pool = pool
        self.group = group
        self.url = ""

    def decide(self, body: dict[str, Any], signed: bool) -> bytes | float | None:
        """An answer; seconds until one of 200; or None: see `park`."""
        if not signed:
            self._account.odd("a delivery that is not signed")
        number = (body.get("data") or {}).get("n")
        if number is None:
            self._account.ticks[body["event"]] += 1
            return answer(200)
        count = self._account.note(number, body["data"]["t"])
        kind = work.kind(number)
        if body["retry"] != (count if kind == "fails" else 1):
            self._account.odd(f"delivery {count} of job {number} ({kind}) is attempt {body['retry']}")
        if kind == "slow":
            return SLOW
        if kind == "dies":
            return answer(666)
        if kind == "fails" and count == 1:
            return answer(500)
        if kind in WAITS_FOR:
            if count == 1:
                return None
            came = (body.get("cache") or {}).get("go")
            if came is not (kind == "waits"):
                self._account.odd(f"the wait of job {number} ({kind}) came out as {came}")
        return answer(200)

    async def park(self, body: dict[str, Any]) -> bytes:
        """Does what a stock app does for a wait: adds the job under its own key, and lets that wait."""
        number, key = body["data"]["n"], body["job_key"]
        seconds = WAITS_FOR[work.kind(number)]
        payload = json.dumps(
            {"url": self.url, "retry": 0, "event": body["event"], "data": body["data"], "cache": {"go": False}}
        )
        await self._pool.execute(
            "select public.add_worker_job('mail', $1, run_at => now() + make_interval(secs => $2), job_key => $3)",
            payload, seconds, key,
        )  # fmt: skip
        await self._pool.execute(
            "select public.wait_for_worker_event($1, 'soak/go', 'n', $2, 'go', now() + make_interval(secs => $3))",
            key, str(number), seconds,
        )  # fmt: skip
        if work.kind(number) == "waits":
            self.group.create_task(self._trigger(number))
        return answer(200)

    async def _trigger(self, number: int) -> None:
        await asyncio.sleep(1 + number % 4)
        await self._pool.execute("select public.trigger_waiting_workers('soak/go', 'n', $1)", str(number))


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, account: Account, desk: Desk) -> None:
        self._account = account
        self._desk = desk
        self._buffer = b""
        self._busy = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._busy and (head := self._buffer.find(b"\r\n\r\n")) >= 0:
            match = _LENGTH.search(self._buffer, 0, head)
            end = head + 4 + (int(match[1]) if match else 0)
            if len(self._buffer) < end:
                return
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._handle(request, head)

    def _handle(self, request: bytes, head: int) -> None:
        method, path, _ = request.split(b" ", 2)
        if method == b"GET":
            self._transport.write(answer(200, json.dumps(self._control(path.decode())).encode()))
            return
        raw = request[head + 4 :]
        match = _SIGNATURE.search(request, 0, head)
        signed = verify_v1([SECRET], raw, match[1].decode() if match else None)
        body = json.loads(raw)
        decided = self._desk.decide(body, signed)
        if isinstance(decided, bytes):
            self._transport.write(decided)
            return
        self._busy = True
        self._desk.group.create_task(self._later(decided, body))

    async def _later(self, seconds: float | None, body: dict[str, Any]) -> None:
        try:
            if seconds is None:
                written = await self._desk.park(body)
            else:
                await asyncio.sleep(seconds)
                written = answer(200)
        except Exception as error:
            self._account.odd(f"the endpoint itself is broken: {error!r}")
            written = answer(500)
        self._busy = False
        self._transport.write(written)
        self.data_received(b"")

    def _control(self, path: str) -> dict[str, Any]:
        if path == "/window":
            return self._account.window()
        return self._account.total(int(path.partition("?")[2]))


async def main() -> None:
    """Serves until its standard input is closed."""
    account = Account(int(sys.argv[1]))
    pool = asyncpg.create_pool(
        os.environ["SOAK_DATABASE_URL"],
        min_size=0,
        max_size=2,
        command_timeout=60,
        server_settings={"application_name": "soak-endpoint"},
    )
    async with pool, asyncio.TaskGroup() as group:
        desk = Desk(account, pool, group)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(account, desk), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        desk.url = f"http://127.0.0.1:{port}/slayq"
        print(port, flush=True)
        await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it
        server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
