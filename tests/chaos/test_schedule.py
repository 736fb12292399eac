"""Schedules of faults: the same from the same seed, one fault after another, each kind before any comes again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.chaos.schedule import KINDS, LEASES, schedule


def test_the_same_seed_makes_the_same_schedule() -> None:
    """And another seed another."""
    first = schedule(7, 300, list(KINDS), daemons=3, lease=3)
    assert first == schedule(7, 300, list(KINDS), daemons=3, lease=3)
    assert first != schedule(8, 300, list(KINDS), daemons=3, lease=3)


@pytest.mark.parametrize("seed", range(20))
def test_one_after_another(seed: int) -> None:
    """With some calm in between, all over in time, and no kind a second time before each has been there."""
    faults = schedule(seed, 300, list(KINDS), daemons=3, lease=3, gap=(1, 2))
    assert faults[-1].at + faults[-1].seconds <= 300
    assert all(later.at - sooner.at - sooner.seconds >= 1 - 0.01 for sooner, later in pairwise(faults))
    assert {0, 1, 2} >= {fault.target for fault in faults}
    kinds = [fault.kind for fault in faults]
    assert len(set(kinds[: len(KINDS)])) == min(len(kinds), len(KINDS))


@pytest.mark.parametrize("seed", range(20))
def test_each_once(seed: int) -> None:
    """However short the time; each as short as it may be."""
    faults = schedule(seed, 1, list(KINDS), daemons=2, lease=3, each_once=True)
    assert sorted(KINDS) == sorted(fault.kind for fault in faults)
    assert {fault.kind: KINDS[fault.kind][0] * (3 if fault.kind in LEASES else 1) for fault in faults} == {
        fault.kind: pytest.approx(fault.seconds) for fault in faults
    }


def test_a_freeze_lasts_for_twice_the_lease() -> None:
    """At least."""
    faults = schedule(1, 300, ["daemon_freeze"], daemons=1, lease=5)
    assert faults
    assert all(fault.seconds >= 10 for fault in faults)


def test_no_faults() -> None:
    """Nothing is broken where nothing was asked for."""
    assert [] == schedule(1, 300, [], daemons=1, lease=5)


def test_an_unknown_fault() -> None:
    """It is named, with those there are."""
    with pytest.raises(ValueError, match=r"no fault is named pg_nap: there are daemon_kill"):
        schedule(1, 300, ["pg_nap"], daemons=1, lease=5)
