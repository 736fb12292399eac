"""What the engine asks of the database, typed: workers, leases, outcomes, what is due.

Every method is one short transaction, raises DatabaseUnavailable when Postgres is away, and never waits for a row that
somebody else has locked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from slayq_server.db.statements import query
from slayq_server.model import (
    Flushed,
    Heartbeat,
    LeasedJob,
    Matched,
    OutcomeKind,
    Promoted,
    Reaped,
    RunVerdict,
    Settled,
)
from slayq_server.protocol.v2 import run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

    from slayq_server.db.pool import Pool
    from slayq_server.model import LeaseRequest, Place, QueueFacts, RunWrite, Settlement

_FIRST: Final = (None, None, None)
"""No place, of `lease`: it begins at the first ready job."""


class Store:
    """The engine's statements over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # Workers

    async def register_worker(self, name: str, version: str, queues: Sequence[str], lease_seconds: float) -> int:
        """Makes a new worker row; returns its id."""
        worker_id: int = await self._pool.fetchval(
            "worker_register", name, version, list(queues), lease_seconds, urgent=True
        )
        return worker_id

    async def renew_worker(
        self, worker_id: int, lease_seconds: float, queues: Sequence[str], circuits: str = "[]"
    ) -> Heartbeat:
        """Renews a worker row that is still good, and looks round. `circuits`: JSON text of what its breaker knows."""
        row = await self._pool.fetchrow("worker_renew", worker_id, lease_seconds, list(queues), circuits, urgent=True)
        assert row is not None
        return Heartbeat(
            held=row["held"],
            ready=tuple(row["ready"]),
            due_in=row["due_in"],
            tick_in=row["tick_in"],
            reapable=row["reapable"],
            blocked=row["blocked"],
            paused=frozenset(row["paused"]),
            unmatched=row["unmatched"],
            unplanned=row["unplanned"],
            stranded=tuple(row["stranded"]),
        )

    async def want(self, worker_id: int, words: Iterable[str]) -> None:
        """Says for which words a NOTIFY is useful to this worker from now on."""
        await self._pool.execute("worker_want", worker_id, sorted(words))

    async def retire_worker(self, worker_id: int) -> None:
        """Ends this worker's leases: whatever it still holds may be taken by others at once."""
        await self._pool.execute("worker_retire", worker_id, urgent=True)

    # Leasing and settling

    async def lease(
        self, worker_id: int, requests: Sequence[LeaseRequest], forbidden_flags: Sequence[str] = ()
    ) -> list[LeasedJob]:
        """Leases the next jobs, no more than each pool has free slots, in the order in which they are to start."""
        rows = await self._pool.fetch("lease", *lease_arguments(worker_id, requests, forbidden_flags))
        return [
            LeasedJob(
                *(
                    *row[:10],
                    row["run"] and run_of(row["run"]),
                    None if row["last_priority"] is None else (row["last_priority"], row["last_due"], row["id"]),
                )
            )
            for row in rows
        ]

    async def release_unknown(self, worker_id: int, known: Sequence[int]) -> tuple[str, ...]:
        """Gives back jobs that this worker holds without knowing of them; the queues that are ready again."""
        return tuple(await self._pool.fetchval("release_unknown", worker_id, list(known)))

    async def settle(self, worker_id: int, batch: Sequence[Settlement], *, keep_done: bool = False) -> Settled:
        """Writes outcomes down, all or none, each under the lease it was reached under. A statement for each kind."""
        kinds: dict[OutcomeKind, list[Settlement]] = {}
        for settlement in batch:
            kinds.setdefault(settlement.outcome.kind, []).append(settlement)
        if not kinds:
            return Settled()
        calls = [_settle_call(kind, worker_id, settlements, keep_done) for kind, settlements in kinds.items()]
        rows: list[asyncpg.Record] = []
        ready: Sequence[str] = ()
        if len(calls) == 1 and not any(settlement.serial for settlement in batch):
            ((name, args),) = calls
            rows = await self._pool.fetch(name, *args)  # what most batches are: a transaction of its own
        else:
            async with self._pool.transaction() as connection:
                for name, args in calls:
                    rows += await connection.fetch(query(name), *args)
                # Last, because whoever holds a lane waits for nothing else.
                lanes = {row["serial_queue"] for row in rows if row["serial_queue"] is not None}
                ready = await connection.fetchval(query("advance_lanes"), sorted(lanes)) if lanes else ()
        return Settled({row["id"]: row["verdict"] for row in rows}, set(ready))

    async def bring_forward(self, endpoint: str, most: int, queues: Sequence[str] | None) -> tuple[int, set[str]]:
        """Makes jobs ready that were put off for an endpoint: how many there were, and the queues that they are in."""
        row = await self._pool.fetchrow("bring_forward", endpoint, most, None if queues is None else list(queues))
        assert row is not None
        return row["number"], set(row["queues"])

    # Durable runs

    async def flush(
        self, worker_id: int, writes: Sequence[RunWrite], *, keep_done: bool = False, own_words: Sequence[str] = ()
    ) -> Flushed:
        """Writes down what runs have said and how they go on, each only under its lease, all in one transaction."""
        rows = await self._pool.fetch("flush_runs", worker_id, *_flush_arguments(writes), keep_done, list(own_words))
        due = [row["due_in"] for row in rows if row["due_in"] is not None]
        return Flushed(
            verdicts={row["id"]: RunVerdict(row["verdict"], row["note"]) for row in rows},
            ready={row["ready"] for row in rows if row["ready"] is not None},
            due_in=min(due, default=None),
            heard=tuple(rows[0]["heard"]) if rows else (),
        )

    async def match_events(self, most: int, after: int) -> Matched:
        """Hands events, and the ends of callees, to the runs that wait for them; those after the event `after`."""
        row = await self._pool.fetchrow("match_events", most, after)
        assert row is not None
        return Matched(row["matched"], tuple(row["ready"]), row["more"], row["left_over"], row["last"])

    async def cancelled_runs(self, worker_id: int) -> list[tuple[int, int]]:
        """The job ids and leases of runs that this worker delivers although they have been cancelled."""
        return [(row["id"], row["lease"]) for row in await self._pool.fetch("runs_cancelled", worker_id)]

    # What becomes due

    async def promote(self, most: int) -> Promoted:
        """Makes ready what has become due, and gives serial queues their heads."""
        row = await self._pool.fetchrow("promote", most)
        assert row is not None
        return Promoted(
            row["promoted"],
            tuple(sorted(row["ready"])),
            row["expired_events"],
            row["expired_invocations"],
            row["due_in"],
        )

    async def advance_headless_lanes(self, most: int) -> tuple[str, ...]:
        """Gives a head to serial queues that have lost theirs; the queues with something new to lease."""
        async with self._pool.transaction() as connection:
            lanes = await connection.fetchval(query("headless_lanes"), most)
            return tuple(await connection.fetchval(query("advance_lanes"), lanes)) if lanes else ()

    async def reap(self, most: int) -> tuple[list[Reaped], tuple[str, ...]]:
        """Takes back the jobs of dead workers; also the queues in which a serial queue's next job became ready."""
        async with self._pool.transaction() as connection:
            rows = await connection.fetch(query("reap"), most)
            lanes = sorted({row["serial_queue"] for row in rows if row["serial_queue"] and row["fate"] != "ready"})
            ready = await connection.fetchval(query("advance_lanes"), lanes) if lanes else []
        return [Reaped(row["id"], row["queue"], row["fate"]) for row in rows], tuple(ready)

    async def notify(self, words: Iterable[str]) -> None:
        """Wakes the daemons that want these words."""
        await self._pool.execute("notify", sorted(words))

    async def knock(self, channel: str) -> None:
        """Notifies a channel, so that a listener can tell whether it hears."""
        await self._pool.execute("knock", channel)

    # Queues and slots

    async def register_queues(self, queues: Sequence[QueueFacts]) -> None:
        """Tells the database what it must know of the configured queues."""
        await self._pool.execute(
            "queues_register",
            [q.name for q in queues],
            [q.max_attempts for q in queues],
            [q.base for q in queues],
            [q.factor for q in queues],
            [q.cap for q in queues],
            [q.max for q in queues],
            [q.jitter for q in queues],
            [q.paused for q in queues],
        )

    async def register_slots(self, queue: str, limit: int) -> None:
        """Makes the slots of a queue whose limit counts for the cluster."""
        await self._pool.execute("slots_register", queue, limit)

    async def acquire_slots(self, worker_id: int, queue: str, wanted: int, limit: int) -> int:
        """Takes free slots until this worker holds `wanted`; how many it then holds."""
        held: int = await self._pool.fetchval("slots_acquire", worker_id, queue, wanted, limit)
        return held

    async def release_slots(self, worker_id: int, queue: str, number: int) -> None:
        """Gives slots back for other daemons to take."""
        await self._pool.execute("slots_release", worker_id, queue, number)

    # Pruning

    async def prune(self, statement: str, *limits: float) -> int:
        """Runs one batch of a `prune_…` statement; how many rows went."""
        gone: int = await self._pool.fetchval(statement, *limits)
        return gone

    async def may_vacuum(self) -> bool:
        """Whether Postgres lets this session vacuum the table of jobs."""
        return bool(await self._pool.fetchval("may_vacuum"))

    async def vacuum(self) -> None:
        """Vacuums the table of jobs, unless somebody else does. Not through a pooler in transaction mode."""
        await self._pool.execute("vacuum_jobs")

    async def snapshot(self) -> list[tuple[str, str, str, int, float | None]]:
        """Rows of (kind, name, state, count, age in seconds of the oldest ready) for the metrics' gauges."""
        return [tuple(row) for row in await self._pool.fetch("snapshot")]


_ENDS = {OutcomeKind.COMPLETED: "done"}
"""What Postgres calls an end, where it is not the outcome's own name."""


def lease_arguments(
    worker_id: int, requests: Sequence[LeaseRequest], forbidden_flags: Sequence[str] = ()
) -> tuple[object, ...]:
    """What the statement `lease` is called with."""
    names: list[str] = []
    pools: list[int] = []
    free: list[int] = []
    ahead: list[int] = []
    starts: list[Place | tuple[None, None, None]] = []
    for number, request in enumerate(requests):
        for name in request.names:
            names.append(name)
            pools.append(number)
            free.append(request.free)
            ahead.append(request.ahead)
            starts.append(request.start or _FIRST)
    priorities, times, ids = zip(*starts, strict=True)
    return worker_id, names, pools, free, ahead, priorities, times, ids, list(forbidden_flags) or None


def _flush_arguments(writes: Sequence[RunWrite]) -> tuple[list[object], ...]:
    """The columns of a flush: those of the runs, then those of their ops."""
    ends = [write.end for write in writes]
    ops = [(place, op) for place, write in enumerate(writes, start=1) for op in write.ops]
    return (
        [write.job_id for write in writes],
        [write.lease for write in writes],
        [write.seen for write in writes],
        [end and _ENDS.get(end.kind, end.kind.value) for end in ends],
        [end and end.output for end in ends],
        [end and _writable(end.error) for end in ends],
        [end and end.delay for end in ends],
        [end and (end.endpoint or end.reason) for end in ends],
        [place for place, _ in ops],
        [op.kind for _, op in ops],
        [op.name for _, op in ops],
        [op.value for _, op in ops],
        [op.event for _, op in ops],
        [op.key for _, op in ops],
        [op.match_value for _, op in ops],
        [op.seconds for _, op in ops],
        [op.until for _, op in ops],
        [op.attempt for _, op in ops],
        [op.final for _, op in ops],
    )


def _settle_call(
    kind: OutcomeKind, worker_id: int, settlements: Sequence[Settlement], keep_done: bool
) -> tuple[str, tuple[object, ...]]:
    """The statement and arguments that write down outcomes of one kind."""
    ids = [s.job_id for s in settlements]
    leases = [s.lease for s in settlements]
    if kind is OutcomeKind.COMPLETED:
        return "settle_completed", (worker_id, ids, leases, keep_done)
    if kind is OutcomeKind.RELEASED:
        return "settle_released", (worker_id, ids, leases)
    if kind is OutcomeKind.PUT_OFF:
        put_off = [s.outcome.delay for s in settlements], [s.outcome.endpoint for s in settlements]
        return "settle_put_off", (worker_id, ids, leases, *put_off)
    errors = [_writable(s.outcome.error) for s in settlements]
    payloads = [s.payload for s in settlements]
    if kind is OutcomeKind.DEAD:
        reasons = [s.outcome.reason for s in settlements]
        return "settle_dead", (worker_id, ids, leases, reasons, errors, payloads)
    delays = [s.outcome.delay for s in settlements]
    strict = [s.strict for s in settlements]
    return "settle_retried", (worker_id, ids, leases, delays, errors, strict, payloads)


def _writable(text: str | None) -> str | None:
    """A text as Postgres takes it: without NUL and halves of surrogate pairs, whatever an endpoint has answered."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
