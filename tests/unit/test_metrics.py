"""The daemon's metrics: exactly those of the design, all there from the start, with closed label sets."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slayq_server import metric_labels
from slayq_server.metrics import Metrics, Snapshot
from slayq_server.model import CallbackResult, OutcomeKind
from tests.support.promtool import promtool

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"

QUEUES = {"mail", "video", "_other"}
SCHEDULES = {"nightly", "_other"}
OUTCOMES = {"completed", "retried", "dead", "cancelled", "suspended", "expired"}
RESULTS = {
    *("2xx", "3xx", "4xx", "5xx", "no_retry", "timeout", "connect_error", "dns_error", "tls_error"),
    *("blocked", "too_large", "protocol_error"),
}
STATES = {"ready", "scheduled", "blocked", "leased", "dead"}
KINDS = {"event", "invocation"}
CALLBACK_BUCKETS = "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 60.0 120.0 300.0 +Inf"
WAIT_BUCKETS = "0.001 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 15.0 60.0 300.0 900.0 3600.0 +Inf"
LEASE_BUCKETS = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 5.0 +Inf"
LAG_BUCKETS = "0.001 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 +Inf"

Row = tuple[str, dict[str, set[str]], str | None]

DESIGN: dict[str, Row] = {
    "slayq_job_attempts_total": ("counter", {"queue": QUEUES, "outcome": OUTCOMES}, None),
    "slayq_callback_responses_total": ("counter", {"queue": QUEUES, "result": RESULTS}, None),
    "slayq_callback_duration_seconds": ("histogram", {"queue": QUEUES}, CALLBACK_BUCKETS),
    "slayq_job_wait_seconds": ("histogram", {"queue": QUEUES}, WAIT_BUCKETS),
    "slayq_jobs": ("gauge", {"queue": QUEUES, "state": STATES}, None),
    "slayq_jobs_unserved": ("gauge", {}, None),
    "slayq_queue_oldest_ready_age_seconds": ("gauge", {"queue": QUEUES}, None),
    "slayq_queue_concurrency_limit": ("gauge", {"queue": QUEUES}, None),
    "slayq_queue_in_flight": ("gauge", {"queue": QUEUES}, None),
    "slayq_queue_paused": ("gauge", {"queue": QUEUES}, None),
    "slayq_waits": ("gauge", {"kind": KINDS}, None),
    "slayq_waits_expired_total": ("counter", {"kind": KINDS}, None),
    "slayq_lease_batches_total": ("counter", {"result": {"ok", "empty", "error"}}, None),
    "slayq_lease_duration_seconds": ("histogram", {}, LEASE_BUCKETS),
    "slayq_worker_renewals_total": ("counter", {"result": {"ok", "failed", "lost"}}, None),
    "slayq_leases_lost_total": ("counter", {}, None),
    "slayq_stale_writes_total": (
        "counter",
        {"kind": {"completed", "retried", "dead", "released", "suspended", "undelivered", "other"}},
        None,
    ),
    "slayq_journal_flushes_total": ("counter", {}, None),
    "slayq_journal_runs_total": ("counter", {}, None),
    "slayq_journal_ops_total": ("counter", {}, None),
    "slayq_db_pool_connections": ("gauge", {"state": {"idle", "in_use"}}, None),
    "slayq_db_errors_total": (
        "counter",
        {"kind": {"connection", "timeout", "read_only", "storage", "statement", "other"}},
        None,
    ),
    "slayq_listener_connected": ("gauge", {}, None),
    "slayq_wakeups_total": ("counter", {"source": {"notify", "poll", "timer", "rpc"}}, None),
    "slayq_schedule_next_tick_timestamp_seconds": ("gauge", {"schedule": SCHEDULES}, None),
    "slayq_schedule_last_tick_timestamp_seconds": ("gauge", {"schedule": SCHEDULES}, None),
    "slayq_schedule_ticks_total": (
        "counter",
        {"schedule": SCHEDULES, "result": {"fired", "caught_up", "skipped", "missed", "other"}},
        None,
    ),
    "slayq_callback_blocked_total": (
        "counter",
        {
            "reason": {
                *("malformed", "scheme", "credentials", "not_allowed", "denied", "loopback", "private"),
                *("link_local", "metadata", "reserved", "other"),
            }
        },
        None,
    ),
    "slayq_auth_failures_total": (
        "counter",
        {"surface": {"metrics", "rpc", "v2", "other"}, "reason": {"missing", "invalid", "expired", "other"}},
        None,
    ),
    "slayq_rpc_requests_total": (
        "counter",
        {
            "task": {
                *("add-worker-job", "wait-for-worker-event", "wait-for-invocation", "trigger-waiting-workers"),
                *("trigger-waiting-invoker", "cancel-pending-tasks", "events", "functions", "cancel", "other"),
            },
            "code": {"200", "400", "401", "413", "500", "503", "other"},
        },
        None,
    ),
    "slayq_build_info": ("gauge", {"version": {"9.9.9"}, "schema": {"7"}}, None),
    "slayq_config_last_reload_successful": ("gauge", {}, None),
    "slayq_snapshot_last_success_timestamp_seconds": ("gauge", {}, None),
    "slayq_draining": ("gauge", {}, None),
    "slayq_event_loop_lag_seconds": ("histogram", {}, LAG_BUCKETS),
    "slayq_event_loop_tasks": ("gauge", {}, None),
}

OF_PROCESSES: dict[str, Row] = {
    "slayq_process_up": ("gauge", {"process": set()}, None),
    "slayq_process_restarts_total": ("counter", {"process": set()}, None),
}
"""What a server of several processes exports besides: see test_metric_pages."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def new_metrics() -> Metrics:
    return Metrics(["mail", "video"], ["nightly"], "9.9.9", 7, aliases={"post": "mail"})


def series_of(metrics: Metrics) -> Series:
    """Every sample on the page: (name, labels) to value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def changes(record: Callable[[Metrics], object], metrics: Metrics | None = None) -> dict[str, float]:
    """The samples that `record` changed, as `name{label=value,…}` to the new value; histogram buckets left out."""
    metrics = metrics or new_metrics()
    before = series_of(metrics)
    record(metrics)
    after = series_of(metrics)
    assert after.keys() == before.keys(), "recording must not make or end series"
    changed = {}
    for (name, labels), value in after.items():
        if value != before[name, labels] and not name.endswith("_bucket"):
            inner = ",".join(f"{key}={label}" for key, label in sorted(labels))
            changed[f"{name}{{{inner}}}" if inner else name] = value
    return changed


def test_the_page_holds_exactly_the_metrics_of_the_design() -> None:
    """Names and types are those of the design, each with a help text; nothing else is exported."""
    page = new_metrics().render().decode()
    types = dict(line.split()[2:4] for line in page.splitlines() if line.startswith("# TYPE "))
    helped = {line.split()[2] for line in page.splitlines() if line.startswith("# HELP ") and len(line.split()) > 3}
    assert types == {name: kind for name, (kind, _, _) in DESIGN.items()}
    assert helped == DESIGN.keys()


@pytest.mark.parametrize("name", DESIGN)
def test_each_metric_has_all_its_series_from_the_start(name: str) -> None:
    """Before anything has happened, every combination of label values is there, and no other."""
    kind, labels, buckets = DESIGN[name]
    combinations: set[frozenset[tuple[str, str]]] = {frozenset()}
    for key, values in labels.items():
        combinations = {known | {(key, value)} for known in combinations for value in values}
    if buckets:
        with_buckets = {known | {("le", bound)} for known in combinations for bound in buckets.split()}
        expected = {(f"{name}_bucket", c) for c in with_buckets}
        expected |= {(f"{name}_{part}", c) for c in combinations for part in ("sum", "count")}
    else:
        expected = {(name, c) for c in combinations}
    suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
    there = {series for series in series_of(new_metrics()) if series[0] in {name + suffix for suffix in suffixes}}
    assert there == expected


def test_all_start_at_zero_but_what_is_known() -> None:
    """Counters start at 0, so that the first event is an increase; the build and the loaded configuration are known."""
    nonzero = {name for (name, _), value in series_of(new_metrics()).items() if value != 0}
    assert nonzero == {"slayq_build_info", "slayq_config_last_reload_successful"}


def test_no_created_series() -> None:
    """The library's `_created` series are off."""
    metrics = new_metrics()
    metrics.attempt("mail", "completed")
    assert [name for name, _ in series_of(metrics) if name.endswith("_created")] == []


OTHER_QUEUE = "slayq_job_attempts_total{outcome=dead,queue=_other}"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECORDED: dict[str, tuple[Callable[[Metrics], object], dict[str, float]]] = {
    "attempt": (
        lambda m: m.attempt("mail", "completed", 3),
        {"slayq_job_attempts_total{outcome=completed,queue=mail}": 3},
    ),
    "attempt by outcome kind": (
        lambda m: m.attempt("video", OutcomeKind.RETRIED),
        {"slayq_job_attempts_total{outcome=retried,queue=video}": 1},
    ),
    "attempt given back": (lambda m: m.attempt("mail", OutcomeKind.RELEASED), {}),
    "attempt under an alias": (
        lambda m: m.attempt("post", "dead"),
        {"slayq_job_attempts_total{outcome=dead,queue=mail}": 1},
    ),
    "attempt of an unknown queue": (lambda m: m.attempt("https://example.com/?key=1", "dead"), {OTHER_QUEUE: 1}),
    "response": (
        lambda m: m.response("mail", CallbackResult.TLS_ERROR),
        {"slayq_callback_responses_total{queue=mail,result=tls_error}": 1},
    ),
    "callback_duration": (
        lambda m: m.callback_duration("mail", 0.25),
        {
            "slayq_callback_duration_seconds_count{queue=mail}": 1,
            "slayq_callback_duration_seconds_sum{queue=mail}": 0.25,
        },
    ),
    "job_wait": (
        lambda m: m.job_wait("mail", 0.5),
        {"slayq_job_wait_seconds_count{queue=mail}": 1, "slayq_job_wait_seconds_sum{queue=mail}": 0.5},
    ),
    "job_wait, clock set back": (lambda m: m.job_wait("mail", -3.0), {"slayq_job_wait_seconds_count{queue=mail}": 1}),
    "watch_in_flight": (
        lambda m: m.watch_in_flight(lambda: [("mail", 4)]),
        {"slayq_queue_in_flight{queue=mail}": 4},
    ),
    "concurrency_limit": (lambda m: m.concurrency_limit("mail", 10), {"slayq_queue_concurrency_limit{queue=mail}": 10}),
    "paused": (lambda m: m.paused("mail", True), {"slayq_queue_paused{queue=mail}": 1}),
    "waits_expired": (lambda m: m.waits_expired("event", 2), {"slayq_waits_expired_total{kind=event}": 2}),
    "lease_batch": (
        lambda m: m.lease_batch("ok", 0.002),
        {
            "slayq_lease_batches_total{result=ok}": 1,
            "slayq_lease_duration_seconds_count": 1,
            "slayq_lease_duration_seconds_sum": 0.002,
        },
    ),
    "renewal": (lambda m: m.renewal("lost"), {"slayq_worker_renewals_total{result=lost}": 1}),
    "leases_lost": (lambda m: m.leases_lost(5), {"slayq_leases_lost_total": 5}),
    "stale_write": (
        lambda m: m.stale_write(OutcomeKind.RELEASED, 2),
        {"slayq_stale_writes_total{kind=released}": 2},
    ),
    "flush": (
        lambda m: m.flush(2, 9),
        {"slayq_journal_flushes_total": 1, "slayq_journal_runs_total": 2, "slayq_journal_ops_total": 9},
    ),
    "pool": (
        lambda m: m.pool({"idle": 1, "in_use": 3}),
        {"slayq_db_pool_connections{state=idle}": 1, "slayq_db_pool_connections{state=in_use}": 3},
    ),
    "db_error": (lambda m: m.db_error("timeout"), {"slayq_db_errors_total{kind=timeout}": 1}),
    "db_error of no listed kind": (lambda m: m.db_error("42P01"), {"slayq_db_errors_total{kind=other}": 1}),
    "listener": (lambda m: m.listener(True), {"slayq_listener_connected": 1}),
    "wakeup": (lambda m: m.wakeup("timer"), {"slayq_wakeups_total{source=timer}": 1}),
    "schedule_tick": (
        lambda m: m.schedule_tick("nightly", "caught_up", 3),
        {"slayq_schedule_ticks_total{result=caught_up,schedule=nightly}": 3},
    ),
    "schedule_tick of an unknown schedule": (
        lambda m: m.schedule_tick("yearly", "fired"),
        {"slayq_schedule_ticks_total{result=fired,schedule=_other}": 1},
    ),
    "schedule_times": (
        lambda m: m.schedule_times("nightly", MOMENT, None),
        {"slayq_schedule_next_tick_timestamp_seconds{schedule=nightly}": MOMENT.timestamp()},
    ),
    "blocked": (lambda m: m.blocked("metadata"), {"slayq_callback_blocked_total{reason=metadata}": 1}),
    "blocked for no listed reason": (
        lambda m: m.blocked("10.0.0.1"),
        {"slayq_callback_blocked_total{reason=other}": 1},
    ),
    "auth_failure": (
        lambda m: m.auth_failure("rpc", "expired"),
        {"slayq_auth_failures_total{reason=expired,surface=rpc}": 1},
    ),
    "auth_failure of nothing listed": (
        lambda m: m.auth_failure("/etc", "x"),
        {"slayq_auth_failures_total{reason=other,surface=other}": 1},
    ),
    "rpc_request": (
        lambda m: m.rpc_request("add-worker-job", 200),
        {"slayq_rpc_requests_total{code=200,task=add-worker-job}": 1},
    ),
    "rpc_request of nothing listed": (
        lambda m: m.rpc_request("../../etc/passwd", 418),
        {"slayq_rpc_requests_total{code=other,task=other}": 1},
    ),
    "reload": (lambda m: m.reload(False), {"slayq_config_last_reload_successful": 0}),
    "draining": (lambda m: m.draining(True), {"slayq_draining": 1}),
    "loop_lag": (
        lambda m: m.loop_lag(0.125),
        {"slayq_event_loop_lag_seconds_count": 1, "slayq_event_loop_lag_seconds_sum": 0.125},
    ),
    "loop_tasks": (lambda m: m.loop_tasks(31), {"slayq_event_loop_tasks": 31}),
}


@pytest.mark.parametrize(("record", "expected"), RECORDED.values(), ids=RECORDED.keys())
def test_recording_moves_its_own_series_alone(record: Callable[[Metrics], object], expected: dict[str, float]) -> None:
    """Each method moves the series it names and no other, and a value from outside makes no series of its own."""
    assert changes(record) == expected


def test_every_public_method_is_recorded_above() -> None:
    """A method added to Metrics needs a row above, or a test of its own below."""
    own = {"families", "render", "snapshot", "set_queues", "set_schedules"}
    methods = {name for name in vars(Metrics) if not name.startswith("_") and callable(getattr(Metrics, name))}
    assert methods - own == {re.split(r"[ ,]", row)[0] for row in RECORDED}


def snapshot(**fields: object) -> Snapshot:
    empty: dict[str, object] = {"at": 1.0, "jobs": {}, "dead": {}, "oldest_ready_age": {}, "waits": {}, "unserved": 0}
    return Snapshot(**(empty | fields))  # type: ignore[arg-type]


def test_snapshot_sets_the_database_gauges() -> None:
    """A snapshot sets jobs, ages, waits and its own time; aliases and unknown queues are added up where they belong."""
    taken = snapshot(
        at=1700000000.0,
        jobs={
            ("mail", "ready"): 5,
            ("post", "ready"): 2,
            ("mail", "leased"): 1,
            ("lost", "ready"): 3,
            ("gone", "ready"): 4,
        },
        dead={"post": 6, "gone": 1},
        oldest_ready_age={"mail": 10.0, "post": 20.0, "lost": 3.0, "gone": 2.0},
        waits={"event": 8},
        unserved=7,
    )
    assert changes(lambda m: m.snapshot(taken)) == {
        "slayq_jobs{queue=mail,state=ready}": 7,
        "slayq_jobs{queue=mail,state=leased}": 1,
        "slayq_jobs{queue=mail,state=dead}": 6,
        "slayq_jobs{queue=_other,state=ready}": 7,
        "slayq_jobs{queue=_other,state=dead}": 1,
        "slayq_queue_oldest_ready_age_seconds{queue=mail}": 20.0,
        "slayq_queue_oldest_ready_age_seconds{queue=_other}": 3.0,
        "slayq_waits{kind=event}": 8,
        "slayq_jobs_unserved": 7,
        "slayq_snapshot_last_success_timestamp_seconds": 1700000000.0,
    }


def test_what_a_snapshot_does_not_name_is_zero_again() -> None:
    """A queue that has drained, and waits that are over, go back to 0: nothing of the last snapshot lingers."""
    metrics = new_metrics()
    metrics.snapshot(
        snapshot(
            jobs={("mail", "ready"): 5, ("gone", "ready"): 5},
            dead={"mail": 1},
            oldest_ready_age={"mail": 9.0},
            waits={"invocation": 2},
            unserved=5,
        )
    )
    metrics.snapshot(snapshot(at=2.0))
    gauges = {
        (name, labels): value
        for (name, labels), value in series_of(metrics).items()
        if name.startswith(("slayq_jobs", "slayq_waits", "slayq_queue_oldest"))
    }
    assert {series for series, value in gauges.items() if value != 0} == set()


def test_listener_is_absent_in_poll_only() -> None:
    """None takes the series away, True or False brings it back, as often as told."""
    metrics = new_metrics()
    seen = []
    for connected in (False, None, None, True, None, False):
        metrics.listener(connected)
        seen.append(series_of(metrics).get(("slayq_listener_connected", frozenset())))
    assert seen == [0, None, None, 1, None, 0]


def test_set_queues_adds_and_drops_and_keeps_counts() -> None:
    """After a reload: new queues are there at 0, dropped ones are gone and count as `_other`, the rest count on."""
    metrics = new_metrics()
    metrics.attempt("mail", "completed", 2)
    metrics.attempt("video", "completed", 2)
    metrics.set_queues(["mail", "fresh"], {"post": "fresh"})
    metrics.attempt("mail", "completed")
    metrics.attempt("video", "completed")
    metrics.attempt("post", "completed")
    page = series_of(metrics)
    queues = {dict(labels)["queue"] for _, labels in page if "queue" in dict(labels)}
    completed = {
        dict(labels)["queue"]: value
        for (name, labels), value in page.items()
        if name == "slayq_job_attempts_total" and ("outcome", "completed") in labels
    }
    assert (queues, completed) == ({"mail", "fresh", "_other"}, {"mail": 3, "fresh": 1, "_other": 1})


def test_a_queue_that_comes_back_starts_at_zero() -> None:
    """A dropped queue leaves nothing behind: if it is configured again, all its series are there, at 0."""
    metrics = new_metrics()
    before = series_of(metrics)
    metrics.attempt("video", "dead")
    metrics.callback_duration("video", 1.0)
    metrics.set_queues(["mail"])
    metrics.set_queues(["mail", "video"], {"post": "mail"})
    assert series_of(metrics) == before


def test_set_schedules_adds_and_drops() -> None:
    """Schedules follow the configuration as queues do."""
    metrics = new_metrics()
    metrics.schedule_tick("nightly", "fired")
    metrics.set_schedules(["nightly", "hourly"])
    assert changes(lambda m: m.schedule_tick("nightly", "fired"), metrics) == {
        "slayq_schedule_ticks_total{result=fired,schedule=nightly}": 2
    }
    metrics.set_schedules(["hourly"])
    schedules = {dict(labels).get("schedule") for _, labels in series_of(metrics)} - {None}
    assert schedules == {"hourly", "_other"}


def test_two_daemons_in_one_process_do_not_meet() -> None:
    """Each Metrics has a registry of its own, so tests and `dev` may run several."""
    first, second = new_metrics(), new_metrics()
    first.attempt("mail", "completed")
    assert series_of(second) == series_of(new_metrics())


def test_promtool_finds_nothing_to_say() -> None:
    """`promtool check metrics` accepts the page, fresh and after use, without a remark."""
    metrics = new_metrics()
    assert promtool("check", "metrics", stdin=metrics.render()) == (0, "")
    for record, _ in RECORDED.values():
        record(metrics)
    assert promtool("check", "metrics", stdin=metrics.render()) == (0, "")


def test_every_metric_and_every_label_value_is_documented() -> None:
    """docs/metrics.md has a row for each metric, which names its type, its labels and their values, and no other."""
    text = DOCS.read_text(encoding="utf-8")
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(slayq_\w+)` \|.*$", text, re.MULTILINE)}
    documented = {**DESIGN, **OF_PROCESSES}
    assert rows.keys() == documented.keys()
    missing = {}
    for name, (kind, labels, buckets) in documented.items():
        from_outside = {"queue", "schedule", "version", "schema"}
        values = {value for key, listed in labels.items() if key not in from_outside for value in listed}
        bounds = {f"{float(bound):g}" for bound in (buckets or "").split() if bound != "+Inf"}
        wanted = {f"`{word}`" for word in labels.keys() | values | bounds} | {f"| {kind} |"}
        missing[name] = {word for word in wanted if word not in rows[name]}
    assert missing == {name: set() for name in documented}
    mentioned = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"`(slayq_\w+)", text)}
    assert mentioned - documented.keys() == set()


def test_the_label_sets_are_the_ones_of_the_module() -> None:
    """The outcomes a job may have are all counted, but for `released`, which is no attempt."""
    kinds = {kind.value for kind in OutcomeKind}
    assert kinds - set(get_args(metric_labels.AttemptOutcome)) == {"released", "undelivered"}
    assert kinds - set(get_args(metric_labels.StaleKind)) == set()
