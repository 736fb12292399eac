"""Whatever dies, finished steps do not run again, and the run ends as it should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.durable.conftest import STEPS, App, recorded, registered, send, start_daemon
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from tests.support.daemon import Daemons

TOTAL = sum(number * number for number in range(1, STEPS + 1))


async def ended_right(connection: asyncpg.Connection, app: App, run: str) -> None:
    """The run has ended, once, with the right sum, and nothing of it is left."""
    await wait_until(lambda: app.log("finished", run=run), 30, "the run's end")
    left = "select exists (select from slayq.job) or exists (select from slayq.step)"
    await wait_until(lambda: _none(connection, left), 30, "nothing being left of the run")
    assert {TOTAL} == {line["total"] for line in app.log("finished", run=run)}
    assert not await connection.fetchval("select exists (select from slayq.dead_letter)")


async def _none(connection: asyncpg.Connection, query: str) -> bool:
    return not await connection.fetchval(query)


@pytest.mark.parametrize("number", range(1, STEPS + 1))
async def test_the_app_is_killed_after_each_step(
    daemons: Daemons, connection: asyncpg.Connection, app: App, number: int
) -> None:
    """kill -9 right after step k: steps before it run once; that one, just on its way, twice at the most."""
    await start_daemon(daemons, app)
    program = await app.start()
    await registered(connection)
    app.mark(f"kill-{number}")
    run = await send(connection, "durable/ten")
    assert -9 == await program.wait()
    await app.start()
    await ended_right(connection, app, run)
    times = app.times(run)
    assert [1] * (number - 1) == times[: number - 1]
    assert times[number - 1] in (1, 2)
    assert [1] * (STEPS - number) == times[number:]


@pytest.mark.parametrize("number", [1, 5, 10])
async def test_the_daemon_is_killed_in_each_step(
    daemons: Daemons, connection: asyncpg.Connection, app: App, number: int
) -> None:
    """kill -9 of the daemon while step k runs: those that are recorded run once, that one twice at the most."""
    daemon = await start_daemon(daemons, app)
    await app.start()
    await registered(connection)
    app.mark(f"hold-{number}")
    run = await send(connection, "durable/ten")
    await wait_until(lambda: app.log("step", run=run, step=number), 20)
    await wait_until(lambda: _recorded(connection, number - 1), 20)
    daemon.program.kill()
    app.unmark(f"hold-{number}")
    await start_daemon(daemons, app)
    await ended_right(connection, app, run)
    times = app.times(run)
    assert [1] * (number - 1) == times[: number - 1]
    assert [1 <= each <= 2 for each in times[number - 1 :]] == [True] * (STEPS - number + 1)


async def _recorded(connection: asyncpg.Connection, number: int) -> bool:
    return await recorded(connection) == number


async def test_a_callee_and_its_invoker(daemons: Daemons, connection: asyncpg.Connection, app: App) -> None:
    """The app is killed in the middle of what another function has invoked: both end right."""
    await start_daemon(daemons, app)
    program = await app.start()
    await registered(connection)
    app.mark("kill-4")
    run = await send(connection, "durable/parent")
    assert -9 == await program.wait()
    await app.start()
    await ended_right(connection, app, run)


async def test_the_daemon_stops_while_a_step_runs(daemons: Daemons, connection: asyncpg.Connection, app: App) -> None:
    """SIGTERM and no patience: the run is given back, what was recorded stays, no attempt is used."""
    daemon = await start_daemon(daemons, app, grace=0)
    await app.start()
    await registered(connection)
    app.mark("hold-6")
    run = await send(connection, "durable/ten")
    await wait_until(lambda: app.log("step", run=run, step=6), 20)
    await wait_until(lambda: _recorded(connection, 5), 20)
    daemon.program.terminate()
    assert 0 == await daemon.program.wait()
    row = await connection.fetchrow("select state, attempts, delivery_failures from slayq.job")
    assert ("ready", 0, 0) == tuple(row or ())
    app.unmark("hold-6")
    await start_daemon(daemons, app)
    await ended_right(connection, app, run)
    assert [1] * 5 == app.times(run)[:5]
