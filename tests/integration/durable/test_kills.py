"""Whatever dies, finished steps do not run again, and the run ends as it should."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg
import pytest

from slayq_server.dev.cluster import temporary_cluster
from tests.conftest import chosen_installation
from tests.integration.durable.conftest import STEPS, App, ended_right, held_in, registered, send, start_daemon
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from tests.support.daemon import Daemons


SOME = [number if number in (1, 6) else pytest.param(number, marks=pytest.mark.long) for number in range(1, STEPS + 1)]
EACH_STEP = pytest.mark.parametrize("number", SOME)


def ran_once_before(app: App, run: str, number: int) -> None:
    """Steps before that one ran once; it and those after it once, or twice if they were in flight."""
    times = app.times(run)
    assert [1] * (number - 1) == times[: number - 1]
    assert all(1 <= each <= 2 for each in times[number - 1 :]), times


@EACH_STEP
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
    ran_once_before(app, run, number)
    assert [1] * (STEPS - number) == app.times(run)[number:]


@EACH_STEP
async def test_the_daemon_is_killed_in_each_step(
    daemons: Daemons, connection: asyncpg.Connection, app: App, number: int
) -> None:
    """kill -9 of the daemon while step k runs: those that are recorded run once, that one twice."""
    daemon = await start_daemon(daemons, app)
    await app.start()
    await registered(connection)
    run = await held_in(connection, app, number)
    daemon.program.kill()
    await start_daemon(daemons, app)
    app.unmark(f"hold-{number}")
    await ended_right(connection, app, run)
    ran_once_before(app, run, number)


@EACH_STEP
async def test_the_stream_is_cut_in_each_step(
    daemons: Daemons, connection: asyncpg.Connection, app: App, number: int
) -> None:
    """The connection breaks while step k runs: the app's task is cancelled, and the run goes on with that step."""
    async with Proxy(app.port) as proxy:
        app.url = f"http://127.0.0.1:{proxy.port}/slayq"
        await start_daemon(daemons, app)
        await app.start()
        await registered(connection)
        run = await held_in(connection, app, number)
        proxy.cut()
        app.unmark(f"hold-{number}")
        await ended_right(connection, app, run)
    ran_once_before(app, run, number)


@pytest.mark.parametrize("number", [*SOME, pytest.param(STEPS + 1, marks=pytest.mark.long)])
async def test_the_stream_is_cut_at_each_op(
    daemons: Daemons, connection: asyncpg.Connection, app: App, number: int
) -> None:
    """The connection breaks instead of passing op k on, the first time: what passed before it is not done again."""
    left = number

    def allows(data: bytes) -> int:
        nonlocal left
        for op in re.finditer(rb'\{"op":"(step|done)"', data):
            left -= 1
            if left == 0:
                return op.start()
        return len(data)

    async with Proxy(app.port, allows=allows) as proxy:
        app.url = f"http://127.0.0.1:{proxy.port}/slayq"
        await start_daemon(daemons, app)
        await app.start()
        await registered(connection)
        run = await send(connection, "durable/ten")
        await ended_right(connection, app, run)
        assert proxy.cuts == 1
    ran_once_before(app, run, number)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgres_is_restarted_in_a_step(
    daemons: Daemons, app: App, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded steps stay recorded; the run goes on when Postgres is back, whether the daemon kept its lease or not."""
    with temporary_cluster(chosen_installation(), durable=True) as cluster:
        url = cluster.url()
        object.__setattr__(daemons, "database_url", url)
        monkeypatch.setattr(app, "_database_url", url)
        await start_daemon(daemons, app)
        connection = await asyncpg.connect(url)
        await app.start()
        await registered(connection)
        run = await held_in(connection, app, 4)
        connection.terminate()
        cluster.stop(mode)  # type: ignore[arg-type]
        cluster.start()
        app.unmark("hold-4")
        connection = await asyncpg.connect(url)
        await ended_right(connection, app, run)
        connection.terminate()
    ran_once_before(app, run, 4)


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
    run = await held_in(connection, app, 6)
    daemon.program.terminate()
    assert 0 == await daemon.program.wait()
    row = await connection.fetchrow("select state, attempts, delivery_failures from slayq.job")
    assert ("ready", 0, 0) == tuple(row or ())
    app.unmark("hold-6")
    await start_daemon(daemons, app)
    await ended_right(connection, app, run)
    ran_once_before(app, run, 6)
