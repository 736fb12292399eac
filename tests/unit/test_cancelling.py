"""Runs that are cancelled while they are delivered: found by a word, and soon even if the word came early."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from slayq_server.engine.cancelling import Cancellations
from tests.support.virtual import in_virtual_time, now

if TYPE_CHECKING:
    from collections.abc import Collection


class Rig:
    """A daemon that has been told of cancelled runs, and delivers some."""

    def __init__(self) -> None:
        self.cancelled: list[tuple[int, int]] = []
        self.delivered: set[tuple[int, int]] = set()
        self.closed: list[float] = []
        self.cancellations = Cancellations(
            self,
            SimpleNamespace(id=1),
            delivers_runs=lambda: bool(self.delivered),
            cancel=self._cancel,
            on_error=lambda _: None,
        )

    async def cancelled_runs(self, worker_id: int) -> list[tuple[int, int]]:
        return list(self.cancelled)

    def _cancel(self, leases: Collection[tuple[int, int]]) -> int:
        found = self.delivered.intersection(leases)
        self.closed += [now()] * len(found)
        self.delivered -= found
        self.cancelled = [lease for lease in self.cancelled if lease not in found]
        return len(found)


@pytest.mark.parametrize("others", [set(), {(9, 1)}], ids=["idle", "busy"])
def test_a_word_that_comes_before_the_answer_to_the_lease(others: set[tuple[int, int]]) -> None:
    """The run is cancelled and being leased; its delivery begins a moment later, and is closed within the second."""

    @in_virtual_time
    async def go() -> None:
        rig = Rig()
        rig.delivered = set(others)
        rig.cancellations.listening(connected=True)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(rig.cancellations.run())
            await asyncio.sleep(7)
            rig.cancelled = [(1, 1)]
            rig.cancellations.look()
            await asyncio.sleep(0.01)
            rig.delivered.add((1, 1))
            await asyncio.sleep(20)
            task.cancel()
        assert len(rig.closed) == 1
        assert rig.closed[0] < 8.1

    go()
