"""Random operations on serial queues, each compared with a simple model of who holds which lane (J10)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.sql.support import Daemon, add, completed, failed, later, make_due, released

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from slayq_server.db.store import Store
    from slayq_server.model import LeasedJob

LANES = ("a", "b", "c")
ROUNDS = 1000


@dataclass
class Job:
    """What the model knows of a job."""

    id: int
    lane: str
    priority: int
    run_at: datetime
    state: str = "scheduled"
    holds: bool = False
    attempts: int = 0

    @property
    def order(self) -> tuple[int, datetime, int]:
        return self.priority, self.run_at, self.id


@dataclass
class Model:
    """The rules of serial queues, in a few lines."""

    jobs: dict[int, Job] = field(default_factory=dict)

    def of(self, lane: str, *states: str) -> list[Job]:
        return sorted((j for j in self.jobs.values() if j.lane == lane and j.state in states), key=lambda j: j.order)

    def holder(self, lane: str) -> Job | None:
        held = [job for job in self.jobs.values() if job.lane == lane and job.holds]
        assert len(held) <= 1
        return held[0] if held else None

    def advance(self, lane: str) -> None:
        holder, waiting = self.holder(lane), self.of(lane, "blocked")
        if not waiting:
            return
        # What was delivered before keeps its place.
        may_step_back = holder is not None and holder.state == "ready" and holder.attempts == 0
        if holder and may_step_back and waiting[0].order < holder.order:
            holder.state, holder.holds, holder = "blocked", False, None
        if holder is None:
            waiting[0].state, waiting[0].holds = "ready", True

    def promote(self, now: datetime) -> None:
        due = [job for job in self.jobs.values() if job.state == "scheduled" and job.run_at <= now]
        for job in due:
            job.state = "ready" if job.holds else "blocked"
        for lane in {job.lane for job in due if job.state == "blocked"}:
            self.advance(lane)

    def sweep(self) -> None:
        for lane in LANES:
            if self.holder(lane) is None:
                self.advance(lane)

    def lease(self, free: int) -> list[int]:
        ready = sorted((job for job in self.jobs.values() if job.state == "ready"), key=lambda job: job.order)
        for job in ready[:free]:
            job.state, job.attempts = "leased", job.attempts + 1
        return [job.id for job in ready[:free]]

    def end(self, job_id: int) -> None:
        job = self.jobs.pop(job_id)
        if job.holds:
            self.advance(job.lane)


class Machine:
    """Does the same to the database and to the model."""

    def __init__(self, connection: asyncpg.Connection, daemon: Daemon, seed: int) -> None:
        self.connection = connection
        self.daemon = daemon
        self.random = random.Random(seed)
        self.model = Model()
        self.held: dict[int, LeasedJob] = {}

    async def check(self) -> None:
        """The table says what the model says."""
        rows = await self.connection.fetch("select id, state, holds, run_at, priority from slayq.job")
        actual = {row["id"]: (row["state"], row["holds"], row["priority"]) for row in rows}
        assert actual == {job.id: (job.state, job.holds, job.priority) for job in self.model.jobs.values()}

    def pick(self, *states: str) -> Job | None:
        """A job in one of these states, if there is one."""
        fitting = sorted((job for job in self.model.jobs.values() if job.state in states), key=lambda job: job.id)
        return self.random.choice(fitting) if fitting else None

    def take(self) -> tuple[LeasedJob, Job] | None:
        """A job under delivery, if there is one; it is in our hands no more."""
        if not self.held:
            return None
        job_id = self.random.choice(sorted(self.held))
        return self.held.pop(job_id), self.model.jobs[job_id]

    async def add(self) -> None:
        lane, priority = self.random.choice(LANES), self.random.randint(-2, 2)
        run_at = later() if self.random.random() < 0.3 else None
        row = await add(self.connection, serial=lane, priority=priority, run_at=run_at, max_attempts=999)
        self.model.jobs[row["id"]] = Job(row["id"], lane, priority, row["run_at"])

    async def promote(self) -> None:
        await self.daemon.store.promote(1000)
        self.model.promote(await self.connection.fetchval("select now()"))

    async def sweep(self) -> None:
        await self.daemon.store.advance_headless_lanes(100)
        self.model.sweep()

    async def lease(self) -> None:
        free = self.random.randint(1, 3)
        batch = await self.daemon.lease(free=free)
        assert [each.id for each in batch] == self.model.lease(free)
        self.held.update((each.id, each) for each in batch)

    async def complete(self) -> None:
        if taken := self.take():
            await self.daemon.settle(completed(taken[0]))
            self.model.end(taken[0].id)

    async def fail(self) -> None:
        if taken := self.take():
            leased, job = taken
            strict = self.random.random() < 0.5
            await self.daemon.settle(failed(leased, strict=strict))
            job.state, job.holds = "scheduled", strict
            await self.reread(job)
            self.model.advance(job.lane)

    async def release(self) -> None:
        if taken := self.take():
            await self.daemon.settle(released(taken[0]))
            taken[1].state, taken[1].attempts = "ready", taken[1].attempts - 1

    async def die(self) -> None:
        await self.daemon.expire(self.connection)
        await self.daemon.store.reap(1000)
        self.daemon = await Daemon.register(self.daemon.store)
        for job_id in self.held:
            self.model.jobs[job_id].state = "ready"
        self.held.clear()

    async def remove(self) -> None:
        if job := self.pick("scheduled", "blocked", "ready"):
            await self.connection.execute("select slayq.complete_jobs(array[$1::bigint])", job.id)
            del self.model.jobs[job.id]

    async def reschedule(self) -> None:
        if job := self.pick("scheduled", "blocked", "ready"):
            job.priority = self.random.randint(-3, 3)
            await self.connection.execute(
                "select slayq.reschedule_jobs(array[$1::bigint], priority => $2)", job.id, job.priority
            )
            job.state, job.holds = "scheduled", False

    async def let_time_come(self) -> None:
        if job := self.pick("scheduled"):
            await make_due(self.connection, job.id)
            await self.reread(job)

    async def reread(self, job: Job) -> None:
        """Takes over a time that the database has set."""
        job.run_at = await self.connection.fetchval("select run_at from slayq.job where id = $1", job.id)

    async def step(self) -> None:
        """One operation, and the comparison."""
        weights = {
            self.add: 6, self.promote: 4, self.lease: 4, self.complete: 4, self.fail: 3, self.let_time_come: 4,
            self.sweep: 2, self.remove: 1, self.reschedule: 2, self.release: 1, self.die: 1,
        }  # fmt: skip
        (operation,) = self.random.choices(list(weights), list(weights.values()))
        await operation()
        await self.check()

    async def drain(self) -> None:
        """With nothing new, everything runs to its end."""
        while self.model.jobs:
            for job in self.model.jobs.values():
                if job.state == "scheduled":
                    await make_due(self.connection, job.id)
                    await self.reread(job)
            await self.promote()
            await self.sweep()
            await self.lease()
            assert self.held, "nothing can be leased, though jobs are left"
            while self.held:
                await self.complete()
            await self.check()


@pytest.mark.parametrize("seed", range(3))
async def test_lanes_follow_the_model(connection: asyncpg.Connection, store: Store, seed: int) -> None:
    """J10: after each of many random operations every job is in the state that the model says."""
    machine = Machine(connection, await Daemon.register(store), seed)
    for _ in range(ROUNDS):
        await machine.step()
    await machine.drain()
