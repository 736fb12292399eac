"""Poison: a job that kills whichever daemon delivers it does so no more often than it has attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.daemon import add, until_no_jobs

if TYPE_CHECKING:
    import asyncpg

    from tests.support.daemon import Daemons
    from tests.support.endpoint import Endpoint, Received
    from tests.support.process import Program

ATTEMPTS = 3
QUICK = {"lease": 1, "renew": 0.2}


async def test_a_job_that_kills_its_daemon(
    daemons: Daemons, connection: asyncpg.Connection, endpoint: Endpoint
) -> None:
    """It ends as a dead letter that says why, and every other job is delivered."""
    programs: list[Program] = []

    def kill(callback: Received) -> int:
        if callback.event == "test/poison":
            programs[-1].kill()
        return 200

    endpoint.handler = kill
    programs.append(daemons.launch(worker=QUICK))
    await add(connection, endpoint.url, event="test/poison", max_attempts=ATTEMPTS)
    for number in range(5):
        await add(connection, endpoint.url, data={"n": number})
    for _ in range(ATTEMPTS):
        assert -9 == await programs[-1].wait(30)
        programs.append(daemons.launch(worker=QUICK))
    await until_no_jobs(connection, 30)
    dead = await connection.fetch("select event, reason, attempts from slayq.dead_letter")
    assert [("test/poison", "lease-lost", ATTEMPTS)] == [tuple(letter) for letter in dead]
    poison = [callback.retry for callback in endpoint.received if callback.event == "test/poison"]
    assert list(range(1, ATTEMPTS + 1)) == poison
    assert set(range(5)) == {callback.data["n"] for callback in endpoint.received if callback.event == "test/event"}
