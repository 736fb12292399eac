"""The stand-in for the stock client, written from protocol v1 alone: it runs durable functions, one event each.

A function is a coroutine that does its work in steps. What steps have given stands in the job's `cache`, which travels
with the job; to pause, the client adds the job again under its own key and answers 200.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.contract.drivers import Driver

ALPHABET = string.ascii_letters + string.digits + "_-"
FLAG_LIMIT = 60.0
"""Seconds that a step waits for the test to let it go on."""


class Suspended(Exception):
    """The job was added again: this delivery is over."""


class StepFailed(Exception):
    """A step threw."""


class NoRetry(Exception):
    """The function says that trying again is no use."""


class Answer(Exception):
    """The function wants this answer."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class Function:
    """What runs for an event. `cancel_on`: (event, key in the data) pairs that cancel its pending runs."""

    event: str
    run: Callable[[Run], Awaitable[Any]]
    queue: str
    retries: int | None
    cancel_on: tuple[tuple[str, str], ...]

    @property
    def max_attempts(self) -> int | None:
        return None if self.retries is None else self.retries + 1


@dataclass
class Client:
    """Sends events, and answers deliveries with the functions that it knows."""

    driver: Driver
    url: str
    functions: dict[str, Function]
    crontabs: dict[str, str]
    """Of each event sent by cron, when."""
    log: Callable[..., None]
    flags: dict[str, asyncio.Event] = field(default_factory=dict)
    thrown: Counter[str] = field(default_factory=Counter)
    """How often the runs of each key have failed on purpose."""

    async def call(self, name: str, during: str | None = None, **values: Any) -> None:
        """One call to the server; `during` is the key of the job that is being delivered."""
        told = {argument: str(value) if isinstance(value, datetime) else value for argument, value in values.items()}
        self.log("calling", key=during, name=name, values=told)
        await self.driver.call(name, **values)
        self.log("called", key=during, name=name, values=told)

    async def send(self, event: str, data: dict[str, Any], key: str | None = None, during: str | None = None) -> str:
        """Sends an event: cancels what it cancels, starts its function, and wakes who waits for it."""
        key = key or new_key()
        for function in self.functions.values():
            for cancelling, match in function.cancel_on:
                if cancelling == event and match in data:
                    await self.call(
                        "cancel_pending_tasks",
                        during,
                        event=function.event,
                        match_key=match,
                        match_value=js_text(data[match]),
                    )
        if event in self.functions:
            await self.add(self.functions[event], key, data, during)
        for name, value in data.items():
            if isinstance(value, str | int | float):
                await self.call(
                    "trigger_waiting_workers", during, event=event, match_key=name, match_value=js_text(value)
                )
        return key

    async def send_all(self, events: list[tuple[str, dict[str, Any]]], during: str | None = None) -> list[str]:
        """Sends many events at once."""
        return await asyncio.gather(*(self.send(event, data, during=during) for event, data in events))

    async def add(self, function: Function, key: str | None, data: Any, during: str | None = None, **more: Any) -> None:
        """Adds a job; `cache` and `run_at` are those of a continuation."""
        payload = {"url": self.url, "retry": 0, "event": function.event, "data": data}
        if "cache" in more:
            payload["cache"] = more.pop("cache")
        await self.call(
            "add_worker_job",
            during,
            identifier=function.queue,
            payload=payload,
            job_key=key,
            max_attempts=function.max_attempts,
            **more,
        )

    async def deliver(self, body: dict[str, Any]) -> tuple[int | str, dict[str, str]]:
        """Runs what a delivery asks for. The answer's status and headers; or `hang` or `die` in place of a status."""
        if body["event"] == "cron":
            for event, crontab in self.crontabs.items():
                if is_due(crontab, datetime.now(UTC)):
                    await self.send(event, {}, during="cron")
            return 200, {}
        function = self.functions.get(body["event"])
        if function is None:
            return 404, {}
        run = Run(self, function, body["job_key"], body["retry"], body.get("data"), dict(body.get("cache") or {}))
        try:
            result = await function.run(run)
        except Suspended:
            return run.then(200), {}
        except StepFailed:
            await self.add(function, run.key, run.data, run.key, cache=run.cache)
            return run.then(200), {}
        except NoRetry:
            return 666, {}
        except Answer as answer:
            return answer.status, answer.headers
        self.log("finished", key=run.key, result=result)
        await self.call("trigger_waiting_invoker", run.key, job_key=run.key, result=result)
        return 200, {}

    def flag(self, name: str) -> asyncio.Event:
        """What the test sets to let a step go on."""
        return self.flags.setdefault(name, asyncio.Event())


@dataclass
class Run:
    """One delivery of a function: what it is given, and its steps."""

    client: Client
    function: Function
    key: str
    retry: int
    data: Any
    cache: dict[str, Any]

    async def step(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` gave when it first succeeded."""
        if name not in self.cache:
            self.client.log("step", key=self.key, name=name)
            try:
                given = work()
                self.cache[name] = await given if isinstance(given, Awaitable) else given
            except NoRetry:
                raise
            except Exception as error:
                raise StepFailed(name) from error
        return self.cache[name]

    async def sleep(self, name: str, milliseconds: float) -> None:
        await self.sleep_until(name, datetime.now(UTC) + timedelta(milliseconds=milliseconds))

    async def sleep_until(self, name: str, time: datetime) -> None:
        if name not in self.cache:
            self.cache[name] = True
            await self._again(time)
            raise Suspended

    async def wait_for_event(
        self, name: str, event: str, match: str, timeout: float, between: Callable[[], Awaitable[Any]] | None = None
    ) -> bool:
        """Whether the event came, with the same value under `match` as in this run's data, within `timeout` ms.

        `between` is what the test wants to happen between the two calls.
        """
        if name not in self.cache:
            self.cache[name] = False
            expires_at = datetime.now(UTC) + timedelta(milliseconds=timeout)
            await self._again(expires_at)
            if between is not None:
                await between()
            await self.client.call(
                "wait_for_worker_event",
                self.key,
                job_key=self.key,
                event=event,
                match_key=match,
                match_value=js_text(self.data[match]),
                step_name=name,
                expires_at=expires_at,
            )
            raise Suspended
        return self.cache[name] is True

    async def invoke(self, name: str, event: str, data: dict[str, Any], timeout: float) -> Any:
        """What another function gave; False if it did not within `timeout` ms."""
        if name not in self.cache:
            callee = new_key()
            self.cache[name] = False
            await self._again(datetime.now(UTC) + timedelta(milliseconds=timeout))
            await self.client.call(
                "wait_for_invocation",
                self.key,
                invoker_job_key=self.key,
                target_job_key=callee,
                step_name=name,
            )
            await self.client.add(self.client.functions[event], callee, data, self.key)
            raise Suspended
        return self.cache[name]

    async def send_events(self, name: str, events: list[tuple[str, dict[str, Any]]]) -> list[str]:
        keys: list[str] = await self.step(name, lambda: self.client.send_all(events, self.key))
        return keys

    async def until(self, flag: str) -> None:
        """Waits until the test sets a flag."""
        async with asyncio.timeout(FLAG_LIMIT):
            await self.client.flag(flag).wait()

    def fail(self, times: int) -> None:
        """Throws, but no more than `times` times in all runs of this key."""
        if self.client.thrown[self.key] < times:
            self.client.thrown[self.key] += 1
            raise RuntimeError(f"failure {self.client.thrown[self.key]} of {times}, as told")

    def then(self, status: int) -> int | str:
        """What to answer after the job was added again: the data may ask for worse than `status`, the first time."""
        return self.data.get("then", status) if self.retry == 1 else status

    async def _again(self, run_at: datetime) -> None:
        await self.client.add(self.function, self.key, self.data, self.key, cache=self.cache, run_at=run_at)


def new_key() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(21))


def js_text(value: Any) -> str:
    """A value as JavaScript's String() prints it, for the values that the suite uses."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def is_due(crontab: str, time: datetime) -> bool:
    """Whether a crontab of numbers and asterisks names this minute."""
    now = [time.minute, time.hour, time.day, time.month, time.isoweekday() % 7]
    return all(part == "*" or int(part) == value for part, value in zip(crontab.split(), now, strict=True))
