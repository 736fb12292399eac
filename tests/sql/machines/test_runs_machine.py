"""Any order of the calls that act on durable runs (protocol v2), each compared with a model, on a real Postgres."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
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

from tests.sql import runs as sql
from tests.sql.machines.runs_model import (
    CANCELLED,
    DELIVERY_BUDGET,
    MAX_ATTEMPTS,
    PAID,
    PLACED,
    RENDER,
    Run,
    Runs,
)  # fmt: skip
from tests.sql.machines.world import EVENTUALLY, World, effort, leased_order
from tests.sql.runs import RunsDaemon, Segment

if TYPE_CHECKING:
    from hypothesis import settings

ERROR = {"type": "ValueError", "message": "no"}
orders = st.integers(1, 2)
events = st.sampled_from([PLACED, PLACED, RENDER, PAID, CANCELLED])
picks = st.integers(0, 7)


class Delivery:
    """A run that a daemon believes to deliver."""

    def __init__(self, daemon: RunsDaemon, segment: Segment) -> None:
        self.daemon = daemon
        self.segment = segment
        self.said: list[dict[str, Any]] = []
        """In the last flush."""


class RunsMachine(RuleBasedStateMachine):
    """Does the same to the database and to the model."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.model = Runs()
        self.deliveries: list[Delivery] = []
        self.expired: set[int] = set()
        self.names = 0

    @initialize()
    def begin(self) -> None:
        self.world.clear()
        self.world.run(sql.register(self.world.connection))
        self.daemons = [self._daemon(), self._daemon()]
        self.deliver(0, PLACED, 1)

    def _daemon(self) -> RunsDaemon:
        return RunsDaemon(self.world.daemon(), self.world.connection)

    def _fresh(self) -> str:
        self.names += 1
        return f"s{self.names:03}"

    def _made(self, run: str | None) -> tuple[int, str] | None:
        return None if run is None else (self.world.value("select id from slayq.job where run_id = $1", run), str(run))

    # Sending

    @rule(event=events, order=orders, send_id=st.none() | st.sampled_from(["i", "j"]), due=st.booleans())
    def send(self, event: str, order: int, send_id: str | None, due: bool) -> None:
        """Twice under an id: once."""
        data = json.dumps({"order": order})
        call = self.world.connection.fetchval(
            "select slayq.send($1, $2, $3, run_at => now() + $4)", event, data, send_id, EVENTUALLY if not due else None
        )
        known = self.model.ids.get(send_id or "")
        if known is not None and known[0] != event:
            with pytest.raises(asyncpg.PostgresError) as caught:
                self.world.run(call)
            assert "SQ014" == caught.value.sqlstate
            return
        run = self.world.run(call)
        if known is not None:
            assert known[1] == (run and str(run))
            return
        assert (event in MAX_ATTEMPTS) == (run is not None)
        self.model.send(event, order, self._made(run), due=due)
        if send_id is not None:
            self.model.ids[send_id] = (event, run and str(run))

    @precondition(lambda self: self.deliveries)
    @rule()
    def register(self) -> None:
        """The same app again, with another manifest of the same functions."""
        self.world.run(sql.register(self.world.connection, url=f"https://app.example.com/{self.model.calls}"))

    # Delivering

    @rule(daemon=st.integers(0, 1), free=st.integers(1, 3))
    def lease(self, daemon: int, free: int) -> None:
        holder = self.daemons[daemon]
        rows = self.world.rows("select id, priority, run_at from slayq.job where state = 'ready'")
        expected = [] if holder.daemon.worker_id in self.expired else leased_order(rows)[:free]
        taken = self.world.run(holder.lease(free))
        assert expected == [segment.id for segment in taken]
        self.model.lease(holder.daemon.worker_id, expected)
        for segment in taken:
            run = self.model.live[segment.id]
            assert (run.lease, run.attempts, run.run) == (segment.lease, segment.attempts, segment.run["id"])
            finished = sorted((s for s in run.steps.values() if s.number), key=lambda step: step.number or 0)
            told = [step["name"] for step in segment.run["steps"]]
            assert [step.name for step in finished] == told[: len(finished)]
            assert set(run.steps) == set(told)
            self.deliveries.append(Delivery(holder, segment))

    @rule(daemon=st.integers(0, 1), event=st.sampled_from([PLACED, PLACED, RENDER]), order=orders)
    def deliver(self, daemon: int, event: str, order: int) -> None:
        """Something new, and all that is due with it: most rules need something that is being delivered."""
        self.send(event, order, None, due=True)
        self.promote()
        self.lease(daemon, 3)

    def _good(self, delivery: Delivery) -> Run | None:
        """The run of a delivery, if its lease is still good."""
        run = self.model.live.get(delivery.segment.id)
        holder = delivery.daemon.daemon.worker_id
        good = run is not None and run.worker == holder and run.lease == delivery.segment.lease
        return run if good else None

    def _flush(self, delivery: Delivery) -> Any:
        """What is said is kept, to be said again."""
        delivery.said = list(delivery.segment.ops)
        (row,) = self.world.run(delivery.daemon.flush(delivery.segment))
        return row

    def _tell(self, which: int) -> tuple[Delivery, Run | None]:
        delivery = self.deliveries[which % len(self.deliveries)]
        return delivery, self._good(delivery)

    def _verdict(self, run: Run | None) -> str:
        return "stale" if run is None else "dropped" if run.cancelled else "ok"

    @precondition(lambda self: self.deliveries)
    @rule(which=picks, count=st.integers(1, 2), again=st.booleans())
    def run_steps(self, which: int, count: int, again: bool) -> None:
        """Steps that run; perhaps one that has failed before."""
        delivery, run = self._tell(which)
        names = [self._fresh() for _ in range(count)]
        if again and run is not None and (failed := run.pending("run")):
            names[0] = failed[0].name
        for name in names:
            delivery.segment.step(name, {"of": name})
        verdict = self._verdict(run)
        assert verdict == self._flush(delivery)["verdict"]
        if verdict == "ok" and run is not None:
            for name in names:
                self.model.step(run, name, {"of": name})

    @precondition(lambda self: self.deliveries)
    @rule(which=picks, final=st.booleans())
    def fail_step(self, which: int, final: bool) -> None:
        delivery, run = self._tell(which)
        failed = run.pending("run") if run is not None else []
        name, attempt = (failed[0].name, failed[0].attempts + 1) if failed else (self._fresh(), 1)
        delivery.segment.say("step_failed", name, ERROR, seconds=3600.0, attempts=attempt, final=final)
        verdict = self._verdict(run)
        assert verdict == self._flush(delivery)["verdict"]
        if verdict == "ok" and run is not None:
            self.model.step_failed(run, name, ERROR, attempt, final=final)

    @precondition(lambda self: self.deliveries)
    @rule(
        which=picks,
        kind=st.sampled_from(["sleep", "wait", "wait", "invoke"]),
        order=orders,
        ends=st.booleans(),
        data=st.data(),
    )
    def pend(self, which: int, kind: str, order: int, ends: bool, data: st.DataObject) -> None:
        """Something that takes its time; a wait that the function has not declared is refused."""
        delivery, run = self._tell(which)
        name, seconds = self._fresh(), 3600.0 if ends else None
        if kind == "sleep":
            delivery.segment.sleep(name)
        elif kind == "wait":
            delivery.segment.wait(name, str(order), seconds=seconds)
        else:
            delivery.segment.invoke(name, {"order": order}, seconds=seconds)
        expected = self._verdict(run)
        row = self._flush(delivery)
        if expected == "ok" and run is not None:
            if kind == "sleep":
                self.model.sleep(run, name)
            elif kind == "wait":
                expected = "ok" if self.model.wait(run, name, order, ends=ends) else "refused"
            else:
                callee = self.world.value(
                    "select match_value from slayq.step where job_id = $1 and name = $2", run.id, name
                )
                made = self._made(callee)
                assert made is not None
                self.model.create(RENDER, order, made)
                self.model.invoke(run, name, callee, ends=ends)
        assert expected == row["verdict"], row["note"]

    @precondition(lambda self: any(self._waiter(delivery) for delivery in self.deliveries))
    @rule(order=orders, count=st.integers(1, 2), sooner=st.booleans())
    def wait_for_what_comes(self, order: int, count: int, sooner: bool) -> None:
        """Some waits for one and the same thing, which happens before or after, once."""
        delivery = next(delivery for delivery in self.deliveries if self._waiter(delivery))
        run = self._good(delivery)
        assert run is not None
        if sooner:
            self.send(PAID, order, None, due=True)
        names = [self._fresh() for _ in range(count)]
        for name in names:
            delivery.segment.wait(name, str(order))
        assert "ok" == self._flush(delivery)["verdict"]
        for name in names:
            self.model.wait(run, name, order, ends=True)
        if not sooner:
            self.send(PAID, order, None, due=True)

    def _waiter(self, delivery: Delivery) -> bool:
        run = self._good(delivery)
        return run is not None and run.event == PLACED and not run.cancelled

    @precondition(lambda self: self.deliveries)
    @rule(which=picks, events=st.lists(st.tuples(events, orders), max_size=2))
    def send_from_a_step(self, which: int, events: list[tuple[str, int]]) -> None:
        """A run may so cancel itself, or others."""
        delivery, run = self._tell(which)
        name = self._fresh()
        delivery.segment.say("send", name, [{"event": event, "data": {"order": order}} for event, order in events])
        expected = self._verdict(run)
        row = self._flush(delivery)
        if expected == "ok" and run is not None:
            output = self.world.value("select output from slayq.step where job_id = $1 and name = $2", run.id, name)
            runs = json.loads(output)
            for (event, order), made in zip(events, runs, strict=True):
                # One that a later event of the same send has cancelled again has left no row.
                found = self._made(made)
                if event in MAX_ATTEMPTS and found is not None and found[0] is None:
                    continue
                self.model.send(event, order, found)
            self.model.sent(run, name, runs)
            expected = self._verdict(run)
        assert expected == row["verdict"], row["note"]

    @precondition(lambda self: any(delivery.said for delivery in self.deliveries))
    @rule(which=picks)
    def flush_again(self, which: int) -> None:
        """The answer to a flush was lost: to write the same once more changes nothing."""
        told = [delivery for delivery in self.deliveries if delivery.said]
        delivery = told[which % len(told)]
        run = self._good(delivery)
        delivery.segment.ops = list(delivery.said)
        row = self._flush(delivery)
        if run is None or run.cancelled:
            assert self._verdict(run) == row["verdict"]
        else:
            assert row["verdict"] in ("ok", "refused")  # what was refused is so again

    @precondition(lambda self: self.deliveries)
    @rule(
        which=picks, keep_done=st.booleans(),
        how=st.sampled_from(
            ["suspended", "suspended", "done", "retried", "dead", "undelivered", "released", "put_off"]
        ),
    )  # fmt: skip
    def end(self, which: int, how: str, keep_done: bool) -> None:
        """A segment ends. Under a lease that is no longer good nothing changes."""
        delivery, run = self._tell(which)
        self.deliveries.remove(delivery)
        if how in ("retried", "undelivered") and run is not None:
            used_up = (
                run.attempts >= MAX_ATTEMPTS[run.event] if how == "retried" else run.failures + 1 >= DELIVERY_BUDGET
            )
            how = "dead" if used_up else how  # as the engine decides
        blamed = (
            [step.name for step in run.steps.values() if step.state == "failed" and step.kind == "run"] if run else []
        )
        end: dict[str, Any] = {
            "done": {"output": {"n": 1}},
            "dead": {"error": "no", "reason": "attempts-exhausted", "output": blamed},
            "retried": {"error": "no", "delay": 600.0},
            "undelivered": {"error": "away", "delay": 600.0},
            "put_off": {"reason": "https://app.example.com", "delay": 600.0},
        }.get(how, {})
        delivery.segment.ends(how, **end)
        (row,) = self.world.run(delivery.daemon.flush(delivery.segment, keep_done=keep_done))
        verdict = self._verdict(run)
        assert {"ok": "settled"}.get(verdict, verdict) == row["verdict"]
        if run is None:
            return
        if verdict == "dropped":
            self.model._gone(run, "cancelled")
        else:
            self.model.end(
                run, how, delivery.segment.run["seen"] and self._seen(delivery), {"n": 1} if how == "done" else blamed
            )

    def _seen(self, delivery: Delivery) -> int:
        """The model's number of the last outcome that the app was told of."""
        run = self.model.live[delivery.segment.id]
        told = {step["name"] for step in delivery.segment.run["steps"] if step["state"] != "pending"}
        return max((step.number or 0 for step in run.steps.values() if step.name in told), default=0)

    @precondition(lambda self: self.deliveries)
    @rule(daemon=st.integers(0, 1))
    def expire(self, daemon: int) -> None:
        self.world.run(self.daemons[daemon].daemon.expire(self.world.connection))
        self.expired.add(self.daemons[daemon].daemon.worker_id)

    @precondition(lambda self: self.expired & {each.daemon.worker_id for each in self.daemons})
    @rule()
    def reap(self) -> None:
        reaped, _ = self.world.run(self.world.store.reap(100))
        assert self.model.reap(self.expired) == {each.job_id: each.fate for each in reaped}
        self.daemons = [self._daemon() if d.daemon.worker_id in self.expired else d for d in self.daemons]

    @precondition(lambda self: self.model.live)
    @rule(which=picks)
    def fail_often(self, which: int) -> None:
        """So many deliveries came to nothing that the next one is the last."""
        run = list(self.model.live.values())[which % len(self.model.live)]
        run.failures = DELIVERY_BUDGET - 1
        self.world.do("update slayq.job set delivery_failures = $2 where id = $1", run.id, run.failures)

    # What is waited for

    @precondition(lambda self: any(not event.matched for event in self.model.events))
    @rule()
    def match(self) -> None:
        self.world.run(self.daemons[0].match())
        self.model.match()

    @precondition(lambda self: any(run.state == "scheduled" for run in self.model.live.values()))
    @rule()
    def promote(self) -> None:
        self.world.run(self.daemons[0].promote())
        self.model.promote()

    @precondition(lambda self: self.model.live)
    @rule(which=picks)
    def time_passes(self, which: int) -> None:
        """Up to when all that a run waits for ends by itself."""
        run = list(self.model.live.values())[which % len(self.model.live)]
        self._time_passes(run)

    def _time_passes(self, run: Run) -> None:
        self.world.do(
            """update slayq.step set due_at = now()
            where job_id = $1 and state = 'pending' and isfinite(due_at) and due_at > now()""",
            run.id,
        )
        self.world.do(
            "update slayq.job set run_at = now() where id = $1 and state = 'scheduled' and run_at < '9999-01-01'",
            run.id,
        )
        self.model.time_passes(run)

    # What is taken away, and put back

    @precondition(lambda self: self.model.all())
    @rule(which=picks)
    def cancel(self, which: int) -> None:
        """By id. A dead letter is none any more."""
        runs = self.model.all()
        run = runs[which % len(runs)]
        alive = run.id in self.model.live
        assert alive == self.world.value("select slayq.cancel($1)", run.run)
        if alive:
            self.model.cancel(run)

    @precondition(lambda self: self.model.live)
    @rule(which=picks, how=st.sampled_from(["complete_jobs", "permanently_fail_jobs"]))
    def end_by_hand(self, which: int, how: str) -> None:
        run = list(self.model.live.values())[which % len(self.model.live)]
        leased = run.state == "leased"
        assert (0 if leased else 1) == len(self.world.rows(f"select from slayq.{how}($1)", [run.id]))
        if not leased and how == "complete_jobs":
            self.model._gone(run, "removed")
        elif not leased:
            run.attempts = MAX_ATTEMPTS[run.event]
            self.model.bury(run, "failed-by-operator")

    @precondition(lambda self: self.model.letters)
    @rule(which=picks)
    def redrive(self, which: int) -> None:
        run = list(self.model.letters.values())[which % len(self.model.letters)]
        assert [run.id] == [row["id"] for row in self.world.rows("select slayq._redrive_1($1) as id", [run.id])]
        self.model.redrive(run)

    @precondition(lambda self: self.model.letters)
    @rule(which=picks)
    def purge(self, which: int) -> None:
        run = list(self.model.letters.values())[which % len(self.model.letters)]
        self.world.do("delete from slayq.dead_letter where id = $1", run.id)
        self.model.purge(run)

    # What must hold

    @invariant()
    def agrees(self) -> None:
        """The tables are as the model says, and keep the rules that no call may break."""
        self.model.calls += 1
        model = self.model
        rows = self.world.rows("select *, run_at <= now() as due from slayq.job")
        assert {
            run.id: (
                run.run, run.event, run.state, run.attempts, run.failures, run.lease, run.worker, run.parked,
                run.cancelled, run.due,
            )
            for run in model.live.values()
        } == {
            row["id"]: (
                str(row["run_id"]), row["event"], row["state"], row["attempts"], row["delivery_failures"], row["lease"],
                row["worker_id"], row["parked"], row["cancelled"], row["due"],
            )
            for row in rows
        }  # fmt: skip
        letters = self.world.rows("select * from slayq.dead_letter")
        assert {run.id: (run.run, run.reason, run.attempts, run.lease) for run in model.letters.values()} == {
            row["id"]: (str(row["run_id"]), row["reason"], row["attempts"], row["lease"]) for row in letters
        }
        self._steps_agree()
        told = self.world.rows("select * from slayq.event order by id")
        assert [(e.order, e.callee, e.failed, e.matched) for e in model.events] == [
            (
                int(row["match_value"]) if row["kind"] == "event" else None,
                row["match_value"] if row["kind"] == "invocation" else None, row["state"] == "failed", row["matched"],
            )
            for row in told
        ]  # fmt: skip
        # No invoker waits for what will never be told.
        alive = {run.run for run in model.live.values()} | {event.callee for event in model.events}
        assert {step.callee for run in model.all() for step in run.pending("invoke")} <= alive

    def _steps_agree(self) -> None:
        """And each run's outcomes came in the order of their numbers."""
        rows = self.world.rows("select * from slayq.step order by job_id, number, name")
        assert {
            (run.id, step.name): (
                step.kind, step.state, None if step.state == "failed" and step.kind == "invoke" else step.value,
                step.attempts, step.blamed, step.number is None, step.callee,
            )
            for run in self.model.all() for step in run.steps.values()
        } == {
            (row["job_id"], row["name"]): (
                row["kind"], row["state"],
                json.loads(row["output"] or (row["kind"] != "invoke" and row["error"]) or "null"),
                row["attempts"], row["blamed"], row["number"] is None,
                row["match_value"] if row["kind"] == "invoke" else None,
            )
            for row in rows
        }  # fmt: skip
        for run in self.model.all():
            finished = sorted((s for s in run.steps.values() if s.number), key=lambda step: step.number or 0)
            ordered = [row["name"] for row in rows if row["job_id"] == run.id and row["number"] is not None]
            assert [step.name for step in finished] == ordered

    def drain(self) -> None:
        """With nothing new, and all time gone by, each run ends, and its steps with it; those who invoked are told."""
        for daemon in (0, 1):
            self.expire(daemon)
        self.reap()
        while self.model.live:
            for run in list(self.model.live.values()):
                self._time_passes(run)
                if run.state == "scheduled" and not run.due:
                    self.cancel(list(self.model.all()).index(run))  # it waits for ever, as it was told to
            self.match()
            self.promote()
            self.agrees()
            before = len(self.deliveries)
            self.lease(0, 3)
            assert len(self.deliveries) > before or not self.model.live, "nothing can be leased, though runs are left"
            while len(self.deliveries) > before:
                self.end(before, "done", keep_done=False)
        self.match()
        self.agrees()
        assert not any(event.callee for event in self.model.events)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # what has failed already need not fail again
            self.drain()


def run(url: str, how_much: settings) -> None:
    with World.of(url) as world:

        class Machine(RunsMachine):
            pass

        Machine.world = world
        run_state_machine_as_test(Machine, settings=how_much)


@pytest.mark.timeout(400)
def test_runs_follow_the_model(database_url: str) -> None:
    """After each of many calls all runs, steps and events are as the model says, and at the end nothing is lost."""
    run(database_url, effort(25, 40))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_runs_follow_the_model_for_long(database_url: str) -> None:
    """Further, and other ones each time."""
    run(database_url, effort(400, 100, same=False))
