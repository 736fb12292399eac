"""What the health of one process, and of several, comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slayq_server.http.health import DATABASE_GRACE, HealthState, ProcessHealth, ServerHealth

WELL = HealthState(database=True, database_down_for=0.0, schema=True, worker=True, leasing=True, draining=False)
AWAY = replace(WELL, database=False, database_down_for=1.0, worker=False)
DRAINING = replace(WELL, draining=True)


def of(*states: HealthState | None, silent_for: float = 1.0) -> ServerHealth:
    """A server of such processes; those without a state have been silent for so long."""
    return ServerHealth(
        [
            ProcessHealth(number, state, 0.0 if state is not None else silent_for)
            for number, state in enumerate(states, start=1)
        ]
    )


@pytest.mark.parametrize(
    ("server", "ready", "healthy"),
    [
        (of(WELL, WELL), True, True),
        (of(WELL, AWAY), False, True),
        (of(WELL, replace(AWAY, database_down_for=DATABASE_GRACE)), False, False),
        (of(WELL, DRAINING), False, False),
        (of(WELL, None), False, True),
        (of(WELL, None, silent_for=DATABASE_GRACE), False, False),
        (of(None, None), False, False),
        (of(), False, False),
    ],
)
def test_a_server_is_as_well_as_its_worst_process(server: ServerHealth, ready: bool, healthy: bool) -> None:
    """A process that is missing is forgiven for as long as a database is, while another one is there."""
    assert (ready, healthy) == (server.ready, server.healthy)


def test_the_report_says_which_process_lacks_what() -> None:
    """Checks are those of all, details those of each."""
    report = of(WELL, AWAY, None).report(ok=False)
    assert "unavailable" == report["status"]
    assert ["processes", "database", "worker"] == [name for name, good in report["checks"].items() if not good]
    assert 1.0 == report["database_down_for_seconds"]
    assert [
        {"process": 1, "not_so": []},
        {"process": 2, "not_so": ["database", "worker"]},
        {"process": 3, "silent_for_seconds": 1.0},
    ] == report["detail"]["processes"]
