"""Upkeep: pruning what is old, each kind by itself."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from slayq_server.clock import SystemClock
from slayq_server.engine.upkeep import Upkeep
from slayq_server.errors import DatabaseUnavailable
from tests.support.virtual import VirtualClock, in_virtual_time, now


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
    return Upkeep(
        store,
        SystemClock(),
        beats_every=5.0,
        on_snapshot=lambda _: None,
        on_error=lambda _: None,
        done_kept=None,
        dead_kept=60.0,
    )


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


class Counting(FakeStore):
    """Notes when it is asked for what, and how many are at it at once."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.snapshots: list[float] = []
        self.prunes: list[float] = []
        self.at_once = 0
        self.most_at_once = 0

    async def _busy(self) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.5)
        self.at_once -= 1

    async def snapshot(self) -> list[tuple[str, str, str, int, float | None]]:
        self.snapshots.append(now())
        await self._busy()
        return []

    async def prune(self, statement: str, *limits: float) -> int:
        self.prunes.append(now())
        await self._busy()
        return 0


@pytest.mark.parametrize("every", [0.1, 1.0, 5.0])
def test_all_goes_by_the_beat_and_one_after_the_other(every: float) -> None:
    """Snapshots are less than 15 s apart, pruning a minute; nothing at the same time, and nothing without a beat."""

    @in_virtual_time
    async def run() -> None:
        store = Counting()
        worker = Upkeep(
            store,
            VirtualClock(),
            beats_every=every,
            on_snapshot=lambda _: None,
            on_error=lambda _: None,
            done_kept=60.0,
            dead_kept=60.0,
        )
        task = asyncio.create_task(worker.run())
        await asyncio.sleep(100)
        assert [] == store.snapshots + store.prunes
        while now() < 400:
            worker.beat()
            await asyncio.sleep(every)
        task.cancel()
        gaps = [later - earlier for earlier, later in itertools.pairwise([100.0, *store.snapshots])]
        assert max(gaps) < 15
        assert len(gaps) <= 300 / 9
        assert 5 * 5 <= len(store.prunes) <= 6 * 5
        assert 1 == store.most_at_once

    run()
