"""What happened in a run, put together from its logs: each job with its sends and deliveries, and the faults."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.chaos.records import Record, read

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FOREVER = float("inf")
GOOD = range(200, 300)


@dataclass(frozen=True)
class Violation:
    """Something that must not happen has happened."""

    invariant: str
    """I1 to I14."""
    what: str
    subject: str | None = None
    """The job's or run's id, for its history."""

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}" + (f" [{self.subject}]" if self.subject else "")


@dataclass(frozen=True)
class Window:
    """A fault, from its beginning to its end."""

    kind: str
    on: float
    off: float


@dataclass(frozen=True)
class Delivery:
    """A callback as the endpoint saw it."""

    id: str | None
    seq: str
    start: float
    end: float
    """FOREVER where the endpoint never came to its end."""
    answer: Any
    """A status, `abandoned`, `reset`, `half`; None where there is none."""
    attempt: int
    event: str
    key: str
    signed: bool
    hash: str

    @property
    def good(self) -> bool:
        """Whether it was answered with success."""
        return isinstance(self.answer, int) and self.answer in GOOD


@dataclass
class Job:
    """A job, or a run, as its sender knows it."""

    id: str
    invoked: list[float] = field(default_factory=list)
    """Each time that it was begun to be sent: more than once where its sender could not know and tried again."""
    told: float = 0.0
    """When the last of these came to an end."""
    state: str = "unknown"
    """ok, fail or unknown: ok if it was taken once."""
    ok_at: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    cancelled_at: float | None = None
    deliveries: list[Delivery] = field(default_factory=list)
    """In the order in which they began."""
    pay_from: float | None = None
    """Of an order: when what it waits for was first begun to be sent."""
    paid_at: float | None = None
    """And when it certainly was."""

    def sent_again_after(self, at: float) -> bool:
        """Whether it may have been added a second time after that."""
        return len(self.invoked) > 1 and at < self.told


@dataclass
class History:
    """All of it."""

    jobs: dict[str, Job] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    followed: int = 0
    """Redirects that somebody has followed."""
    app: list[Record] = field(default_factory=list)
    audit: list[Record] = field(default_factory=list)
    faults: list[Record] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    """What the runner found at the end: dead letters, what was left, the ticks that were to come."""
    setting: dict[str, Any] = field(default_factory=dict)
    odd: list[Record] = field(default_factory=list)
    """Lines that mean that the suite itself is broken."""
    records: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    """Every line about a job, by its id."""

    def touched(self, start: float, end: float, kinds: Iterable[str] | None = None, *, at_least: float = 0.0) -> bool:
        """Whether a fault (of these kinds, or groups of kinds) was on at some time in between.

        `at_least`: each is taken to have lasted for so many seconds.
        """
        chosen = None if kinds is None else tuple(kinds)
        return any(
            window.on <= end and start <= max(window.off, window.on + at_least)
            for window in self.windows
            if chosen is None or window.kind.startswith(chosen)
        )

    @property
    def faultless(self) -> bool:
        """A run in which nothing was broken."""
        return not self.windows

    @property
    def lease(self) -> float:
        """Seconds that a worker row is good for."""
        return float(self.setting.get("lease", 3.0))


def load(folder: Path) -> History:
    """The history of a run, from its folder."""
    endpoint = read(folder / "endpoint.jsonl")  # first: what has arrived was sent before
    history = of(
        read(folder / "producer.jsonl"),
        endpoint,
        read(folder / "faults.jsonl"),
        read(folder / "app.jsonl"),
        read(folder / "audit.jsonl"),
    )
    for record in read(folder / "final.jsonl"):
        if record["what"] == "final":
            history.final = record
        elif record["what"] == "setting":
            history.setting = record
    return history


def of(
    producer: list[Record],
    endpoint: list[Record],
    faults: list[Record] | None = None,
    app: list[Record] | None = None,
    audit: list[Record] | None = None,
) -> History:
    """The history that these logs tell."""
    history = History(app=app or [], audit=audit or [], faults=faults or [])
    for record in producer:
        _note_sent(history, record)
    _note_received(history, endpoint)
    _note_faults(history)
    return history


def _note_sent(history: History, record: Record) -> None:
    what = record["what"]
    if "broken" in what:
        history.odd.append(record)
        return
    name = record["id"]
    history.records[name].append(record)
    job = history.jobs.setdefault(name, Job(name))
    if what == "enq_invoke":
        job.invoked.append(record["at"])
        job.facts = {key: value for key, value in record.items() if key not in ("at", "what")}
        if len(job.invoked) == 1:
            job.state = "unknown"
    if what in ("enq_ok", "enq_fail", "enq_unknown"):
        job.told = record["at"]
    if what == "enq_ok":
        job.state, job.ok_at, job.run = "ok", record["at"], record.get("run")
    elif what == "enq_fail":
        if len(job.invoked) == 1:
            job.state = "fail"
    elif what == "pay_invoke":
        job.pay_from = record["at"]
    elif what == "paid":
        job.paid_at = record["at"]
    elif what == "cancel_ok":
        job.cancelled_at = record["at"]


def _note_received(history: History, endpoint: list[Record]) -> None:
    ends = {record["seq"]: record for record in endpoint if record["what"] == "recv_end"}
    for record in endpoint:
        if record["what"] == "recv_followed":
            history.followed += 1
        if record["what"] != "recv_start":
            continue
        end = ends.get(record["seq"])
        delivery = Delivery(
            record["id"],
            record["seq"],
            record["at"],
            FOREVER if end is None else end["at"],
            None if end is None else end["answer"],
            record["attempt"],
            record["event"],
            record["key"],
            record["signed"],
            record["hash"],
        )
        history.deliveries.append(delivery)
        if delivery.id is not None:
            history.records[delivery.id] += [record] if end is None else [record, end]
            if delivery.id in history.jobs:
                history.jobs[delivery.id].deliveries.append(delivery)
    history.deliveries.sort(key=lambda delivery: delivery.start)
    for job in history.jobs.values():
        job.deliveries.sort(key=lambda delivery: delivery.start)


def _note_faults(history: History) -> None:
    on: dict[str, float] = {}
    for record in history.faults:
        if record["what"] == "fault_on":
            on[record["kind"]] = record["at"]
        elif record["what"] == "fault_off":
            history.windows.append(Window(record["kind"], on.pop(record["kind"]), record["at"]))
        elif record["what"] == "fault_broken":
            history.odd.append(record)
    history.windows += [Window(kind, at, FOREVER) for kind, at in on.items()]
