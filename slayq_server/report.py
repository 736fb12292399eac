"""What the daemon tells people: metrics and logs of what its parts have found out. Decides nothing."""

from __future__ import annotations

from logging import ERROR, WARNING
from typing import TYPE_CHECKING, cast

import structlog

from slayq_server.db.errors import error_kind
from slayq_server.errors import StatementFailed
from slayq_server.metrics import Snapshot
from slayq_server.model import OutcomeKind
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slayq_server.clock import Clock
    from slayq_server.engine.breaker import Change
    from slayq_server.errors import DatabaseUnavailable
    from slayq_server.metric_labels import JobState, RenewalResult, TickResult, WaitKind
    from slayq_server.metrics import Metrics
    from slayq_server.model import Promoted, Reaped, ScheduleRow, ScheduleTimes, Settlement

_NO_ROOM = 5.0
"""Seconds without such an error after which Postgres has room again: more than any pause between two tries."""
SnapshotRow = tuple[str, str, str, int, "float | None"]
_log = structlog.get_logger()


class Report:
    """Counts and logs; remembers since when the database is away."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._repeats = Repeats(clock.monotonic)
        self._database_lost_at: float | None = clock.monotonic()
        self._no_room_until = float("-inf")
        self.database_problem: str | None = None
        """Why the database is away, in a word or two: read_only, disk_full, unreachable and so on."""
        self.unserved: dict[str, int] = {}
        """Jobs by queue that no live daemon serves, as of the last snapshot."""

    @property
    def database_down_for(self) -> float:
        """Seconds since the database went away, or since the start if it was never there; 0 while it is there."""
        lost_at = self._database_lost_at
        return 0.0 if lost_at is None else max(self._clock.monotonic() - lost_at, 1e-9)

    def database_error(self, error: DatabaseUnavailable) -> None:
        """An operation found the database away, or one of its statements refused."""
        self._metrics.db_error(error_kind(error.__cause__ or error))
        if isinstance(error, StatementFailed):
            self._repeats.log(ERROR, "statement_failed", kind=error.reason, error=str(error))
            return
        self._repeats.log(WARNING, "database_lost", kind=error.reason, reason=error.reason, error=str(error))
        if error.cannot_store:
            self._no_room_until = self._clock.monotonic() + _NO_ROOM
        self._note_database_lost(error.reason)

    def database_awaited(self, error: DatabaseUnavailable, retry_seconds: float) -> None:
        """At the start, the database is not there yet."""
        self._metrics.db_error(error_kind(error.__cause__ or error))
        self._repeats.log(
            WARNING,
            "database_unavailable",
            kind=error.reason,
            reason=error.reason,
            error=str(error),
            retry_seconds=retry_seconds,
        )
        self._note_database_lost(error.reason)

    def app_call_error(self, error: DatabaseUnavailable) -> None:
        """A call of an app's failed; perhaps it waited for what another holds, so the database is not yet lost."""
        self._metrics.db_error(error_kind(error.__cause__ or error))

    def renewal(self, result: RenewalResult) -> None:
        """The worker row was renewed (ok), could not be (failed), or is gone (lost)."""
        self._metrics.renewal(result)
        if result == "ok":
            if self._clock.monotonic() < self._no_room_until:
                return  # a row may be renewed in place where nothing can be added
            if self._database_lost_at is not None:
                away = round(self._clock.monotonic() - self._database_lost_at, 1)
                self._repeats.recovered("database_lost", "database_back", away_seconds=away)
            self._database_lost_at = self.database_problem = None
        elif result == "failed":
            self._note_database_lost()

    def settled(self, settlement: Settlement, verdict: str) -> None:
        """An outcome was written down, or refused as stale."""
        kind = settlement.outcome.kind
        if verdict == "stale":
            self._metrics.stale_write(kind)
            self._repeats.log(
                WARNING, "stale_write", kind=kind.value, job_id=settlement.job_id, lease=settlement.lease, outcome=kind
            )
        elif verdict == "dropped":
            self._metrics.attempt(settlement.queue, "cancelled")
        elif kind is OutcomeKind.PUT_OFF:
            self._metrics.put_off(settlement.queue)
        elif kind is OutcomeKind.UNDELIVERED:
            self._metrics.attempt(settlement.queue, "retried")
        elif kind is not OutcomeKind.RELEASED:
            self._metrics.attempt(settlement.queue, kind)

    def circuit(self, change: Change, open_now: int) -> None:
        """An endpoint is away, or is so no more."""
        self._metrics.circuit("open" if change.opened else "closed", open_now)
        fields = {"endpoint": change.endpoint, "failures": change.failures, "result": change.result}
        if change.opened:
            _log.warning("circuit_opened", **fields)
        else:
            _log.info("circuit_closed", **fields, answers=change.answered, open_seconds=round(change.open_for, 1))

    def promoted(self, promoted: Promoted) -> None:
        """The promoter made a pass."""
        if promoted.expired_events:
            self._metrics.waits_expired("event", promoted.expired_events)
        if promoted.expired_invocations:
            self._metrics.waits_expired("invocation", promoted.expired_invocations)

    def reaped(self, reaped: Sequence[Reaped]) -> None:
        """Jobs of dead workers were taken back."""
        for job in reaped:
            self._metrics.attempt(job.queue, "dead" if job.fate == "dead" else "expired")
            if job.fate == "dead":
                _log.error("lease_expired", job_id=job.job_id, queue=job.queue, fate=job.fate)
            else:
                self._repeats.log(
                    WARNING, "lease_expired", kind=job.fate, job_id=job.job_id, queue=job.queue, fate=job.fate
                )

    def fired(self, schedule: ScheduleRow, result: str, ticks: int) -> None:
        """A schedule fired: fired or caught_up; or not: skipped (the tick before still runs) or missed."""
        _log.info("schedule_fired", schedule=schedule.id, result=result, ticks=ticks)
        self._metrics.schedule_tick(schedule.id, "skipped" if result == "missed" else cast("TickResult", result))

    def schedule_times(self, times: Sequence[ScheduleTimes]) -> None:
        """The next and last ticks."""
        for entry in times:
            self._metrics.schedule_times(entry.id, entry.next_at, entry.last_at)

    def snapshot(self, rows: Sequence[SnapshotRow]) -> frozenset[str]:
        """Takes the gauges over from `queries/snapshot.sql`; returns the names of paused queues."""
        served = {name for kind, name, _state, _count, _age in rows if kind == "served"}
        jobs = {(name, cast("JobState", state)): count for kind, name, state, count, _age in rows if kind == "job"}
        unserved: dict[str, int] = {}
        for (name, _state), count in jobs.items():
            if name not in served:
                unserved[name] = unserved.get(name, 0) + count
        self._metrics.snapshot(
            Snapshot(
                at=self._clock.wall(),
                jobs=jobs,
                dead={name: count for kind, name, _state, count, _age in rows if kind == "dead"},
                oldest_ready_age={name: age for kind, name, _s, _c, age in rows if kind == "job" and age is not None},
                waits={cast("WaitKind", name): count for kind, name, _state, count, _age in rows if kind == "wait"},
                unserved=sum(unserved.values()),
            )
        )
        if unserved and unserved.keys() != self.unserved.keys():
            _log.warning("jobs_unserved", queues=unserved)
        self.unserved = unserved
        return frozenset(name for kind, name, *_rest in rows if kind == "paused")

    def _note_database_lost(self, reason: str | None = None) -> None:
        self.database_problem = reason or self.database_problem
        if self._database_lost_at is None:
            self._database_lost_at = self._clock.monotonic()
