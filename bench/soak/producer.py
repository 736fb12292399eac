"""Sends jobs and orders at a steady rate, in the ways that apps do."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg

from bench.rig import SECRET
from bench.soak import work
from slayq import SlayQ
from slayq.drivers.postgres import PostgresDriver
from slayq.drivers.rpc import RpcDriver
from slayq.errors import Unavailable
from slayq.protocol import SIGNATURE_HEADER
from slayq.signing import sign_v1

if TYPE_CHECKING:
    from collections.abc import Coroutine

TICK = 0.1
TRIES = 60
LATER = 60.0
"""Seconds until a job is due that is to be changed before."""


class Producer:
    """Sends until told to stop. An error of its own ends the run: nothing is broken here."""

    def __init__(self, database_url: str, server_url: str, endpoint_url: str, jobs: float, orders: float) -> None:
        self._database_url = database_url
        self._server_url = server_url
        self._endpoint_url = endpoint_url
        self._rates = {"jobs": jobs, "orders": orders}
        self.sent = {"jobs": 0, "orders": 0}
        self.unsure: list[int] = []
        """Jobs of which the answer to their sending was lost: they may have been taken twice, or not at all."""
        self.behind = 0.0
        """Seconds by which the last turn was late."""
        self._group: asyncio.TaskGroup | None = None
        self._in_order = asyncio.Lock()
        """Serial jobs are to be added in the order of their numbers."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Returns once all that it has begun has ended."""
        self._pool = asyncpg.create_pool(
            self._database_url,
            min_size=0,
            max_size=6,
            command_timeout=60,
            server_settings={"application_name": "soak-producer"},
        )
        self._sdks = [
            SlayQ(driver=PostgresDriver(self._database_url), secret=SECRET),
            SlayQ(driver=RpcDriver(self._server_url, [SECRET]), secret=SECRET),
        ]
        async with self._pool, aiohttp.ClientSession() as self._session:
            try:
                async with asyncio.TaskGroup() as self._group:
                    await self._turns(stopping)
            finally:
                for sdk in self._sdks:
                    await sdk.close()

    async def _turns(self, stopping: asyncio.Event) -> None:
        began, turn = time.monotonic(), 0
        while not stopping.is_set():
            turn += 1
            due = began + turn * TICK
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.behind = time.monotonic() - due
            for what, send in (("jobs", self._send_jobs), ("orders", self._send_orders)):
                first, until = self.sent[what], int(turn * TICK * self._rates[what])
                self.sent[what] = until
                if until > first:
                    send(range(first, until))

    def _begin(self, sending: Coroutine[Any, Any, Any]) -> None:
        assert self._group is not None
        self._group.create_task(sending)

    # Jobs

    def _send_jobs(self, numbers: range) -> None:
        bulk = []
        for number in numbers:
            kind = work.kind(number)
            if kind in work.IN_BULK:
                bulk.append(number)
            else:
                self._begin(getattr(self, f"_send_{kind}", self._send_keyed)(number))
        if bulk:
            self._begin(self._send_bulk(bulk))

    def _payload(self, number: int, due: float | None = None) -> str:
        event = work.EVENT_OF.get(work.kind(number), "soak/job")
        data = {"n": number, "t": time.monotonic() if due is None else due}
        return json.dumps({"url": self._endpoint_url, "retry": 0, "event": event, "data": data})

    async def _send_bulk(self, numbers: list[int]) -> None:
        async with self._in_order:
            await self._add_all(numbers)

    async def _add_all(self, numbers: list[int]) -> None:
        now = datetime.now(UTC)
        specs = []
        for number in numbers:
            kind = work.kind(number)
            specs.append((
                "tight" if kind == "tight" else "mail",
                self._payload(number),
                f"lane-{work.lane(number)}" if kind == "serial" else None,
                now + timedelta(seconds=work.delay(number)) if work.delay(number) else None,
                None,
                None,
                (-5, 5)[number // 100 % 2] if kind == "urgent" else None,
                None,
            ))  # fmt: skip
        await self._pool.execute("select count(*) from slayq.add_jobs($1::slayq.job_spec[])", specs)

    async def _add(self, number: int, payload: str, delay: float = 0.0) -> None:
        await self._pool.execute(
            "select public.add_worker_job('mail', $1, run_at => now() + make_interval(secs => $2), job_key => $3)",
            payload,
            delay,
            f"soak-{number}",
        )

    async def _send_keyed(self, number: int) -> None:
        await self._add(number, self._payload(number))

    async def _send_readded(self, number: int) -> None:
        await self._add(number, self._payload(number), LATER)
        await asyncio.sleep(1.0)
        await self._add(number, self._payload(number, time.monotonic() + 1.0), 1.0)

    async def _send_cancelled(self, number: int) -> None:
        await self._add(number, self._payload(number), LATER)
        await asyncio.sleep(1.0)
        await self._pool.execute("select public.cancel_pending_tasks('soak/cancelled', 'n', $1)", str(number))

    async def _send_rpc(self, number: int) -> None:
        key = f"soak-{number}"
        body = json.dumps({"identifier": "mail", "job_key": key, "payload": json.loads(self._payload(number))})
        raw = body.encode()
        headers = {SIGNATURE_HEADER: sign_v1(SECRET, raw), "Content-Type": "application/json"}
        try:
            async with self._session.post(f"{self._server_url}/add-worker-job", data=raw, headers=headers) as response:
                if response.status not in (200, 503):
                    raise RuntimeError(f"add-worker-job was answered {response.status}: {await response.text()}")
                if response.status == 200:
                    return
        except (aiohttp.ClientError, TimeoutError):
            pass
        self.unsure.append(number)

    # Orders

    def _send_orders(self, numbers: range) -> None:
        for number in numbers:
            self._begin(self._send_order(number))

    async def _send_order(self, number: int) -> None:
        if work.recalled(number):
            run = await self._pool.fetchval(
                "select slayq.send('soak/order', $1, run_at => now() + make_interval(secs => $2))",
                json.dumps({"n": number}),
                LATER,
            )
            await asyncio.sleep(1.0)
            if not await self._pool.fetchval("select slayq.cancel($1)", run):
                raise RuntimeError(f"the run {run} could not be cancelled")
            return
        if number % 3 == 0:
            await self._pool.execute("select slayq.send('soak/order', $1)", json.dumps({"n": number}))
        else:
            await self._send_event(self._sdks[number % 3 - 1], "soak/order", number, f"order-{number}")
        if not work.unpaid(number):
            await asyncio.sleep(number % 50 / 10)
            await self._send_event(self._sdks[number % 2], "soak/paid", number, f"paid-{number}")

    async def _send_event(self, sdk: SlayQ, event: str, number: int, name: str) -> None:
        """With an id, it may be sent again where the machine was too busy to answer."""
        for _ in range(TRIES):
            try:
                await sdk.send_event(event, {"n": number}, id=name)
                return
            except Unavailable:
                await asyncio.sleep(1.0)
        raise RuntimeError(f"{name} could not be sent")
