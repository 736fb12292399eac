"""Upkeep: pruning what is old, each kind by itself."""

from __future__ import annotations

import pytest

from slayq_server.engine.upkeep import Upkeep
from slayq_server.errors import DatabaseUnavailable


class FakeStore:
    """Has so many old rows of each kind; a statement that would take more than it can fails."""

    def __init__(self, can: int) -> None:
        self.can = can
        self.old = dict.fromkeys(("prune_dead", "prune_triggers", "prune_events", "prune_sent"), 150)

    async def snapshot(self) -> list[tuple[str, str, str, int, float | None]]:
        return []

    async def prune(self, statement: str, *limits: float) -> int:
        most = int(limits[-1])
        if statement == "prune_dead" and most > self.can:
            raise DatabaseUnavailable("canceling statement due to statement timeout")
        gone = min(most, self.old[statement])
        self.old[statement] -= gone
        return gone


def upkeep(store: FakeStore) -> Upkeep:
    """Upkeep without history."""
    return Upkeep(store, on_snapshot=lambda _: None, on_error=lambda _: None, done_kept=None, dead_kept=60.0)


@pytest.mark.parametrize("can", [1000, 100, 20])
async def test_what_takes_too_long_is_pruned_in_smaller_batches(can: int) -> None:
    """A dead letter of a run takes thousands of steps along."""
    store = FakeStore(can)
    assert 150 == (await upkeep(store).prune_once())["prune_dead"]
    assert {0} == set(store.old.values())


async def test_what_cannot_be_pruned_keeps_nothing_else() -> None:
    """The other kinds are pruned, and the failure is told."""
    store = FakeStore(0)
    with pytest.raises(DatabaseUnavailable):
        await upkeep(store).prune_once()
    assert {"prune_dead"} == {kind for kind, rows in store.old.items() if rows}
