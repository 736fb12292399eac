"""What the daemon counts and measures, and how Prometheus reads it.

Every series exists from the start with the value 0, so that `increase()` sees the first event. Label values form closed
sets: `queue` and `schedule` come from the configuration, and anything else is counted under `_other`; the other labels
take the values of `slayq_server.metric_labels`, and where the outside decides the value (an error's kind, a task's
name) what is not listed counts as `other`. No id, key, URL, host, event or error text ever becomes a label.

The gauges that describe the database (`slayq_jobs` and its like) are set from a `Snapshot` that the daemon takes now
and then: a scrape never touches the database. Every daemon exports them: take their `max`, never their `sum`.

Every series is documented in docs/metrics.md.
"""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from slayq_server import metric_labels as labels
from slayq_server.histograms import HistogramFamily
from slayq_server.model import CallbackResult, OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from prometheus_client.metrics_core import Metric

    from slayq_server.histograms import Observations

__all__ = ["Metrics", "Snapshot"]

_Family = TypeVar("_Family", Counter, Gauge)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database held at one moment. Queues are named as stored: aliases and unknown names are folded here."""

    at: float
    """When it was taken: seconds since the Unix epoch."""
    jobs: Mapping[tuple[str, labels.JobState], int]
    """Jobs by (queue, state); a pair that is not there counts 0. Dead letters are in `dead`."""
    dead: Mapping[str, int]
    """Dead letters by queue."""
    oldest_ready_age: Mapping[str, float]
    """Seconds since the oldest ready job of the queue became due; a queue without ready jobs is not there."""
    waits: Mapping[labels.WaitKind, int]
    """Pending waits by kind."""
    unserved: int
    """Jobs of queues that no daemon serves."""


@dataclass(frozen=True, slots=True)
class _QueueSeries:
    """The series of one queue, looked up once."""

    attempts: Mapping[str, Counter]
    responses: Mapping[str, Counter]
    callback_duration: Observations
    job_wait: Observations
    jobs: Mapping[str, Gauge]
    oldest_ready_age: Gauge
    concurrency_limit: Gauge
    in_flight: Gauge
    paused: Gauge


@dataclass(frozen=True, slots=True)
class _ScheduleSeries:
    """The series of one schedule, looked up once."""

    ticks: Mapping[str, Counter]
    next_tick: Gauge
    last_tick: Gauge


def _children(family: _Family, values: Iterable[str], *before: str) -> dict[str, _Family]:
    return {value: family.labels(*before, value) for value in values}


class Metrics:
    """All series of one daemon, in a registry of their own.

    `queues` and `schedules` are the configured names; `aliases` maps a further name of a queue to the queue it is
    counted under. Recording costs a dictionary look-up and a lock, and never raises for a name that comes from outside.
    """

    content_type: Final = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(
        self,
        queues: Sequence[str],
        schedules: Sequence[str],
        version: str,
        schema: int,
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        # A switch of the whole library; nothing else in a daemon's process exports series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._define_jobs()
        self._define_leases()
        self._define_journal()
        self._define_database()
        self._define_schedules()
        self._define_edges()
        self._define_process(version, schema)
        self._read_in_flight: Callable[[], Iterable[tuple[str, int]]] = tuple
        self._queue_names: tuple[str, ...] = ()
        self._queues: dict[str, _QueueSeries] = {}
        self._other_queue = self._queue_series(labels.OTHER_NAME)
        self._schedules: dict[str, _ScheduleSeries] = {}
        self._other_schedule = self._schedule_series(labels.OTHER_NAME)
        self.set_queues(queues, aliases)
        self.set_schedules(schedules)

    # ── definitions ──

    def _counter(self, name: str, text: str, *labelnames: str) -> Counter:
        return Counter(name, text, labelnames, registry=self._registry)

    def _gauge(self, name: str, text: str, *labelnames: str) -> Gauge:
        return Gauge(name, text, labelnames, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def _define_jobs(self) -> None:
        self._attempts = self._counter(
            "slayq_job_attempts_total", "Attempts that ended, by what they came to.", "queue", "outcome"
        )
        self._responses = self._counter(
            "slayq_callback_responses_total", "Callbacks sent, by how the endpoint answered.", "queue", "result"
        )
        self._callback_duration = HistogramFamily(
            "slayq_callback_duration_seconds",
            "Time from sending a callback to its end.",
            labels.CALLBACK_BUCKETS,
            "queue",
            registry=self._registry,
        )
        self._job_wait = HistogramFamily(
            "slayq_job_wait_seconds",
            "Time from due to the first byte sent.",
            labels.WAIT_BUCKETS,
            "queue",
            registry=self._registry,
        )
        self._jobs = self._gauge("slayq_jobs", "Jobs in the database, by state.", "queue", "state")
        self._unserved = self._gauge("slayq_jobs_unserved", "Jobs of queues that no daemon serves.")
        self._oldest = self._gauge(
            "slayq_queue_oldest_ready_age_seconds", "Time since the oldest ready job became due; 0 if none is.", "queue"
        )
        self._limit = self._gauge(
            "slayq_queue_concurrency_limit", "Deliveries that may be in flight at once; 0 where not served.", "queue"
        )
        self._in_flight = self._gauge("slayq_queue_in_flight", "Deliveries in flight in this daemon.", "queue")
        self._paused = self._gauge("slayq_queue_paused", "1 while the queue is paused.", "queue")
        waits = self._gauge("slayq_waits", "Waits that are pending in the database.", "kind")
        self._waits = _children(waits, get_args(labels.WaitKind))
        expired = self._counter("slayq_waits_expired_total", "Waits whose time-out came first.", "kind")
        self._waits_expired = _children(expired, get_args(labels.WaitKind))

    def _define_leases(self) -> None:
        batches = self._counter("slayq_lease_batches_total", "Statements that asked for jobs.", "result")
        self._lease_batches = _children(batches, get_args(labels.LeaseResult))
        self._lease_duration = self._histogram(
            "slayq_lease_duration_seconds", "Time that a statement asking for jobs took.", labels.LEASE_BUCKETS
        )
        renewals = self._counter("slayq_worker_renewals_total", "Renewals of this daemon's worker row.", "result")
        self._renewals = _children(renewals, get_args(labels.RenewalResult))
        self._leases_lost = self._counter(
            "slayq_leases_lost_total", "Jobs given up because this daemon's worker row could no longer be trusted."
        )
        stale = self._counter(
            "slayq_stale_writes_total", "Writes under a lease that was no longer held: none was applied.", "kind"
        )
        self._stale_writes = _children(stale, get_args(labels.StaleKind))
        wakeups = self._counter("slayq_wakeups_total", "What made the daemon look for due jobs.", "source")
        self._wakeups = _children(wakeups, get_args(labels.WakeupSource))

    def _define_journal(self) -> None:
        self._flushes = self._counter("slayq_journal_flushes_total", "Transactions that wrote down what runs said.")
        self._flushed_runs = self._counter("slayq_journal_runs_total", "Runs in those transactions, added up.")
        self._flushed_ops = self._counter("slayq_journal_ops_total", "Ops in those transactions, added up.")

    def _define_database(self) -> None:
        pool = self._gauge("slayq_db_pool_connections", "Connections in the database pool.", "state")
        self._pool = _children(pool, get_args(labels.PoolState))
        errors = self._counter("slayq_db_errors_total", "Database operations that failed.", "kind")
        self._db_errors = _children(errors, get_args(labels.DatabaseErrorKind))
        self._listener = self._gauge(
            "slayq_listener_connected", "1 while LISTEN is connected and hears; not exported where nothing listens."
        )
        self._listener_exported = True
        self._snapshot_success = self._gauge(
            "slayq_snapshot_last_success_timestamp_seconds", "When the database gauges were last read; 0 before that."
        )

    def _define_schedules(self) -> None:
        self._next_tick = self._gauge(
            "slayq_schedule_next_tick_timestamp_seconds", "When the schedule is next due; 0 if unknown.", "schedule"
        )
        self._last_tick = self._gauge(
            "slayq_schedule_last_tick_timestamp_seconds",
            "When the schedule last ticked; 0 if it never has.",
            "schedule",
        )
        self._ticks = self._counter("slayq_schedule_ticks_total", "Ticks of schedules.", "schedule", "result")

    def _define_edges(self) -> None:
        blocked = self._counter(
            "slayq_callback_blocked_total", "Callbacks that the address guard did not let out.", "reason"
        )
        self._blocked = _children(blocked, get_args(labels.BlockedReason))
        auth = self._counter(
            "slayq_auth_failures_total", "Requests refused for their signature or token.", "surface", "reason"
        )
        self._auth = {
            surface: _children(auth, get_args(labels.AuthReason), surface) for surface in get_args(labels.AuthSurface)
        }
        rpc = self._counter("slayq_rpc_requests_total", "Requests to the RPC endpoint.", "task", "code")
        self._rpc = {task: _children(rpc, get_args(labels.RpcCode), task) for task in get_args(labels.RpcTask)}

    def _define_process(self, version: str, schema: int) -> None:
        build = self._gauge("slayq_build_info", "1; its labels say what is running.", "version", "schema")
        build.labels(version, str(schema)).set(1)
        self._reload = self._gauge(
            "slayq_config_last_reload_successful", "1 unless the last reload of the configuration was refused."
        )
        self._reload.set(1)
        self._draining = self._gauge("slayq_draining", "1 while the daemon is stopping.")
        self._loop_lag = self._histogram(
            "slayq_event_loop_lag_seconds", "How much later than asked the event loop woke a timer.", labels.LAG_BUCKETS
        )
        self._loop_tasks = self._gauge("slayq_event_loop_tasks", "Tasks that the event loop has.")

    # ── queues and schedules ──

    def _queue_series(self, name: str) -> _QueueSeries:
        return _QueueSeries(
            attempts={value: self._attempts.labels(name, value) for value in get_args(labels.AttemptOutcome)},
            responses={value.value: self._responses.labels(name, value.value) for value in CallbackResult},
            callback_duration=self._callback_duration.labels(name),
            job_wait=self._job_wait.labels(name),
            jobs={value: self._jobs.labels(name, value) for value in get_args(labels.JobState)},
            oldest_ready_age=self._oldest.labels(name),
            concurrency_limit=self._limit.labels(name),
            in_flight=self._in_flight.labels(name),
            paused=self._paused.labels(name),
        )

    def _forget_queue(self, name: str) -> None:
        histograms = (self._callback_duration, self._job_wait)
        for family in (*histograms, self._oldest, self._limit, self._in_flight, self._paused):
            family.remove(name)
        for outcome in get_args(labels.AttemptOutcome):
            self._attempts.remove(name, outcome)
        for result in CallbackResult:
            self._responses.remove(name, result.value)
        for state in get_args(labels.JobState):
            self._jobs.remove(name, state)

    def set_queues(self, queues: Sequence[str], aliases: Mapping[str, str] | None = None) -> None:
        """Export exactly these queues (and `_other`): what stays keeps its counts, what goes is no longer exported."""
        names = tuple(dict.fromkeys(name for name in queues if name != labels.OTHER_NAME))
        kept = {name: self._queues[name] for name in self._queue_names if name in names}
        for name in self._queue_names:
            if name not in kept:
                self._forget_queue(name)
        series = {name: kept.get(name) or self._queue_series(name) for name in names}
        # An alias is a further name of the same series, so recording under it costs nothing more.
        series |= {
            alias: series[name] for alias, name in (aliases or {}).items() if name in series and alias not in names
        }
        self._queue_names, self._queues = names, series

    def _schedule_series(self, name: str) -> _ScheduleSeries:
        return _ScheduleSeries(
            ticks=_children(self._ticks, get_args(labels.TickResult), name),
            next_tick=self._next_tick.labels(name),
            last_tick=self._last_tick.labels(name),
        )

    def set_schedules(self, schedules: Sequence[str]) -> None:
        """Export exactly these schedules (and `_other`), as `set_queues` does for queues."""
        names = tuple(dict.fromkeys(name for name in schedules if name != labels.OTHER_NAME))
        for name in self._schedules.keys() - set(names):
            self._next_tick.remove(name)
            self._last_tick.remove(name)
            for result in get_args(labels.TickResult):
                self._ticks.remove(name, result)
        self._schedules = {name: self._schedules.get(name) or self._schedule_series(name) for name in names}

    def _queue(self, name: str) -> _QueueSeries:
        return self._queues.get(name, self._other_queue)

    # ── jobs ──

    def attempt(self, queue: str, outcome: labels.AttemptOutcome | OutcomeKind, n: int = 1) -> None:
        """Count `n` attempts that ended; those given back at shutdown (`released`) are no attempts, and not counted."""
        if outcome != OutcomeKind.RELEASED:
            self._queue(queue).attempts[outcome].inc(n)

    def response(self, queue: str, result: CallbackResult) -> None:
        """Count a callback by how the endpoint answered."""
        self._queue(queue).responses[result].inc()

    def callback_duration(self, queue: str, seconds: float) -> None:
        """Observe how long a callback took, from its start to its end."""
        self._queue(queue).callback_duration.observe(seconds)

    def job_wait(self, queue: str, seconds: float) -> None:
        """Observe how long a job waited, from due to the first byte sent; a clock's step back counts as 0."""
        self._queue(queue).job_wait.observe(max(seconds, 0.0))

    def watch_in_flight(self, read: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """From now on, whoever scrapes is told how many deliveries of which queues are in flight by calling this."""
        self._read_in_flight = read

    def concurrency_limit(self, queue: str, n: int) -> None:
        """Set how many deliveries of the queue may be in flight at once."""
        self._queue(queue).concurrency_limit.set(n)

    def paused(self, queue: str, paused: bool) -> None:
        """Set whether the queue is paused."""
        self._queue(queue).paused.set(paused)

    def waits_expired(self, kind: labels.WaitKind, n: int = 1) -> None:
        """Count waits whose time-out came before what they waited for."""
        self._waits_expired[kind].inc(n)

    # ── leases ──

    def lease_batch(self, result: str, seconds: float) -> None:
        """Count a statement that asked for jobs (ok, empty; anything else is an error), and observe its duration."""
        self._lease_batches.get(result, self._lease_batches["error"]).inc()
        self._lease_duration.observe(seconds)

    def renewal(self, result: str) -> None:
        """Count a renewal of the worker row: ok, lost (the row is gone or expired); anything else has failed."""
        self._renewals.get(result, self._renewals["failed"]).inc()

    def leases_lost(self, n: int) -> None:
        """Count jobs that were given up because the worker row could no longer be trusted."""
        self._leases_lost.inc(n)

    def stale_write(self, kind: labels.StaleKind | OutcomeKind, n: int = 1) -> None:
        """Count rows that a settling statement left alone because the lease was no longer held."""
        self._stale_writes.get(kind, self._stale_writes[labels.OTHER]).inc(n)

    def wakeup(self, source: labels.WakeupSource) -> None:
        """Count what made the daemon look for due jobs."""
        self._wakeups[source].inc()

    # ── journal ──

    def flush(self, runs: int, ops: int) -> None:
        """Count a transaction that wrote down so many ops of so many runs, ends not counted."""
        self._flushes.inc()
        self._flushed_runs.inc(runs)
        self._flushed_ops.inc(ops)

    # ── database ──

    def pool(self, connections: Mapping[str, int]) -> None:
        """Set the pool's connections by state; a state that is not there has none."""
        for state, gauge in self._pool.items():
            gauge.set(connections.get(state, 0))

    def db_error(self, kind: str) -> None:
        """Count a failed database operation; a kind that is not listed counts as `other`."""
        self._db_errors.get(kind, self._db_errors[labels.OTHER]).inc()

    def listener(self, connected: bool | None) -> None:
        """Set whether LISTEN is connected and hears; None (nothing listens) takes the series away."""
        if (connected is not None) != self._listener_exported:
            self._listener_exported = not self._listener_exported
            (self._registry.register if self._listener_exported else self._registry.unregister)(self._listener)
        self._listener.set(bool(connected))

    def snapshot(self, snapshot: Snapshot) -> None:
        """Set all database gauges. What the snapshot does not name is 0; unknown queues add up in `_other`."""
        counts: Tally[tuple[int, str]] = Tally()
        ages: dict[int, float] = {}
        for (queue, state), count in snapshot.jobs.items():
            counts[id(self._queue(queue)), state] += count
        for queue, count in snapshot.dead.items():
            counts[id(self._queue(queue)), "dead"] += count
        for queue, age in snapshot.oldest_ready_age.items():
            series = self._queue(queue)
            ages[id(series)] = max(ages.get(id(series), 0.0), age)
        for series in (self._other_queue, *self._queues.values()):
            for label, gauge in series.jobs.items():
                gauge.set(counts[id(series), label])
            series.oldest_ready_age.set(ages.get(id(series), 0.0))
        for kind in get_args(labels.WaitKind):
            self._waits[kind].set(snapshot.waits.get(kind, 0))
        self._unserved.set(snapshot.unserved)
        self._snapshot_success.set(snapshot.at)

    # ── schedules ──

    def schedule_tick(self, schedule: str, result: str, n: int = 1) -> None:
        """Count `n` ticks by what they came to; a result that is not listed counts as `other`."""
        ticks = self._schedules.get(schedule, self._other_schedule).ticks
        ticks.get(result, ticks[labels.OTHER]).inc(n)

    def schedule_times(self, schedule: str, next_tick: datetime | None, last_tick: datetime | None) -> None:
        """Set when the schedule is next due and when it last ticked (aware datetimes); None is exported as 0."""
        series = self._schedules.get(schedule, self._other_schedule)
        series.next_tick.set(next_tick.timestamp() if next_tick else 0)
        series.last_tick.set(last_tick.timestamp() if last_tick else 0)

    # ── edges ──

    def blocked(self, reason: str) -> None:
        """Count a callback that the address guard did not let out; a reason that is not listed counts as `other`."""
        self._blocked.get(reason, self._blocked[labels.OTHER]).inc()

    def auth_failure(self, surface: str, reason: str) -> None:
        """Count a request refused for its signature or token; what is not listed counts as `other`."""
        reasons = self._auth.get(surface, self._auth[labels.OTHER])
        reasons.get(reason, reasons[labels.OTHER]).inc()

    def rpc_request(self, task: str, code: int) -> None:
        """Count an RPC request by task and HTTP status; what is not listed counts as `other`."""
        codes = self._rpc.get(task, self._rpc[labels.OTHER])
        codes.get(str(code), codes[labels.OTHER]).inc()

    # ── process ──

    def reload(self, ok: bool) -> None:
        """Set whether the last reload of the configuration was accepted."""
        self._reload.set(ok)

    def draining(self, draining: bool) -> None:
        """Set whether the daemon is stopping."""
        self._draining.set(draining)

    def loop_tasks(self, number: int) -> None:
        """Set how many tasks the event loop has."""
        self._loop_tasks.set(number)

    def loop_lag(self, seconds: float) -> None:
        """Observe how much later than asked the event loop woke a timer."""
        self._loop_lag.observe(max(seconds, 0.0))

    def families(self) -> list[Metric]:
        """All series as they are now, to be put together with those of other processes. Touches memory only."""
        self._count_in_flight()
        return list(self._registry.collect())

    def render(self) -> bytes:
        """All series in Prometheus's text format, to be served as `content_type`. Touches memory only."""
        self._count_in_flight()
        return generate_latest(self._registry)

    def _count_in_flight(self) -> None:
        in_flight = dict(self._read_in_flight())
        for queue in (*self._queue_names, *in_flight):
            self._queue(queue).in_flight.set(in_flight.get(queue, 0))
