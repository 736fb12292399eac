"""Any order of the calls that act on jobs (protocol v1), each compared with a model, on a real Postgres.

What hypothesis finds it shrinks to a few calls, and prints them as a program.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.sql import support
from tests.sql.machines.jobs_model import BACK_OFF, DUE, PUT_OFF, Jobs
from tests.sql.machines.world import World, effort, ids, leased_order
from tests.sql.support import EVENT, URL, Daemon, buried, completed, failed, put_off, released

if TYPE_CHECKING:
    from hypothesis import settings

    from slayq_server.model import LeasedJob

QUEUES = ("mail", "bulk")
KEYS = ("a", "b")
FAR = {f"in {year}": datetime(year, 1, 1, tzinfo=UTC) for year in (2200, 2300)}
"""Times that a caller gives, by what the model calls them."""
ENDS = {"completed": completed, "failed": failed, "dead": buried, "released": released, "put off": put_off}

queues = st.sampled_from(QUEUES)
keys = st.sampled_from(KEYS)
users = st.integers(1, 2)
times = st.sampled_from([DUE, *FAR])
steps = st.sampled_from(["s", "t"])
picks = st.integers(0, 7)
"""Which one of several, counted round and round."""
payloads = st.one_of(
    st.builds(lambda user: _payload(user), users),
    st.builds(lambda user, cache: _payload(user, cache), users, st.sampled_from([{}, {"done": 1}])),
    st.builds(lambda user: [_payload(user)], users),
)


def _payload(user: int, cache: Any = None) -> dict[str, Any]:
    whole = {"url": URL, "event": EVENT, "data": {"user": user}}
    return whole if cache is None else {**whole, "cache": cache}


def kind_of_time(row: Any) -> str:
    """What the model calls the time of a row."""
    far = [name for name, time in FAR.items() if row["run_at"] == time]
    return far[0] if far else DUE if row["run_at"] <= row["now"] else BACK_OFF


class JobsMachine(RuleBasedStateMachine):
    """Does the same to the database and to the model."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.model = Jobs()
        self.held: list[tuple[Daemon, LeasedJob]] = []
        """What daemons believe to hold, whether they do or not."""
        self.expired: set[int] = set()

    @initialize()
    def begin(self) -> None:
        self.world.clear()
        for name in QUEUES:  # a back-off ends when a rule says so, not by itself
            self.world.do(
                "insert into slayq.queue (name, backoff_base, backoff_factor, backoff_jitter) values ($1, 600, 1, 0)",
                name,
            )
        self.daemons = [self.world.daemon(), self.world.daemon()]

    # Adding

    @rule(
        key=st.none() | keys, queue=queues, payload=payloads, when=times, priority=st.none() | st.integers(-1, 1),
        max_attempts=st.none() | st.integers(1, 2),
        mode=st.sampled_from(["replace", "replace", "preserve_run_at", "unsafe_dedupe"]),
    )  # fmt: skip
    def add(
        self, key: str | None, queue: str, payload: Any, when: str, priority: int | None, max_attempts: int | None,
        mode: str,
    ) -> None:  # fmt: skip
        self._add(key, queue, payload, when, priority, max_attempts, mode)

    @precondition(lambda self: any(leased.job_key for _, leased in self.held))
    @rule(which=picks, when=times, max_attempts=st.none() | st.integers(1, 2))
    def add_again(self, which: int, when: str, max_attempts: int | None) -> None:
        """As an app does with what it was called for: a continuation, or the report of a failed step."""
        candidates = [leased for _, leased in self.held if leased.job_key]
        leased = candidates[which % len(candidates)]
        payload = json.loads(leased.payload)
        if isinstance(payload, dict):
            payload["cache"] = {"again": leased.lease}
        self._add(leased.job_key, leased.queue, payload, when, None, max_attempts, "replace")

    def _add(
        self, key: str | None, queue: str, payload: Any, when: str, priority: int | None, max_attempts: int | None,
        mode: str,
    ) -> None:  # fmt: skip
        row = self.world.run(
            support.add(
                self.world.connection, key, queue=queue, raw=json.dumps(payload), run_at=FAR.get(when),
                priority=priority, max_attempts=max_attempts, mode=mode,
            )
        )  # fmt: skip
        newest = self.world.value("select max(id) from slayq.dead_letter")
        self.model.add(
            row["id"], newest, queue=queue, key=key, payload=payload, when=when, priority=priority,
            max_attempts=max_attempts, mode=mode,
        )  # fmt: skip

    # Delivering

    @rule(
        daemon=st.integers(0, 1), queue=st.sampled_from([*((name,) for name in QUEUES), QUEUES]), free=st.integers(1, 3)
    )
    def lease(self, daemon: int, queue: tuple[str, ...], free: int) -> None:
        holder = self.daemons[daemon]
        rows = self.world.rows("select id, queue, priority, run_at from slayq.job where state = 'ready'")
        served = [row for row in rows if row["queue"] in queue and row["queue"] not in self.model.paused]
        expected = [] if holder.worker_id in self.expired else leased_order(served)[:free]
        taken = self.world.run(holder.lease(*queue, free=free))
        assert expected == ids(taken)
        self.model.lease(holder.worker_id, expected)
        for leased in taken:
            job = self.model.jobs[leased.id]
            assert (job.lease, job.attempts, job.key) == (leased.lease, leased.attempts, leased.job_key)
        self.held += [(holder, leased) for leased in taken]

    @rule(daemon=st.integers(0, 1), key=keys, user=users, max_attempts=st.none() | st.integers(1, 2))
    def deliver(self, daemon: int, key: str, user: int, max_attempts: int | None) -> None:
        """Something new, and all that is due with it: many rules need something that is being delivered."""
        self._add(key, "mail", _payload(user), DUE, None, max_attempts, "replace")
        self.promote()
        self.lease(daemon, QUEUES, 3)

    @precondition(lambda self: self.held)
    @rule(which=picks, how=st.sampled_from(sorted(ENDS)), keep_done=st.booleans())
    def settle(self, which: int, how: str, keep_done: bool) -> None:
        """A delivery ends. A lease that is no longer good changes nothing."""
        daemon, leased = self.held.pop(which % len(self.held))
        job = self.model.jobs.get(leased.id)
        good = job is not None and job.leased and job.worker == daemon.worker_id and job.lease == leased.lease
        if good and how == "failed" and leased.attempts >= leased.max_attempts:
            how = "dead"  # as the engine decides
        settled = self.world.run(daemon.settle(ENDS[how](leased), keep_done=keep_done))
        expected = self.model.settle(job, how) if good and job else "stale"
        assert {leased.id: expected} == settled.verdicts

    @precondition(lambda self: any(job.when == PUT_OFF for job in self.model.jobs.values()))
    @rule()
    def bring_forward(self) -> None:
        """Whoever has been given another time meanwhile is left alone."""
        number, _ = self.world.run(self.world.store.bring_forward("https://app.example.com", 100, None))
        assert self.model.bring_forward() == number

    @rule(daemon=st.integers(0, 1))
    def renew(self, daemon: int) -> None:
        worker = self.daemons[daemon].worker_id
        beat = self.world.run(self.world.store.renew_worker(worker, 600.0, list(QUEUES)))
        assert (worker not in self.expired) == beat.held
        ready = {job.queue for job in self.model.jobs.values() if job.state == "ready"} - self.model.paused
        assert ready == set(beat.ready)

    @precondition(lambda self: self.held)
    @rule(daemon=st.integers(0, 1))
    def expire(self, daemon: int) -> None:
        """A daemon is gone, or has been silent for too long."""
        self.world.run(self.daemons[daemon].expire(self.world.connection))
        self.expired.add(self.daemons[daemon].worker_id)

    @precondition(lambda self: self.expired & {each.worker_id for each in self.daemons})
    @rule()
    def reap(self) -> None:
        reaped, _ = self.world.run(self.world.store.reap(100))
        assert self.model.reap(self.expired) == {each.job_id: each.fate for each in reaped}
        self.daemons = [self.world.daemon() if each.worker_id in self.expired else each for each in self.daemons]

    @precondition(lambda self: any(job.state == "scheduled" for job in self.model.jobs.values()))
    @rule()
    def promote(self) -> None:
        self.world.run(self.world.store.promote(100))
        self.model.promote()

    @precondition(lambda self: any(job.when != DUE for job in self.model.pending()))
    @rule(which=picks)
    def time_passes(self, which: int) -> None:
        """Up to when a parked job is due."""
        parked = [job for job in self.model.pending() if job.when != DUE]
        job = parked[which % len(parked)]
        self.world.run(support.make_due(self.world.connection, job.id))
        job.when = DUE

    # Waiting

    @rule(key=keys, user=users, step=steps)
    def wait_for_event(self, key: str, user: int, step: str) -> None:
        self.world.run(support.wait_event(self.world.connection, key, "paid", "user", str(user), step))
        self.model.wait(key, step, ("paid", "user", str(user)))

    @rule(key=keys, callee=keys, step=steps)
    def wait_for_invocation(self, key: str, callee: str, step: str) -> None:
        self.world.run(support.wait_invocation(self.world.connection, key, callee, step))
        self.model.wait(key, step, (callee,))

    @rule(user=users)
    def trigger(self, user: int) -> None:
        self.world.run(support.trigger(self.world.connection, "paid", "user", str(user)))
        self.model.trigger(("paid", "user", str(user)), True)

    @rule(callee=keys, result=st.sampled_from([None, 1, {"x": []}]))
    def trigger_invoker(self, callee: str, result: Any) -> None:
        self.world.run(support.trigger_invoker(self.world.connection, callee, json.dumps(result)))
        self.model.trigger((callee,), result)

    # What apps and operators take away, change, and put back

    @rule(user=users)
    def cancel(self, user: int) -> None:
        self.world.run(support.cancel(self.world.connection, EVENT, "user", str(user)))
        self.model.cancel(user)

    @rule(queue=queues, paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        statement = """insert into slayq.queue (name, paused) values ($1, $2)
            on conflict (name) do update set paused = excluded.paused"""
        self.world.do(statement, queue, paused)
        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @rule(key=keys)
    def remove(self, key: str) -> None:
        assert self.model.remove(key) == self.world.value("select id from slayq.remove_job($1)", key)

    @precondition(lambda self: self.model.jobs)
    @rule(which=picks, how=st.sampled_from(["complete_jobs", "permanently_fail_jobs"]))
    def end_by_hand(self, which: int, how: str) -> None:
        """What is being delivered is left alone."""
        job = list(self.model.jobs.values())[which % len(self.model.jobs)]
        ended = self.world.rows(f"select id from slayq.{how}($1)", [job.id])
        assert ([] if job.leased else [job.id]) == [row["id"] for row in ended]
        if not job.leased:
            (self.model.complete if how == "complete_jobs" else self.model.fail_for_good)(job)

    @precondition(lambda self: self.model.jobs or self.model.letters)
    @rule(
        which=picks, when=st.none() | times, priority=st.none() | st.integers(-1, 1),
        attempts=st.none() | st.integers(0, 1), max_attempts=st.none() | st.integers(1, 3),
    )  # fmt: skip
    def reschedule(
        self, which: int, when: str | None, priority: int | None, attempts: int | None, max_attempts: int | None
    ) -> None:
        """A dead letter comes back by it, too."""
        known = [*self.model.jobs, *self.model.letters]
        chosen = known[which % len(known)]
        letter = self.model.letters.get(chosen)
        if letter is not None:
            self.model.redrive(letter)
        job = self.model.jobs.get(chosen)
        changed = self.world.rows(
            """select id from slayq.reschedule_jobs($1, run_at => case when $3 then now() else $2 end, priority => $4,
            attempts => $5, max_attempts => $6)""",
            [chosen], FAR.get(when or ""), when == DUE, priority, attempts, max_attempts,
        )  # fmt: skip
        assert (0 if job is None or job.leased else 1) == len(changed)
        if job is not None and not job.leased:
            self.model.reschedule(job, when, priority, attempts, max_attempts)

    @precondition(lambda self: self.model.letters)
    @rule(which=picks)
    def redrive(self, which: int) -> None:
        letter = list(self.model.letters.values())[which % len(self.model.letters)]
        back = self.world.rows("select id from slayq._redrive_1($1) as id", [letter.id])
        assert ([letter.id] if self.model.redrive(letter) else []) == [row["id"] for row in back]

    # What must hold

    @invariant()
    def agrees(self) -> None:
        """The tables are as the model says, and keep the rules that no call may break."""
        self.model.calls += 1
        rows = self.world.rows("select *, now() as now from slayq.job")
        assert {job.id: job.shown for job in self.model.jobs.values()} == {
            row["id"]: (
                row["queue"], row["job_key"], json.loads(row["payload"]), row["state"], kind_of_time(row),
                row["priority"], row["max_attempts"], row["attempts"], row["revision"], row["lease"], row["worker_id"],
                row["superseded"], row["cancelled"], row["patches"] and json.loads(row["patches"]), row["last_error"],
            )
            for row in rows
        }  # fmt: skip
        letters = self.world.rows("select * from slayq.dead_letter")
        assert {letter.id: letter.shown for letter in self.model.letters.values()} == {
            row["id"]: (
                row["reason"], row["queue"], row["job_key"], json.loads(row["payload"]), row["priority"],
                row["max_attempts"], row["attempts"], row["lease"], row["patches"] and json.loads(row["patches"]),
                row["last_error"],
            )
            for row in letters
        }  # fmt: skip
        waits = self.world.rows("select * from slayq.wait order by id")
        assert sorted((wait.job, wait.step, wait.what) for wait in self.model.waits) == sorted(
            (
                row["job_id"], row["step_name"],
                (row["target_key"],) if row["target_key"] else (row["event"], row["match_key"], row["match_value"]),
            )
            for row in waits
        )  # fmt: skip
        for row in rows:
            assert (row["state"] == "leased") == (row["worker_id"] is not None)
        assert {row["job_id"] for row in waits} <= {row["id"] for row in rows if row["state"] == "scheduled"}

    def drain(self) -> None:
        """With nothing new, all that is left runs to its end, and nothing remains of it but dead letters."""
        for name in QUEUES:
            self.pause(name, paused=False)
        for daemon in (0, 1):
            self.expire(daemon)
        self.reap()
        while self.model.jobs:
            for job in self.model.pending():
                if job.when != DUE:
                    self.time_passes(0)
            self.promote()
            before = len(self.held)
            self.lease(0, QUEUES, 3)
            assert len(self.held) > before, "nothing can be leased, though jobs are left"
            while len(self.held) > before:
                self.settle(before, "completed", keep_done=False)
            self.agrees()
        assert [] == self.world.rows("select from slayq.wait")

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # what has failed already need not fail again
            self.drain()


def run(url: str, how_much: settings) -> None:
    with World.of(url) as world:

        class Machine(JobsMachine):
            pass

        Machine.world = world
        run_state_machine_as_test(Machine, settings=how_much)


@pytest.mark.timeout(400)
def test_jobs_follow_the_model(database_url: str) -> None:
    """After each of many calls every job, letter and wait is as the model says, and at the end nothing is lost."""
    run(database_url, effort(25, 40))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_jobs_follow_the_model_for_long(database_url: str) -> None:
    """Further, and other ones each time."""
    run(database_url, effort(400, 100, same=False))
