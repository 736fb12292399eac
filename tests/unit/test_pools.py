"""Pools: what is free, what is paused, and what a reload does to deliveries in flight."""

from __future__ import annotations

import pytest

from slayq_server.engine import pools as pools_module
from slayq_server.engine.pools import Pool, Pools


def pool(name: str = "mail", *aliases: str, limit: int = 3, cluster: bool = False) -> Pool:
    """A pool."""
    return Pool(name, (name, *aliases), limit, cluster=cluster)


def test_a_pool_that_stays_keeps_its_deliveries_and_takes_the_new_rules() -> None:
    """The limit sinks below what is in flight: nothing is free until enough has ended."""
    pools = Pools([pool(limit=3)])
    held = pools.get("mail")
    assert held is not None
    held.in_flight = 3
    pools.replace([pool("mail", "post", limit=1)])
    assert pools.get("post") is held
    assert (1, 3, 0) == (held.limit, held.in_flight, held.free)


def test_a_pool_that_comes_back_has_still_in_flight_what_it_had() -> None:
    """Two reloads, the first of which lost the queue: the limit holds over all deliveries of it."""
    pools = Pools([pool(limit=3)])
    held = pools.get("mail")
    assert held is not None
    held.in_flight = 3
    pools.replace([pool("other")])
    assert pools.get("mail") is None
    assert 3 == pools.in_flight
    pools.replace([pool("other"), pool(limit=3)])
    again = pools.get("mail")
    assert again is not None
    assert (3, 0) == (again.in_flight, again.free)


def test_slots_under_another_limit_are_asked_for_anew() -> None:
    """Slots with numbers above a lowered limit count for nothing: the database says which those are."""
    pools = Pools([pool(limit=10, cluster=True)])
    held = pools.get("mail")
    assert held is not None
    held.slots = 5
    pools.replace([pool(limit=10, cluster=True)])
    assert 5 == held.slots
    pools.replace([pool(limit=4, cluster=True)])
    assert (0, 0) == (held.slots, held.free)


def test_a_pool_is_paused_when_all_of_its_names_are() -> None:
    """One paused name of two is for the lease statement to leave out."""
    pools = Pools([pool("mail", "post")])
    assert [] == pools.set_paused(frozenset({"mail"}))
    held = pools.get("mail")
    assert held is not None
    assert 3 == held.free
    pools.set_paused(frozenset({"mail", "post"}))
    assert 0 == held.free
    assert [held] == pools.set_paused(frozenset({"post"}))


def test_a_pool_is_full_by_its_deliveries_alone() -> None:
    """What a lease on its way has reserved may yet be free; of a cluster's limit the slots held count."""
    held = pool(limit=2)
    held.reserved = 2
    assert (False, 0) == (held.full, held.free)
    held.in_flight = 2
    assert held.full
    shared = pool(limit=2, cluster=True)
    assert shared.full
    shared.slots = 1
    assert not shared.full
    shared.in_flight = 1
    assert shared.full


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test changes."""
    now = [100.0]
    monkeypatch.setattr(pools_module, "monotonic", lambda: now[0])
    return now


def busy(limit: int = 10, rate: float = 1000.0, *, cluster: bool = False) -> Pool:
    """A pool of which so many deliveries end a second."""
    made = pool(limit=limit, cluster=cluster)
    made.rate, made.rated_at = rate, 100.0
    return made


@pytest.mark.usefixtures("clock")
def test_a_busy_pool_leases_ahead_what_begins_within_20_ms() -> None:
    """And a slow one, or one of which nothing is known, no more than it has slots for."""
    assert 3 == pool(limit=3).wanted
    assert 10 + 20 == busy(10, 1000).wanted
    assert 10 + 2 == busy(10, 100).wanted
    assert 10 == busy(10, 49).wanted
    assert 50 + 200 == busy(50, 1_000_000).wanted  # the most


@pytest.mark.usefixtures("clock")
def test_leasing_ahead_goes_by_halves() -> None:
    """Full slots alone are no reason for a statement; free ones are."""
    held = busy(10, 1000)
    held.in_flight, held.ahead = 10, 11
    assert 0 == held.wanted
    held.ahead = 10
    assert 10 == held.wanted
    held.in_flight, held.ahead = 9, 11
    assert 1 == held.wanted


@pytest.mark.usefixtures("clock")
def test_nothing_is_leased_ahead_of_a_single_slot_a_shared_limit_or_a_paused_queue() -> None:
    """One by one means just that; slots of the cluster's limit are counted by the database."""
    assert 1 == busy(1).wanted
    shared = busy(cluster=True)
    shared.slots = 4
    assert 4 == shared.wanted
    paused = busy()
    paused.paused = True
    assert 0 == paused.wanted


def test_a_rate_is_an_average_of_late(clock: list[float]) -> None:
    """It takes a tenth of a second to rise, and to fall when nothing ends any more; a reload changes nothing."""
    held = pool(limit=10)
    for _ in range(1000):
        clock[0] += 0.001
        held.note_end()
    assert 950 < held.rate < 1050
    Pools([held]).replace([pool(limit=10)])
    assert 20 == held.wanted_ahead
    clock[0] += 0.4
    assert 0 == held.wanted_ahead
