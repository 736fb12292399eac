"""The alert rules, their tests, their runbook and the dashboard: checked by promtool, and against what is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from slayq_server import metric_pages
from slayq_server.metrics import Metrics
from tests.support.promtool import promtool

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"

ALERTS = {
    *("SlayQServerDown", "SlayQNoServer", "SlayQProcessMissing", "SlayQReloadFailed"),
    *("SlayQOldestReadyJob", "SlayQNoAttempts", "SlayQAttemptsFailing", "SlayQDeadLetters"),
    *("SlayQQueueSaturated", "SlayQJobsUnserved"),
    *("SlayQEndpointUnreachable", "SlayQCallbacksBlocked", "SlayQScheduleOverdue"),
    *("SlayQSnapshotStale", "SlayQDatabaseErrors", "SlayQListenerDown"),
}
DATABASE_GAUGES = {
    *("slayq_jobs", "slayq_jobs_unserved", "slayq_waits", "slayq_queue_oldest_ready_age_seconds"),
    *("slayq_schedule_next_tick_timestamp_seconds", "slayq_schedule_last_tick_timestamp_seconds"),
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> dict[str, dict[str, Any]]:
    """The alert rules by name."""
    return {rule["alert"]: rule for group in load(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    page: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "slayq.json").read_text(encoding="utf-8"))
    return page


def panel_expressions() -> list[str]:
    """Every query of the dashboard, its variables replaced by something that parses."""
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    return [
        query.replace("$__rate_interval", "5m").replace("$job", "slayq").replace("$queue", ".*") for query in queries
    ]


EXPRESSIONS = [rule["expr"] for rule in rules().values()] + panel_expressions()


def exported() -> dict[str, dict[str, set[str]]]:
    """Every sample name that a daemon exports, or a server of several, with the values of its labels."""
    names: dict[str, dict[str, set[str]]] = {}
    page = metric_pages.render([metric_pages.ProcessPage(1, Metrics(["q"], ["s"], "1", 1).families(), 0)])
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = names.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return names


# ── Prometheus ──


def test_promtool_accepts_the_configuration() -> None:
    """`promtool check config` and `check rules` pass."""
    assert promtool("check", "config", "prometheus.yml", cwd=PROMETHEUS)[0] == 0
    code, output = promtool("check", "rules", "rules.yml", cwd=PROMETHEUS)
    assert (code, f"{len(ALERTS)} rules found" in output) == (0, True), output


def test_alerts_fire_and_stay_silent_as_they_should() -> None:
    """`promtool test rules` passes."""
    code, output = promtool("test", "rules", "rules_test.yml", cwd=PROMETHEUS)
    assert code == 0, output


def test_every_alert_is_tested_both_ways() -> None:
    """Each alert of the design is there, and has a unit test in which it fires and one in which it does not."""
    fires: set[str] = set()
    silent: set[str] = set()
    for case in load(PROMETHEUS / "rules_test.yml")["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert (rules().keys(), fires, silent) == (ALERTS, ALERTS, ALERTS)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_every_alert_says_what_and_leads_to_its_runbook_section(alert: str) -> None:
    """An alert has a severity, a summary, a description, and a link to a section with all three parts."""
    rule = rules()[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    section = runbook.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]
    assert [part for part in ("**Means:**", "**Look at:**", "**Do:**") if part not in section] == []


def test_the_runbook_has_no_section_without_an_alert() -> None:
    """Every section of the runbook belongs to an alert."""
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", runbook, re.MULTILINE)) == ALERTS
    assert set(re.findall(r"\bSlayQ[A-Z]\w+", runbook)) <= ALERTS


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rules_and_panels_use_what_is_exported(expression: str) -> None:
    """A rule or a panel names only metrics, labels and label values that a daemon exports."""
    known = exported()
    used = set(re.findall(r"\bslayq_\w+", expression))
    assert used - known.keys() == set()
    for name, selector in re.findall(r"\b(slayq_\w+)\{([^}]*)\}", expression):
        for label, operator, wanted in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
            assert label in known[name].keys() | {"job", "instance"}
            if label not in {"job", "instance", "queue", "schedule"}:
                values = set(wanted.split("|")) if "~" in operator else {wanted}
                assert values - known[name][label] == set()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_describes_the_database_is_never_summed_over_daemons(expression: str) -> None:
    """Every daemon exports the database's gauges, so each use of one is inside a `max by`."""
    for name in DATABASE_GAUGES:
        for use in re.finditer(rf"\b{name}\b", expression):
            assert re.search(r"max by \([\w, ]+\) \($", expression[: use.start()]), expression


# ── Grafana ──


def test_every_metric_is_on_the_dashboard() -> None:
    """Whatever a daemon exports can be looked at."""
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bslayq_\w+", " ".join(panel_expressions()))
    }
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported()}
    assert families - shown == set()


def test_the_panels_queries_are_valid(tmp_path: Path) -> None:
    """promtool parses every query of the dashboard."""
    panels = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(panel_expressions())]
    (tmp_path / "panels.yml").write_text(
        json.dumps({"groups": [{"name": "panels", "rules": panels}]}), encoding="utf-8"
    )
    code, output = promtool("check", "rules", "panels.yml", cwd=tmp_path)
    assert (code, f"{len(panels)} rules found" in output) == (0, True), output


def test_the_dashboard_is_whole() -> None:
    """Panels have ids of their own, do not overlap, and ask the provisioned data source."""
    page = dashboard()
    ids = [panel["id"] for panel in page["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (column, line)
        for panel in page["panels"]
        for box in [panel["gridPos"]]
        for column in range(box["x"], box["x"] + box["w"])
        for line in range(box["y"], box["y"] + box["h"])
    ]
    assert (len(set(cells)), max(column for column, _ in cells)) == (len(cells), 23)
    source = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    chosen = next(variable for variable in page["templating"]["list"] if variable["type"] == "datasource")
    assert (source["type"], chosen["query"], chosen["current"]["value"]) == ("prometheus", "prometheus", source["uid"])
    uses = {panel["datasource"]["uid"] for panel in page["panels"] if panel["type"] != "row"}
    assert uses == {"${datasource}"}
