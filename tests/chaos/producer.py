"""What sends jobs and runs: by SQL, over HTTP and with the SDK. Its log is half of what the checker judges by."""

from __future__ import annotations

import asyncio
import json
import random as randomness
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg

from slayq import SlayQ
from slayq.drivers.postgres import PostgresDriver
from slayq.drivers.rpc import RpcDriver
from slayq.errors import SlayQError
from slayq.protocol import SIGNATURE_HEADER
from slayq.signing import sign_v1
from tests.chaos.plans import chosen
from tests.chaos.records import fingerprint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.chaos.records import Log

AT_ONCE = 40
TIME_LIMIT = 8.0
PAY_TRIES = 60
LANES = 6


class Refused(Exception):
    """The job was certainly not taken."""


class Producer:
    """Sends, and logs what it knows: that it begins to, that it has, that it has not, or that it cannot know."""

    def __init__(
        self,
        log: Log,
        *,
        seed: int,
        database_url: str,
        rpc_urls: Sequence[str],
        endpoint_url: str,
        tls_urls: Sequence[str],
        secret: str,
        runs_share: float,
        plan: list[str] | None = None,
        queues: Sequence[str] = ("mail", "tight", "lanes"),
    ) -> None:
        """Connects to nothing yet.

        Args:
            log: its log.
            seed: of all its choices.
            database_url: of the database, perhaps past a wire that breaks.
            rpc_urls: of the daemons.
            endpoint_url: where callbacks go.
            tls_urls: where they should not get to, at random.
            secret: signs what goes over HTTP.
            runs_share: which part of all that is sent are runs of durable functions.
            plan: of every job, in place of one chosen for each.
            queues: to send jobs to.
        """
        self._log = log
        self._random = randomness.Random(f"producer-{seed}")
        self._database_url = database_url
        self._rpc_urls = list(rpc_urls)
        self._endpoint_url = endpoint_url
        self._tls_urls = tls_urls
        self._secret = secret
        self._runs_share = runs_share
        self._plan = plan
        self._queues = list(queues)
        self._number = 0
        self._lane_locks = [asyncio.Lock() for _ in range(LANES)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._sdks: list[SlayQ] = []

    async def run(self, per_second: float, until: Callable[[], bool], most: int | None = None) -> None:
        """Sends so many a second until told to stop, or so many in all; returns once each call has come to an end."""
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIME_LIMIT)) as self._session:
            self._pool = asyncpg.create_pool(
                self._database_url,
                min_size=0,
                max_size=8,
                statement_cache_size=0,
                command_timeout=TIME_LIMIT,
                timeout=5,
            )
            await self._pool
            self._sdks = [
                SlayQ(driver=PostgresDriver(self._database_url), secret=self._secret),
                *(SlayQ(driver=RpcDriver(url, [self._secret]), secret=self._secret) for url in self._rpc_urls),
            ]
            try:
                due, begun = loop.time(), 0
                while not until() and (most is None or begun < most):
                    due = max(due + self._random.expovariate(per_second), loop.time() - 1.0)
                    await asyncio.sleep(max(0.0, due - loop.time()))
                    if len(self._tasks) < AT_ONCE:
                        begun += 1
                        self._spawn(self._send_something())
                while self._tasks:
                    await asyncio.wait(self._tasks, timeout=1.0)
            finally:
                for task in self._tasks:
                    task.cancel()
                for sdk in self._sdks:
                    await sdk.close()
                self._pool.terminate()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log("producer_broken", error=repr(task.exception()))

    async def _send_something(self) -> None:
        self._number += 1
        name = f"p{self._number}"
        if self._random.random() < self._runs_share:
            await self._send_run(name)
        else:
            await self._send_job(name)

    # Jobs

    async def _send_job(self, name: str) -> None:
        random = self._random
        queue = random.choices(self._queues, [8, 1, 1][: len(self._queues)])[0]
        plan, attempts = chosen(random) if self._plan is None else (self._plan, 25)
        lane = None
        if queue == "lanes":
            lane = random.randrange(LANES)
            if plan[:1] and plan[0].partition(":")[0] not in ("ok", "slow", "429"):
                plan = ["500"]
            attempts = 25
        data = {"id": name, "plan": plan, "note": random.choice(("", "é", "💡", "a" * 500, {"n": 1.5}))}
        job: dict[str, Any] = {"identifier": queue, "max_attempts": attempts}
        fate = random.random()
        if lane is not None:
            job["queue_name"] = f"lane-{lane}"
        elif fate < 0.35:
            job["job_key"] = name
        if lane is None and 0.35 <= fate < 0.40:
            job["priority"] = random.choice((-5, 5))
        cancels = lane is None and self._plan is None and 0.40 <= fate < 0.43
        if cancels:
            job["job_key"] = name
        event = "chaos/cancel" if cancels else "chaos/job"
        url = random.choice(self._tls_urls) if "tls" in plan else self._endpoint_url
        payload = {"url": url, "retry": 0, "event": event, "data": data}
        ways = [("sql", self._by_sql), ("v1", self._by_v1)]
        if "job_key" in job:
            ways += [("rpc", self._by_rpc)] * 2  # it takes none without
        how, send = random.choice(ways)
        facts = {
            "how": how,
            "queue": queue,
            "plan": plan,
            "max_attempts": attempts,
            "lane": lane,
            "key": job.get("job_key"),
            "priority": job.get("priority", 0),
            "hash": fingerprint(data),
            "cancels": cancels,
        }
        late = cancels or (lane is None and random.random() < 0.05)
        delay = random.uniform(0.2, 1.5) if late else 0.0
        retries = "job_key" in job and not cancels

        async def call() -> None:
            await send(job, payload, delay)

        if lane is None:
            await self._logged(name, call, facts, retries=retries)
        else:
            async with self._lane_locks[lane]:  # so that the order in which they were sent is known
                await self._logged(name, call, facts)
        if cancels:
            await asyncio.sleep(random.uniform(0.0, 1.5))
            await self._cancel(name)

    async def _logged(self, name: str, call: Callable[[], Awaitable[Any]], facts: Any, *, retries: bool = False) -> Any:
        """One call, and what is known of it. One that may be repeated is, once, where its end is unknown."""
        self._log("enq_invoke", id=name, **facts)
        try:
            async with asyncio.timeout(TIME_LIMIT):
                given = await call()
        except Refused as error:
            self._log("enq_fail", id=name, error=str(error))
            return None
        except Exception as error:
            self._log("enq_unknown", id=name, error=f"{type(error).__name__}: {error}"[:300])
            if retries:
                await asyncio.sleep(0.3)
                return await self._logged(name, call, facts)
            return None
        self._log("enq_ok", id=name, run=given)
        return given

    async def _by_sql(self, job: dict[str, Any], payload: Any, delay: float) -> None:
        names = list(job)
        places = "".join(f", {name} => ${number}" for number, name in enumerate(names, start=3))
        call = f"select slayq.add_job(payload => $1, run_at => now() + make_interval(secs => $2){places})"
        await self._query(call, json.dumps(payload), delay, *job.values())

    async def _by_v1(self, job: dict[str, Any], payload: Any, delay: float) -> None:
        call = "select public.add_worker_job($1, $2, $3, now() + make_interval(secs => $4), $5, $6, $7, null, null)"
        await self._query(
            call,
            job["identifier"],
            json.dumps(payload),
            job.get("queue_name"),
            delay,
            job["max_attempts"],
            job.get("job_key"),
            job.get("priority"),
        )

    async def _by_rpc(self, job: dict[str, Any], payload: Any, delay: float) -> None:
        await self._post("add-worker-job", {**job, "payload": payload})

    async def _cancel(self, name: str) -> None:
        for _ in range(20):
            try:
                await self._query("select public.cancel_pending_tasks('chaos/cancel', 'id', $1)", name)
            except Exception as error:
                self._log("cancel_unknown", id=name, error=type(error).__name__)
                await asyncio.sleep(0.5)
            else:
                self._log("cancel_ok", id=name)
                return

    # Runs

    async def _send_run(self, name: str) -> None:
        random = self._random
        event = random.choice(("chaos/order", "chaos/short"))
        data = {"id": name}
        sdk = random.choice(self._sdks)
        by_sql = random.random() < 0.5

        async def call() -> str:
            if by_sql:
                return str(await self._query("select slayq.send($1, $2)", event, json.dumps(data)))
            return str(await sdk.send_event(event, data))

        payment = asyncio.ensure_future(self._pay(name)) if event == "chaos/order" else None
        try:
            await self._logged(name, call, {"how": "sql" if by_sql else "sdk", "event": event})
        finally:
            if payment is not None:
                await payment

    async def _pay(self, name: str) -> None:
        """Sends what the order waits for: after it was sent, when it waits already, or anything in between."""
        await asyncio.sleep(self._random.choice((0.3, 1.0, 3.0)))
        self._log("pay_invoke", id=name)
        for _ in range(PAY_TRIES):
            try:
                sdk = self._random.choice(self._sdks)
                await sdk.send_event("chaos/paid", {"id": name, "amount": 7}, id=f"paid-{name}")
            except Exception as error:
                self._log("pay_unknown", id=name, error=f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(0.5)
            else:
                self._log("paid", id=name)
                return

    # Ways

    async def _query(self, query: str, *arguments: Any) -> Any:
        assert self._pool is not None
        try:
            connection = await self._pool.acquire(timeout=5)
        except Exception as error:
            raise Refused(f"no connection: {type(error).__name__}") from error
        try:
            return await connection.fetchval(query, *arguments)
        except (asyncpg.DataError, asyncpg.SyntaxOrAccessError, asyncpg.PLPGSQLError) as error:
            raise Refused(str(error)) from error
        finally:
            await asyncio.shield(self._pool.release(connection, timeout=1))

    async def _post(self, task: str, body: Any) -> None:
        assert self._session is not None
        raw = json.dumps(body).encode()
        url = self._random.choice(self._rpc_urls)
        headers = {SIGNATURE_HEADER: sign_v1(self._secret, raw), "Content-Type": "application/json"}
        try:
            async with self._session.post(f"{url}/{task}", data=raw, headers=headers) as answer:
                if answer.status == 200:
                    return
                text = (await answer.text())[:200]
        except aiohttp.ClientConnectorError as error:
            raise Refused(f"not connected: {error}") from error
        if 400 <= answer.status < 500:
            raise Refused(f"{answer.status}: {text}")
        raise SlayQError(f"{answer.status}: {text}")
