"""What the scenarios run in: a stand-in app, daemons and a database of their own, all of it real processes.

All scenarios of a world run at the same time, in a thread of its own, so that each can still be a test by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.contract.app_process import App, Entry, Setting
from tests.support.daemon import Daemons, Running
from tests.support.process import Finished, Program, run_program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BACKOFF = {"base": 0.3, "factor": 2, "jitter": 0}
DELAYS = [300, 600, 1200]
"""Milliseconds that BACKOFF waits after the first, second and third attempt."""
IMPATIENCE = 4.0
"""Seconds: the time limit of deliveries in queue `impatient`."""
LOOK = 0.04
"""Seconds between two looks at the app's log and the database."""
LIMIT = 60.0
"""Seconds in which whatever a scenario waits for must come about, unless daemons are being killed."""

Scenario = Callable[["World"], Awaitable[None]]


class World:
    """One setting, running. What a scenario does and sees, it does and sees through this."""

    def __init__(self, setting: Setting, database_url: str, folder: Path, scenarios: Mapping[str, Scenario]) -> None:
        self.setting = setting
        self.database_url = database_url
        self.folder = folder
        self.jobs: list[Entry] = []
        """The live jobs, as last seen."""
        self.dead: list[Entry] = []
        """The dead letters, as last seen."""
        self.seed = int(os.environ.get("SLAYQ_SEED") or random.randrange(2**32))
        self.killing = setting.kills > 0
        self._scenarios = scenarios
        self._outcomes: dict[str, Future[None]] = {name: Future() for name in [*scenarios, ENDED]}
        self._tags = 0
        self._looks = self._seen = 0
        """The number of the look that was begun last, and of the one whose finding is at hand."""
        self._looked = asyncio.Condition()
        self._over: Callable[[], object] = lambda: None
        self._stack = ExitStack()
        self.app = App(setting, database_url, folder, self._stack)
        self._programs = 0
        self._running: list[Running] = []
        self._thread = threading.Thread(target=self._live, name=f"world {setting}")

    # What tests do with a world.

    def __enter__(self) -> World:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has come to its end already
            self._over()
        self._thread.join(60)
        self._stack.close()

    def outcome(self, name: str) -> None:
        """Waits for the end of a scenario; raises what it raised."""
        self._outcomes[name].result(4 * LIMIT)

    # What scenarios do.

    @property
    def steady(self) -> bool:
        """Whether no daemon is ever killed: then every number of deliveries is exact."""
        return self.setting.kills == 0

    def tag(self) -> str:
        """A text that nobody else uses."""
        self._tags += 1
        return f"{self.setting} #{self._tags}"

    def number(self) -> int:
        """A number that nobody else uses."""
        self._tags += 1
        return 1_000_000 + self._tags

    async def send(self, event: str, key: str | None = None, **data: Any) -> str:
        """Has the app send an event; the new job's key."""
        named = {} if key is None else {"key": key}
        sent: str = await self.app.control(do="send", event=event, data=data, **named)
        return sent

    async def send_all(self, *events: tuple[str, dict[str, Any]]) -> list[str]:
        """Has the app send many events in one go."""
        sent: list[str] = await self.app.control(do="send_all", events=events)
        return sent

    async def call(self, name: str, **values: Any) -> None:
        """Has the app make a call to the server as it stands."""
        await self.app.control(do="call", name=name, values=values)

    async def set_flag(self, flag: str) -> None:
        """Lets a step go on that waits for this flag."""
        await self.app.control(do="set", flag=flag)

    async def cli(self, *arguments: str) -> Finished:
        """Runs a command of the server's; it must succeed."""
        self._programs += 1
        env = {"SLAY_Q_DATABASE_URL": self.database_url}
        finished = await run_program(self.folder / f"cli-{self._programs}", *arguments, env=env)
        assert 0 == finished.code, finished
        return finished

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Runs a statement on the database."""
        async with asyncio.timeout(20):
            await self._pool.execute(statement, *arguments)

    async def until_so(self, question: str) -> None:
        """Waits until the database answers a question with true."""
        async with asyncio.timeout(LIMIT):
            while not await self._pool.fetchval(question):
                await asyncio.sleep(LOOK)

    # What scenarios see.

    def logged(self, kind: str, **facts: Any) -> list[Entry]:
        """What the app has logged of this kind that has these facts in it."""
        return [
            entry
            for entry in self.app.entries
            if entry["kind"] == kind and all(entry.get(name) == value for name, value in facts.items())
        ]

    def log(self, kind: str, key: str, **facts: Any) -> list[Entry]:
        """What the app has logged of this kind for a job."""
        return self.logged(kind, key=key, **facts)

    def delivered(self, **facts: Any) -> list[Entry]:
        """The deliveries with these facts in them, of whatever job."""
        return self.logged("delivery", **facts)

    def deliveries(self, key: str) -> list[Entry]:
        """The deliveries of a job, continuations included."""
        return self.delivered(key=key)

    def retries(self, key: str) -> list[int]:
        """The `retry` of each delivery of a job."""
        return [delivery["retry"] for delivery in self.deliveries(key)]

    def caches(self, key: str) -> list[Any]:
        """The `cache` of each delivery of a job; None where there was none."""
        return [delivery["cache"] for delivery in self.deliveries(key)]

    def steps(self, key: str) -> list[str]:
        """The steps that were run, one after the other."""
        return [entry["name"] for entry in self.log("step", key)]

    def calls(self, key: str) -> list[str]:
        """What the app called while it was handed this job, in the order in which the calls began.

        They may come to their end in another one: what a call has committed, a daemon may act on before the app hears
        that it was committed.
        """
        return [entry["name"] for entry in self.log("calling", key)]

    def live(self, key: str) -> list[Entry]:
        """The live job of this key, if there is one."""
        return [job for job in self.jobs if job["job_key"] == key]

    def letters(self, key: str) -> list[Entry]:
        """The dead letters of this key."""
        return [letter for letter in self.dead if letter["job_key"] == key]

    async def until(self, predicate: Callable[[], Any], what: str) -> Any:
        """Waits until the app's log and the database look like this, in a look taken from now on."""
        earlier = self._looks
        try:
            async with asyncio.timeout(LIMIT if self.steady else 1.5 * LIMIT), self._looked:
                return await self._looked.wait_for(lambda: self._seen > earlier and predicate())
        except TimeoutError:
            raise AssertionError(f"{what}: this never came about") from None

    async def result(self, key: str) -> Any:
        """Waits until a job's function has finished and nothing of the job is left; what the function gave."""
        await self.until(
            lambda: self.log("finished", key) and not self.live(key), f"{key} has finished and left nothing"
        )
        return self.log("finished", key)[-1]["result"]

    async def letter(self, key: str) -> Entry:
        """Waits until a job is a dead letter and nothing else of it is left, and the log has all that led to it."""
        await self.until(lambda: self.letters(key) and not self.live(key), f"{key} is a dead letter")
        await self.until(lambda: True, "another look")  # in the one that found the letter, the log was read before it
        return self.letters(key)[-1]

    async def parked(self, key: str, waits: int = 0) -> None:
        """Waits until a job is scheduled for later, with so many waits, and the app has nothing more to say of it."""

        def so() -> bool:
            return any(job["state"] == "scheduled" and job["waits"] == waits for job in self.live(key))

        await self.until(lambda: so() and self.log("answer", key), f"{key} is parked with {waits} waits")

    # The thread.

    def _live(self) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            living = loop.create_task(self._main())
            self._over = lambda: loop.call_soon_threadsafe(living.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(living)

    async def _main(self) -> None:
        try:
            await self.app.start()
            self._daemons = Daemons(self._start_program, self.database_url, self.app.origin, self.folder)
            await asyncio.gather(*(self._start_daemon() for _ in range(self.setting.daemons)))
            async with (
                asyncpg.create_pool(self.database_url, min_size=1, max_size=3) as self._pool,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self._look())
                killing = group.create_task(self._kill())
                await asyncio.gather(*(self._play(name, scenario) for name, scenario in self._scenarios.items()))
                await killing
                await self._settle(ENDED, self._nothing_is_left)
        except Exception as error:
            for outcome in self._outcomes.values():
                if not outcome.done():
                    outcome.set_exception(error)

    async def _play(self, name: str, scenario: Scenario) -> None:
        """Runs a scenario: once, or as long as daemons are killed."""

        async def again_and_again() -> None:
            await scenario(self)
            while self.killing:
                await scenario(self)

        await self._settle(name, again_and_again)

    async def _settle(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            error.add_note(f"the app's log, and what all programs printed, is in {self.folder}; seed {self.seed}")
            self._outcomes[name].set_exception(error)
        else:
            self._outcomes[name].set_result(None)

    async def _nothing_is_left(self) -> None:
        """Whatever happened, in the end no job and no wait is left, and every delivery was one that the app trusts."""
        assert [] == [name for name, outcome in self._outcomes.items() if outcome.done() and outcome.exception()]
        await self.until(lambda: not self.jobs, "no job is left")
        assert [] == self.logged("refused")
        letters = sorted(letter["event"] for letter in self.dead)
        assert GIVEN_UP == (letters if self.steady else sorted(set(letters)))
        async with asyncio.timeout(20):
            assert 0 == await self._pool.fetchval("select count(*) from slayq.wait")

    async def _look(self) -> None:
        """Keeps what is known of the app and the database up to date."""
        while True:
            self._looks += 1
            # The log comes first: a job whose end is logged and that is not in the table then, is gone for good.
            news = self.app.news()
            async with asyncio.timeout(20):
                jobs = await self._pool.fetch(JOBS)
                dead = await self._pool.fetch("select * from slayq.dead_letter order by id")
            self.app.entries += news
            self.jobs = [dict(row) for row in jobs]
            self.dead = [dict(row) for row in dead]
            self._seen = self._looks
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(LOOK)

    async def _kill(self) -> None:
        """Kills daemons, now this one and now that one, sometimes the new one at once."""
        chance = random.Random(self.seed)
        for _ in range(self.setting.kills):
            await asyncio.sleep(chance.uniform(0.1, 1.5))
            running = self._running.pop(chance.randrange(len(self._running)))
            await asyncio.to_thread(running.program.kill)
            await self._start_daemon()
        self.killing = False

    async def _start_daemon(self) -> None:
        worker = {"lease": 2, "renew": 0.4} if self.setting.kills else {"lease": 15, "renew": 0.4}
        queue = {"concurrency": 30, "backoff": BACKOFF}
        running = await self._daemons.start(
            env={"SLAY_Q_CRON_URL": self.app.url},
            queues={"general": queue, "impatient": {**queue, "timeout": IMPATIENCE}},
            worker=worker,
        )
        self._running.append(running)
        await self.app.connect([each.url for each in self._running])

    def _start_program(self, *arguments: str, env: Mapping[str, str] | None = None) -> Program:
        self._programs += 1
        return self._stack.enter_context(Program(self.folder / f"daemon-{self._programs}", *arguments, env=env))


ENDED = "nothing is left"
"""The outcome of the world itself."""
GIVEN_UP = ["answer/no-retry", "answer/status", "nobody/knows-me"]
"""The events of the jobs that end as dead letters."""
JOBS = """
    select job.*, (select count(*) from slayq.wait where wait.job_id = job.id) as waits from slayq.job
"""
