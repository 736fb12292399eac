"""How much of everything a run of the benchmark does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes. A case's name says the size it has at the full scale, where it says one."""

    name: str
    rounds: int
    """Of each case, ours and the rival in turn."""
    steady_rounds: int
    """Of what is noisy: the latency at a low rate, where few jobs make the percentiles."""
    ceiling_seconds: float
    drain_jobs: int
    long_drain_jobs: int
    """Of the drains named 100k; 0: left out."""
    steady_seconds: float
    """Of the latency at a low rate."""
    latency_seconds: float
    idle_settle_seconds: float
    """After which a daemon has done what a start needs."""
    idle_seconds: float
    parked: tuple[int, int]
    """Jobs of the backlogs named 100k and 1m."""
    blocked: int
    backlog_rounds: int
    spread_seconds: float
    daemon_jobs: int
    steps: int
    """In all, however many runs they are in."""
    add_seconds: float
    bloat_jobs: int


FULL = Scale(
    name="full",
    rounds=3,
    steady_rounds=4,
    ceiling_seconds=1.5,
    drain_jobs=10_000,
    long_drain_jobs=100_000,
    steady_seconds=10,
    latency_seconds=6,
    idle_settle_seconds=12,
    idle_seconds=45,
    parked=(100_000, 1_000_000),
    blocked=100_000,
    backlog_rounds=500,
    spread_seconds=6,
    daemon_jobs=10_000,
    steps=10_000,
    add_seconds=3,
    bloat_jobs=2_000_000,
)
QUICK = Scale(
    name="quick",
    rounds=2,
    steady_rounds=2,
    ceiling_seconds=0.5,
    drain_jobs=10_000,
    long_drain_jobs=0,
    steady_seconds=5,
    latency_seconds=3,
    idle_settle_seconds=12,
    idle_seconds=15,
    parked=(20_000, 100_000),
    blocked=20_000,
    backlog_rounds=200,
    spread_seconds=3,
    daemon_jobs=5_000,
    steps=3_000,
    add_seconds=1.5,
    bloat_jobs=50_000,
)
SMOKE = Scale(
    name="smoke",
    rounds=1,
    steady_rounds=1,
    ceiling_seconds=0.1,
    drain_jobs=300,
    long_drain_jobs=0,
    steady_seconds=0.5,
    latency_seconds=0.3,
    idle_settle_seconds=0.5,
    idle_seconds=1,
    parked=(100, 1_000),
    blocked=100,
    backlog_rounds=12,
    spread_seconds=0.5,
    daemon_jobs=300,
    steps=200,
    add_seconds=0.3,
    bloat_jobs=2_000,
)
SCALES = {scale.name: scale for scale in (FULL, QUICK, SMOKE)}
