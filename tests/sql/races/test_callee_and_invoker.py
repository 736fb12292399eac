"""A callee's end against the segment of its invoker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import RunsDaemon, leased

if TYPE_CHECKING:
    import asyncpg


pytestmark = pytest.mark.usefixtures("shop")


async def test_a_callee_ends_while_its_invoker_is_still_leased(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """The invocation is written, the segment not yet over: the result is there as soon as it suspends."""
    segment = await leased(connection, runs)
    await runs.flush(segment.invoke("invoice"))
    await runs.flush((await runs.lease_one()).ends("done", output=5))
    assert (1, []) == tuple(await runs.match())[:2]
    (row,) = await runs.flush(segment.ends("suspended"))
    assert "general" == row["ready"]
    assert {"invoice": ("done", 5)} == (await runs.lease_one()).steps
