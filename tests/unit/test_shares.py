"""How the processes of one server share the limits of its queues."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slayq_server.config import Config
from slayq_server.shares import Dealer


def config(**limits: int) -> Config:
    """Queues with these limits."""
    return Config.model_validate({"queues": {name: {"concurrency": limit} for name, limit in limits.items()}})


def dealt(dealer: Dealer, given: Config, *, ticks: bool = False) -> dict[str, list[int]]:
    """The limits in each process, by queue."""
    parts = dealer.divide(given, ticks=ticks)
    return {name: [part.queues[name].concurrency for part in parts] for name in parts[0].queues}


@given(
    st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=8), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_the_shares_add_up_to_the_limit_and_only_grow_with_it(reloads: list[list[int]], processes: int) -> None:
    """After each of several reloads; no reload takes a slot from one process and gives it to another."""
    dealer = Dealer(processes)
    before: dict[str, list[int]] = {}
    for limits in reloads:
        given_now = {f"q{number}": limit for number, limit in enumerate(limits)}
        now = dealt(dealer, config(**given_now))
        assert given_now == {name: sum(shares) for name, shares in now.items()}
        for name in now.keys() & before.keys():
            changes = {(new > old) - (new < old) for old, new in zip(before[name], now[name], strict=True)}
            assert not {1, -1} <= changes
        before = {**before, **now}


def test_serial_queues_are_dealt_round() -> None:
    """A queue with one slot is in one process, the next queue in the next one."""
    shares = dealt(Dealer(3), config(a=1, b=1, c=1, d=4))
    assert {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1], "d": [2, 1, 1]} == shares


def test_the_order_of_a_later_file_changes_nothing() -> None:
    """A queue keeps its process, also when it was away for a while."""
    dealer = Dealer(2)
    first = dealt(dealer, config(a=1, b=1))
    assert {"b": first["b"]} == dealt(dealer, config(b=1))
    assert first == dealt(dealer, config(b=1, a=1))


def test_a_limit_of_the_cluster_is_not_divided() -> None:
    """Slots in the database hold it."""
    given = Config.model_validate({"queues": {"a": {"concurrency": 3, "scope": "cluster"}, "b": {"concurrency": 1}}})
    assert {"a": [3, 3], "b": [1, 0]} == dealt(Dealer(2), given)


@pytest.mark.parametrize(("queues", "expected"), [({}, [1, 0]), ({"cron": 2}, [1, 1])])
def test_the_queue_of_the_minute_tick_has_one_slot_in_all(queues: dict[str, int], expected: list[int]) -> None:
    """Where none is configured, not each process makes one up."""
    assert expected == dealt(Dealer(2), config(a=2, **queues), ticks=True)["cron"]
    assert "cron" in queues or "cron" not in dealt(Dealer(2), config(a=2))


def test_workers_have_names_of_their_own() -> None:
    """A configured name gets the number of the process; the rest is the same in all."""
    given = config(a=2).model_copy(update={"worker": config(a=2).worker.model_copy(update={"name": "east"})})
    parts = Dealer(2).divide(given, ticks=False)
    assert ["east/1", "east/2"] == [part.worker.name for part in parts]
    assert all(one.model_copy(update={"worker": two.worker}) == two for one, two in itertools.pairwise(parts))
