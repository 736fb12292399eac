"""`slayq-server demo`: jobs and runs through a fresh database, the daemon and the sample app, told as they happen.

At the end what the app saw and what the database says are both held against what each job was to do.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from slayq_server.db.admin import Admin
from slayq_server.db.admin_rows import SentJob
from slayq_server.dev import scenes
from slayq_server.dev.customer import Customer
from slayq_server.dev.processes import run_interruptibly
from slayq_server.dev.stack import Stack, passing_database

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slayq_server.dev.sample_app import Seen
    from slayq_server.dev.scenes import Scene
    from slayq_server.dev.stack import Addresses, Database

_ENDS_WITHIN = 40.0
"""Seconds for all scenes together; they take about 8."""
_LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a scene ended."""

    scene: Scene
    complaints: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether all was as it should be."""
        return not self.complaints


@dataclass(slots=True)
class Course:
    """What happened in a scene so far."""

    scene: Scene
    sent: list[SentJob] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """How often the app has answered."""
        return sum(each.status is not None for each in self.seen)


def run_demo(kind: str, say: Callable[[str], None]) -> list[Verdict]:
    """Runs all scenes on a fresh Postgres of that kind (`embedded`, `installed`, `auto`).

    Says what happens, as it happens, and returns how each ended.
    """
    started = time.monotonic()
    say("Starting Postgres, the sample app and the server …")
    with passing_database(kind) as database, tempfile.TemporaryDirectory(prefix="slayq-demo-") as folder:
        return run_interruptibly(Demo(database, Path(folder), say, started).run())


def plain_words(line: str, names: Mapping[int, str]) -> str | None:
    """A line of the daemon's log in plain words; None for what is not worth telling. `names` are of jobs, by id."""
    try:
        log = json.loads(line)
    except ValueError:
        return line
    job = log.get("job_key") or names.get(log.get("job_id"), f"job {log.get('job_id')}")
    match log["event"]:
        case "worker_started":
            return f"is up and serves {', '.join(log['queues'])}"
        case "schedule_fired":
            return f"schedule {log['schedule']} fired"
        case "job_completed":
            return f"{job}: done"
        case "job_retried":
            return f"{job}: attempt {log['attempt']} of {log['max_attempts']} failed; it is tried again a little later"
        case "job_suspended":
            return f"{job}: suspended; nothing of it runs until it goes on"
        case "job_dead":
            return f"{job}: attempt {log['attempt']} of {log['max_attempts']} failed; it is a dead letter now"
        case event if log["level"] in ("warning", "error", "critical"):
            return f"{log['level']}: {event} {log.get('error', '')}".rstrip()
        case _:
            return None


class Demo:
    """One run."""

    def __init__(self, database: Database, folder: Path, say: Callable[[str], None], started: float) -> None:
        self._database = database
        self._folder = folder
        self._say = say
        self._started = started
        self._courses: list[Course] = []
        self._customer = Customer(database.url, self._tell)

    async def run(self) -> list[Verdict]:
        """Starts everything, plays the scenes, stops everything."""
        stack = Stack(
            self._folder,
            self._database.url,
            scenes.config,
            secret=secrets.token_urlsafe(32),
            log_options=("--log-format=json", "--log-level=debug"),
            on_seen=self._seen,
            on_log=self._logged,
        )
        async with stack.running() as addresses, Admin.connect(addresses.database_url) as admin:
            self._tell(f"all is up: {self._database.words}; server {addresses.server}; app {addresses.app}")
            async with self._customer, asyncio.TaskGroup() as group:
                serving = group.create_task(self._customer.serve())
                await self._send(admin, addresses)
                await self._until_over(admin)
                serving.cancel()
            verdicts = [await self._judge(admin, course) for course in self._courses]
        self._tell(f"all is stopped, after {time.monotonic() - self._started:.0f} s")
        return verdicts

    async def _send(self, admin: Admin, addresses: Addresses) -> None:
        self._courses = [Course(scene) for scene in scenes.scenes(addresses.app, datetime.now(UTC))]
        for course in self._courses:
            for job in course.scene.jobs:
                sent = await admin.send(job)
                assert sent is not None
                course.sent.append(sent)
            if course.scene.order is not None:
                course.sent.append(await self._place(admin, course.scene.order))
            count = len(course.sent)
            what = f"sent {course.scene.title}" if count == 1 else f"sent {count} jobs: {course.scene.title}"
            if count:
                self._tell(f"{what}; it should be {course.scene.expected}" if count == 1 else what)
        self._tell("made the schedule's next tick due now, so that nobody has to wait for the minute")
        await admin.make_tick_due(scenes.CRON_ID)

    async def _place(self, admin: Admin, order_id: str) -> SentJob:
        """Places an order; the job that its run is."""
        shown = await admin.runs.show(await self._customer.place(order_id))
        assert shown is not None
        run = shown[0]
        return SentJob(run.id, run.queue, run.state, run.event, order_id, 0, run.created_at, 1, 0)

    async def _until_over(self, admin: Admin) -> None:
        """Waits until the app has answered as often as it should, and the database has written all of it down."""
        deadline = time.monotonic() + _ENDS_WITHIN
        while time.monotonic() < deadline:
            if all(course.answered >= course.scene.answers for course in self._courses):
                places = await admin.whereabouts([sent.id for course in self._courses for sent in course.sent])
                if all(_is_over(course.scene, places.get(each.id)) for course in self._courses for each in course.sent):
                    return
            await asyncio.sleep(_LOOK_EVERY)
        self._tell(f"not all has ended within {_ENDS_WITHIN:g} s")

    async def _judge(self, admin: Admin, course: Course) -> Verdict:
        """Holds what the app saw, and what the database says, against what was to happen."""
        scene = course.scene
        by_app = scene.complaint(course.seen, course.sent)
        complaints = [f"to the app: {by_app}"] if by_app is not None else []
        places = await admin.whereabouts([sent.id for sent in course.sent])
        for sent in course.sent:
            place, state = places.get(sent.id, scenes.NOWHERE)
            if (place, state) != scene.ends_as:
                complaints.append(f"to the database: {sent.key} ended as {place} {state}".rstrip())
        if scene.event is not None:
            (schedule,) = await admin.schedules(scenes.CRON_ID)
            if schedule.last_at is None:
                complaints.append("to the database: no tick has fired")
        return Verdict(scene, tuple(complaints))

    def _seen(self, seen: Seen) -> None:
        for course in self._courses:
            if course.scene.owns(seen):
                course.seen.append(seen)
        self._customer.heard(seen)
        self._tell(f"app     {seen.told()}")

    def _logged(self, line: str) -> None:
        names = {sent.id: sent.key or "" for course in self._courses if course.scene.order for sent in course.sent}
        words = plain_words(line, names)
        if words is not None:
            self._tell(f"server  {words}")

    def _tell(self, what: str) -> None:
        self._say(f"{time.monotonic() - self._started:6.2f} s  {what}")


def _is_over(scene: Scene, place: tuple[str, str] | None) -> bool:
    """Whether a job is where it can stay. One that is nowhere yet, and should be somewhere, is still on its way."""
    return scene.ends_as == scenes.NOWHERE if place is None else place[0] != "job"
