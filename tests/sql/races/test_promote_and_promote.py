"""Two daemons promote jobs of one serial queue: the order holds, however slow one of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sql.races.support import commit_or_not, promote
from tests.sql.support import add, live, make_due

if TYPE_CHECKING:
    import asyncpg

    from tests.conftest import Connect
    from tests.sql.support import Daemon

LANE = "orders of one customer"


@commit_or_not
async def test_a_later_job_does_not_pass_an_open_promotion(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon, commits: bool
) -> None:
    """The first job is on its way in a transaction that is open: the second one does not become head past it.

    Nobody waits for that transaction: the other daemon passes by, and soon looks again.
    """
    first = await add(connection, "first", serial=LANE)
    await make_due(connection, first["id"])
    slow = await connect()
    transaction = slow.transaction()
    await transaction.start()
    assert 1 == (await promote(slow))["promoted"]
    second = await add(connection, "second", serial=LANE)
    await make_due(connection, second["id"])
    passed_by = await promote(connection)
    assert (0, [], True) == (passed_by["promoted"], passed_by["ready"], 0 < passed_by["due_in"] < 0.1)
    await (transaction.commit() if commits else transaction.rollback())
    await promote(connection)
    assert "first" == (await daemon.lease_one()).job_key
    assert "blocked" == (await live(connection, "second"))["state"]


async def test_a_job_that_an_app_has_locked_holds_up_no_other(
    connection: asyncpg.Connection, connect: Connect, daemon: Daemon
) -> None:
    """An app's open transaction on the first job: the second one goes first."""
    for key in ("first", "second"):
        await make_due(connection, (await add(connection, key, serial=LANE))["id"])
    app = await connect()
    async with app.transaction():
        await add(app, "first", serial=LANE)
        await promote(connection)
        assert "second" == (await daemon.lease_one()).job_key


@pytest.mark.parametrize("others", ["lane", "no lane"])
async def test_other_jobs_do_not_wait(connection: asyncpg.Connection, connect: Connect, others: str) -> None:
    """What is in another serial queue, or in none, is promoted meanwhile."""
    first = await add(connection, "first", serial=LANE)
    await make_due(connection, first["id"])
    slow = await connect()
    async with slow.transaction():
        await promote(slow)
        other = await add(connection, "other", serial="another" if others == "lane" else None)
        if others == "lane":
            await make_due(connection, other["id"])
            assert ["mail"] == (await promote(connection))["ready"]
        assert "ready" == (await live(connection, "other"))["state"]


async def test_one_promotion_gives_heads(connection: asyncpg.Connection) -> None:
    """Of several due jobs of a serial queue the first becomes ready, in the same statement."""
    ids = [(await add(connection, f"job {number}", serial=LANE))["id"] for number in range(3)]
    await make_due(connection, *ids)
    promoted = await promote(connection)
    assert (3, ["mail"]) == (promoted["promoted"], promoted["ready"])
    states = [(await live(connection, f"job {number}"))["state"] for number in range(3)]
    assert ["ready", "blocked", "blocked"] == states
