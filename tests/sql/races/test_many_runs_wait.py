"""Senders, waits and matching, all at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import PAID, PLACED, RunsDaemon, send

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect

pytestmark = pytest.mark.usefixtures("shop")


async def test_no_wake_up_is_lost_in_any_order(
    connection: asyncpg.Connection, connect: Connect, runs: RunsDaemon
) -> None:
    """300 runs, whose event is sent before, while and after the wait is added, all at once: each wakes, none twice."""
    number = 300
    for order in range(number):
        await send(connection, PLACED, {"order": order})
    segments = await runs.lease(number)
    senders = [await connect() for _ in range(3)]
    flusher, matcher = RunsDaemon(runs.daemon, await connect()), RunsDaemon(runs.daemon, await connect())
    over = asyncio.Event()

    async def send_all(sender: asyncpg.Connection, orders: range) -> None:
        for order in orders:
            await send(sender, PAID, {"order": order})

    async def wait_all() -> None:
        left = [segment.wait("payment", str(order)).ends("suspended") for order, segment in enumerate(segments)]
        while left:
            batch, left = left[:7], left[7:]
            said = [segment.ops for segment in batch]
            for segment, ops, row in zip(batch, said, await flusher.flush(*batch), strict=True):
                if row["verdict"] == "locked":
                    segment.ops = ops
                    left.append(segment)
                else:
                    assert "settled" == row["verdict"]

    async def match_all() -> None:
        while not over.is_set():
            await matcher.match(20)

    matching = asyncio.ensure_future(match_all())
    third = number // 3
    await asyncio.gather(
        wait_all(), *(send_all(sender, range(n * third, (n + 1) * third)) for n, sender in enumerate(senders))
    )
    over.set()
    await matching
    while (await matcher.match())["more"]:
        pass
    woken = await runs.lease(number + 1)
    assert number == len(woken)
    assert all(list(segment.steps) == ["payment"] and segment.steps["payment"][0] == "done" for segment in woken)
