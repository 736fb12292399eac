"""The checker, on small histories that are written here: what is right passes, and each wrong is found."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.checker import check, explain, of

if TYPE_CHECKING:
    from tests.chaos.checker import History
    from tests.chaos.records import Record

HASH = "abc"


def sent(name: str = "p1", at: float = 1.0, end: str = "enq_ok", **facts: Any) -> list[Record]:
    """A job is sent."""
    facts = {"queue": "mail", "plan": [], "max_attempts": 25, "lane": None, "hash": HASH, "cancels": False, **facts}
    return [{"at": at, "what": "enq_invoke", "id": name, **facts}, {"at": at + 0.1, "what": end, "id": name}]


def delivered(
    name: str | None = "p1", at: float = 2.0, answer: Any = 200, attempt: int = 1, took: float = 0.1, **more: Any
) -> list[Record]:
    """A job is delivered; no answer: it never ends."""
    seq = f"{name}-{at}"
    facts = {"id": name, "key": "cron", "event": "chaos/job", "signed": True, "hash": HASH, "plan": "ok", **more}
    start = {"at": at, "what": "recv_start", "seq": seq, "attempt": attempt, **facts}
    if answer is None:
        return [start]
    return [start, {"at": at + took, "what": "recv_end", "seq": seq, "answer": answer}]


def fault(kind: str, on: float, off: float) -> list[Record]:
    """A fault."""
    return [{"at": on, "what": "fault_on", "kind": kind, "fault": {}}, {"at": off, "what": "fault_off", "kind": kind}]


def change(job: int, was: str | None, became: str | None, **more: Any) -> Record:
    """A line of the audit."""
    lease = 1 if was == "leased" or became == "leased" else 0
    facts = {"lease_was": 0 if became == "leased" else lease, "lease": lease, "worker": None, "worker_was": None}
    rest = {"event": "chaos/job", "tick": 0.0, "attempts": 0, "max_attempts": 25, "at": 1.0, "what": "change"}
    return {"job": job, "was": was, "became": became, **facts, **rest, **more}


def found(history: History) -> set[str]:
    """The invariants that are broken."""
    return {violation.invariant for violation in check(history)}


def test_all_is_well() -> None:
    """One job, one delivery; one refused; one retried; one that nobody knows of."""
    producer = [*sent(), *sent("p2", end="enq_fail"), *sent("p3", plan=["500"]), *sent("p4", end="enq_unknown")]
    endpoint = [*delivered(), *delivered("p3", answer=500), *delivered("p3", 3.0, attempt=2)]
    assert [] == check(of(producer, endpoint))


class TestJobs:
    """I1 to I4, I8, I9."""

    @pytest.mark.parametrize(
        ("endpoint", "broken"),
        [
            pytest.param([], {"I1"}, id="never delivered"),
            pytest.param(delivered(answer=500), {"I1"}, id="failed and forgotten"),
            pytest.param(delivered(answer="abandoned"), {"I1"}, id="broken off and forgotten"),
            pytest.param(delivered(answer=None), {"I1"}, id="never ended"),
            pytest.param(delivered(hash="other"), {"I2"}, id="data changed"),
            pytest.param(delivered(signed=False), {"I2"}, id="not signed"),
            pytest.param([*delivered(), *delivered("p9")], {"I2"}, id="from nowhere"),
            pytest.param([*delivered(), *delivered(at=9.0)], {"I3"}, id="twice"),
            pytest.param([*delivered(took=3.0, answer=500), *delivered(at=3.0, attempt=2)], {"I4"}, id="two holders"),
            pytest.param([*delivered(answer=500, attempt=2), *delivered(at=4.0)], {"I4"}, id="attempts sink"),
            pytest.param(delivered(attempt=26), {"I8"}, id="too many attempts"),
        ],
    )
    def test_wrongs(self, endpoint: list[Record], broken: set[str]) -> None:
        """Each of them, with nothing else wrong."""
        assert broken == found(of(sent(), endpoint))

    def test_a_duplicate_with_a_cause(self) -> None:
        """Postgres was away when the first delivery ended: it may come again."""
        endpoint = [*delivered(), *delivered(at=9.0)]
        assert set() == found(of(sent(), endpoint, fault("pg_restart", 2.0, 3.0)))
        assert {"I3"} == found(of(sent(), endpoint, fault("pg_restart", 10.0, 11.0)))
        # The lease is 3 s: it may have been lost for want of renewals up to so long after the fault began.
        assert set() == found(of(sent(at=0.1), endpoint, fault("pg_readonly", -1.0, 0.3)))
        assert {"I3"} == found(of(sent(at=0.1), endpoint, fault("pg_readonly", -2.0, 0.3)))
        assert {"I3"} == found(of(sent(), endpoint, fault("daemon_term", 2.0, 3.0)))
        assert set() == found(of(sent(), endpoint, fault("http_cut", 2.0, 2.0)))
        assert {"I3"} == found(of(sent(), endpoint, fault("http_cut", 3.0, 3.0)))

    def test_a_stale_write(self) -> None:
        """The delivery after a success failed, and the job is gone: the success was written down after its lease."""
        endpoint = [*delivered(), *delivered(at=6.0, answer=500, attempt=2)]
        assert {"I9"} == found(of(sent(), endpoint, fault("daemon_freeze", 1.5, 5.5)))

    @pytest.mark.parametrize(
        ("kind", "is_a_cause"),
        [
            ("daemon_stall", True), ("pg_backend_kill", True), ("pg_crowded", True), ("pg_disk_full", True),
            ("clock_jump", False), ("vacuum_held", False),
        ],
    )  # fmt: skip
    def test_what_may_keep_a_success_from_being_written_down(self, kind: str, is_a_cause: bool) -> None:
        """A clock that is wrong, or a transaction that is open, is no excuse."""
        endpoint = [*delivered(), *delivered(at=9.0)]
        assert (set() if is_a_cause else {"I3"}) == found(of(sent(), endpoint, fault(kind, 2.0, 3.0)))

    def test_a_certificate_that_nobody_vouches_for(self) -> None:
        """The app must never see the job, whose end is a dead letter."""
        history = of(sent(plan=["tls", "tls"], max_attempts=2), [])
        assert {"I8"} == found(history)
        history.final = {"dead": ["p1"]}
        assert set() == found(history)
        history = of(sent(plan=["tls", "tls"], max_attempts=2), delivered())
        assert {"I2"} == found(history)

    def test_a_redirect_that_was_followed(self) -> None:
        """It must not be."""
        assert {"I2"} == found(of(sent(), [*delivered(), {"at": 2.2, "what": "recv_followed"}]))

    def test_a_frozen_daemon_may_overlap(self) -> None:
        """Nobody can end what it holds open; anyone else's would be wrong."""
        endpoint = [*delivered(took=9.0), *delivered(at=6.0, attempt=2)]
        assert set() == found(of(sent(), endpoint, fault("daemon_freeze", 2.1, 8.0)))
        assert {"I4"} == found(of(sent(), endpoint, fault("pg_silence", 2.1, 8.0)))

    def test_dead_letters(self) -> None:
        """They are an end; of a job that must die there is one."""
        history = of(sent(plan=["666"]), delivered(answer=666))
        assert {"I1", "I8"} == found(history)
        history.final = {"dead": ["p1"]}
        assert set() == found(history)

    def test_a_dead_letter_from_nowhere(self) -> None:
        """Nobody sent it."""
        history = of(sent(), delivered())
        history.final = {"dead": ["p7"]}
        assert {"I2"} == found(history)

    def test_refused_and_delivered_all_the_same(self) -> None:
        """Its sender was told that it was not taken."""
        assert {"I2"} == found(of(sent(end="enq_fail"), delivered()))

    def test_sent_twice(self) -> None:
        """Who could not know sends again: two deliveries are right."""
        producer = [*sent(end="enq_unknown"), *sent(at=5.0)]
        assert set() == found(of(producer, [*delivered(), *delivered(at=9.0)]))

    def test_cancelled(self) -> None:
        """It need not be delivered, and must not be once it is cancelled."""
        producer = [*sent(cancels=True), {"at": 3.0, "what": "cancel_ok", "id": "p1"}]
        assert set() == found(of(producer, []))
        assert set() == found(of(producer, delivered()))
        assert {"I2"} == found(of(producer, delivered(at=8.0)))


class TestQueues:
    """I5 and I6."""

    def two(self, second: float, **facts: Any) -> History:
        """Two jobs, each for a second, the second one from then on."""
        producer = [*sent("p1", 1.0, **facts), *sent("p2", 1.5, **facts)]
        history = of(producer, [*delivered("p1", 2.0, took=1.0), *delivered("p2", second, took=1.0)])
        history.setting = {"limits": {"tight": 1}}
        return history

    def test_a_limit(self) -> None:
        """Held, and exceeded."""
        assert set() == found(self.two(3.0, queue="tight"))
        assert {"I5"} == found(self.two(2.5, queue="tight"))

    def test_a_serial_queue(self) -> None:
        """One at a time, in order."""
        assert set() == found(self.two(3.0, queue="lanes", lane=1))
        assert {"I6"} == found(self.two(2.5, queue="lanes", lane=1))
        assert {"I6"} == found(self.two(0.9, queue="lanes", lane=1))


class TestStates:
    """I7, I10 to I12."""

    def test_a_life(self) -> None:
        """Added, due, leased, retried, leased, done."""
        life = [None, "scheduled", "ready", "leased", None]
        history = of([], [], audit=[change(1, was, became) for was, became in pairwise(life)])
        assert set() == found(history)

    def test_changes_of_one_transaction_in_another_order(self) -> None:
        """The trigger writes a nested statement's changes down first."""
        audit = [
            change(1, None, "scheduled", transaction="1"),
            change(1, "blocked", "ready", transaction="2"),
            change(1, "scheduled", "blocked", transaction="2"),
        ]
        assert set() == found(of([], [], audit=audit))

    @pytest.mark.parametrize(
        "audit",
        [
            [change(1, None, "leased")],
            [change(1, None, "ready"), change(1, "ready", "leased"), change(1, "leased", "leased")],
            [change(1, None, "scheduled"), change(1, "scheduled", "leased")],
            [change(1, None, "ready"), change(1, "leased", None)],
            [change(1, None, "ready"), change(1, None, "ready")],
        ],
        ids=["born leased", "taken over", "leased before its time", "nobody leased it", "born twice"],
    )
    def test_what_the_diagram_does_not_have(self, audit: list[Record]) -> None:
        """It is found."""
        assert "I10" in found(of([], [], audit=audit))

    def test_lease_numbers_only_rise(self) -> None:
        """By one at each lease."""
        audit = [change(1, None, "ready"), change(1, "ready", "leased", lease=7)]
        assert {"I4"} == found(of([], [], audit=audit))

    def ticks(self, *minutes: int, until: int = 3) -> History:
        """Of a schedule that should have fired at the minutes 1 to 3."""
        events = ("chaos/minute-0", "chaos/minute-1")
        audit = [
            change(number * 10 + place, None, "ready", event=event, tick=60.0 * minute)
            for place, event in enumerate(events)
            for number, minute in enumerate(minutes)
        ]
        endpoint = [
            line for event in events for minute in minutes for line in delivered(None, 60.0 * minute, event=event)
        ]
        history = of([], endpoint, audit=audit)
        history.final = {"ticks_since": 60.0, "ticks_until": 60.0 * until}
        return history

    def test_ticks(self) -> None:
        """Each once; none missed, none twice, none that is none."""
        assert set() == found(self.ticks(1, 2, 3))
        assert {"I7"} == found(self.ticks(1, 3))
        assert {"I7"} == found(self.ticks(1, 2, 2, 3))
        assert {"I7"} == found(self.ticks(1, 2, 3, 4))

    def test_stopping(self) -> None:
        """With a good exit code, and nothing held."""
        end = {"at": 9.0, "what": "term_end", "name": "d0-1", "code": 0, "held": 0}
        assert set() == found(of([], [], [end]))
        assert {"I11"} == found(of([], [], [{**end, "code": None}]))
        assert {"I11"} == found(of([], [], [{**end, "held": 2}]))

    def test_leased_after_sigterm(self) -> None:
        """By the worker of the daemon that was told to stop."""
        leased = change(1, "ready", "leased", at=20.0, worker=5)
        told = {"at": 9.0, "what": "term", "name": "d0-1"}
        history = of([], [], [told], audit=[change(1, None, "ready"), leased])
        history.final = {"workers": {"5": "d0-1"}}
        assert {"I11"} == found(history)

    def test_deliveries_beside_an_open_transaction(self) -> None:
        """They go on."""

        def history(wait: float) -> History:
            jobs = [(f"p{number}", 5.0 + number / 10) for number in range(20)]
            producer = [line for name, at in jobs for line in sent(name, at)]
            endpoint = [line for name, at in jobs for line in delivered(name, at + wait)]
            return of(producer, endpoint, fault("vacuum_held", 2.0, 9.0))

        assert set() == found(history(1.0))
        assert {"I12"} == found(history(8.0))

    def test_what_is_left(self) -> None:
        """The queues should be empty."""
        history = of([], [])
        history.final = {"left": [{"id": 1}], "warnings": 1000, "unhealthy": ["200 files"]}
        assert {"I12", "I13"} == found(history)


class TestSteps:
    """I14."""

    def run(self, *app: Record) -> History:
        """A run that was sent, and what its app has logged."""
        producer = [
            {"at": 1.0, "what": "enq_invoke", "id": "p1", "how": "sdk", "event": "chaos/short"},
            {"at": 1.1, "what": "enq_ok", "id": "p1", "run": "r"},
        ]
        end = {"at": 9.0, "what": "finished", "run": "r", "event": "chaos/short", "id": "p1", "result": 12}
        return of(producer, [], app=[*app, end])

    def request(self, at: float, token: str, **steps: str) -> Record:
        """A request, and what it says is done."""
        return {"at": at, "what": "request", "run": "r", "token": token, "event": "e", "status": 200, "steps": steps}

    def body(self, at: float, token: str, name: str = "one") -> Record:
        """A step's body begins."""
        return {"at": at, "what": "body", "run": "r", "token": token, "name": name}

    def test_a_request_that_is_refused(self) -> None:
        """Its signature is in order, unless a clock is not."""
        refused = {**self.request(2, "a"), "status": 401}
        assert {"I2"} == found(self.run(refused))
        history = self.run(refused)
        history.windows = of([], [], fault("clock_jump", 1.5, 3.0)).windows
        assert set() == found(history)

    def test_once_and_again_before_it_is_recorded(self) -> None:
        """Both are right."""
        history = self.run(
            self.request(2, "a"), self.body(2.1, "a"), self.request(3, "b"), self.body(3.1, "b"),
            self.request(4, "c", one="done"), self.body(4.1, "c", "left"),
        )  # fmt: skip
        assert set() == found(history)

    def test_recorded_and_run_again(self) -> None:
        """Against its own request, and against an earlier one."""
        own = self.run(self.request(2, "a", one="done"), self.body(2.1, "a"))
        assert {"I14"} == found(own)
        earlier = self.run(self.request(2, "a", one="done"), self.request(3, "b"), self.body(3.1, "b"))
        assert {"I14"} == found(earlier)

    def test_two_outcomes(self) -> None:
        """A wait that came out in two ways."""
        outcome = {"at": 3.0, "what": "outcome", "run": "r", "name": "payment"}
        assert set() == found(self.run({**outcome, "value": 7}, {**outcome, "value": 7}))
        assert {"I14"} == found(self.run({**outcome, "value": 7}, {**outcome, "value": None}))

    def test_a_run_that_never_ends(self) -> None:
        """It was created."""
        history = self.run()
        history.app.clear()
        assert {"I1"} == found(history)

    def test_two_runs_of_one_send(self) -> None:
        """One was created."""
        other = {"at": 8.0, "what": "finished", "run": "s", "event": "chaos/short", "id": "p1", "result": 12}
        assert {"I2"} == found(self.run(other))

    def test_an_event_that_did_not_arrive(self) -> None:
        """It was sent after the order was created: the order must not time out. Before it, it may."""
        producer = [
            {"at": 1.0, "what": "enq_invoke", "id": "p1", "how": "sdk", "event": "chaos/order"},
            {"at": 1.1, "what": "enq_ok", "id": "p1", "run": "o"},
            {"at": 2.0, "what": "pay_invoke", "id": "p1"},
            {"at": 2.1, "what": "paid", "id": "p1"},
        ]
        ends = [("o", "chaos/order", 15), ("c", "chaos/child", 11), ("x", "chaos/received", None)]
        app = [
            {"at": 50.0, "what": "finished", "run": run, "event": event, "id": "p1", "result": result}
            for run, event, result in ends
        ]
        assert {"I14"} == found(of(producer, [], app=app))
        producer[2]["at"] = 1.05
        assert set() == found(of(producer, [], app=app))

    def test_an_event_that_was_sent_twice(self) -> None:
        """One order, two runs of what its event starts."""
        ends = [
            {"at": 3.0, "what": "finished", "run": run, "event": event, "id": "p2", "result": result}
            for run, event, result in (
                ("o", "chaos/order", 22), ("c", "chaos/child", 11), ("x", "chaos/received", None)
            )
        ]  # fmt: skip
        assert set() == found(self.run(*ends))
        assert {"I14"} == found(self.run(*ends, {**ends[2], "run": "y"}))


def test_the_history_of_a_job() -> None:
    """All that is known of it, in the order of time, with the faults of that time."""
    history = of(sent(), [*delivered(), *delivered(at=9.0)], fault("app_kill", 20, 21))
    (violation,) = check(history)
    lines = explain(history, violation).splitlines()
    assert "I3" in lines[0]
    assert ["enq_invoke", "enq_ok", "recv_start", "recv_end", "recv_start", "recv_end"] == [
        line.split()[1] for line in lines[1:]
    ]
