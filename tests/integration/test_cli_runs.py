"""`slayq-server runs` and `slayq-server functions`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest_asyncio

from slayq_server.db.pool import Pool
from slayq_server.db.store import Store
from tests.sql.runs import PLACED, RENDER, RunsDaemon, register, send
from tests.sql.support import URL, Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.support.cli import Cli

ERROR = {"type": "CardDeclined", "message": "no money", "trace": "…"}


@pytest_asyncio.fixture
async def runs(database_url: str, connection: asyncpg.Connection) -> AsyncIterator[RunsDaemon]:
    """A daemon, and the app of the SQL tests."""
    await register(connection)
    pool = Pool(database_url)
    await pool.open()
    yield RunsDaemon(await Daemon.register(Store(pool), "a daemon"), connection)
    await pool.close()


async def suspended(connection: asyncpg.Connection, runs: RunsDaemon) -> str:
    """A run with a finished step, one that failed and is to be tried again, and a wait."""
    run = await send(connection, PLACED, {"order": 7, "card": "4111"})
    segment = (await runs.lease_one()).step("reserve", {"units": 3})
    segment.say("step_failed", "pay", ERROR, attempts=2, final=False, seconds=60.0)
    await runs.flush(segment.wait("payment").ends("suspended"))
    return str(run)


async def test_list(cli: Cli, connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Live runs, newest first, with what they wait for; filters; v1 jobs are not among them."""
    run = await suspended(connection, runs)
    other = await send(connection, RENDER)
    await connection.execute("select slayq.add_job('mail', $1)", json.dumps({"url": URL, "event": "e"}))
    listed = await cli.json("runs", "list")
    assert [(str(other), False, 0), (run, True, 1)] == [
        (row["run"], row["suspended"], row["steps"]) for row in listed["runs"]
    ]
    assert sorted(["run", "wait shop/paid order 7"]) == sorted(listed["runs"][1]["waits_for"])
    for options, expected in {
        ("--event", PLACED): [run],
        ("--state", "ready"): [str(other)],
        ("--queue", "nowhere"): [],
        ("--limit", "1"): [str(other)],
    }.items():
        assert expected == [row["run"] for row in (await cli.json("runs", "list", *options))["runs"]], options
    assert "suspended" in (await cli.ok("runs", "list")).stdout
    assert "No run fits." in (await cli.ok("runs", "list", "--event", "none")).stdout


async def test_show(cli: Cli, connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Every step with its outcome; the data can be left out."""
    run = await suspended(connection, runs)
    shown = await cli.json("runs", "show", run)
    assert ("suspended", PLACED, {"order": 7, "card": "4111"}) == (
        shown["state"],
        shown["event"],
        shown["payload"]["data"],
    )
    steps = {step["name"]: (step["kind"], step["state"], step["attempts"]) for step in shown["steps"]}
    assert {
        "reserve": ("run", "done", 0),
        "pay": ("run", "pending", 2),
        "payment": ("wait", "pending", 0),
    } == steps
    assert {"units": 3} == shown["steps"][0]["output"]
    text = (await cli.ok("runs", "show", run)).stdout
    for word in ("CardDeclined: no money", '{"units": 3}', "shop/paid order 7", "4111"):
        assert word in text
    private = (await cli.ok("runs", "show", run, "--no-payload")).stdout
    assert "4111" not in private
    assert "units" not in private


async def test_show_one_that_has_ended(cli: Cli, connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """As a dead letter with its steps; done, where history is kept; else it is not there, in clear words."""
    dead = await send(connection, PLACED)
    await runs.flush((await runs.lease_one()).step("a", 1).ends("dead", error="ValueError: x", reason="no-retry"))
    shown = await cli.json("runs", "show", str(dead))
    assert ("dead: no-retry", "ValueError: x", ["a"]) == (
        shown["state"],
        shown["last_error"],
        [step["name"] for step in shown["steps"]],
    )
    done = await send(connection, PLACED)
    await runs.flush((await runs.lease_one()).ends("done", output=[1]), keep_done=True)
    assert ("done", [1]) == ((shown := await cli.json("runs", "show", str(done)))["state"], shown["output"])
    nobody = await cli("runs", "show", str(uuid4()))
    assert (3, True) == (nobody.code, "there is no run" in nobody.stderr)
    assert 2 == (await cli("runs", "show", "seven")).code


async def test_cancel(cli: Cli, connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Gone; a second time it is an error."""
    run = await suspended(connection, runs)
    assert {"run": run, "cancelled": True} == await cli.json("runs", "cancel", run)
    again = await cli("runs", "cancel", run)
    assert (3, True) == (again.code, "there is no run" in again.stderr)


async def test_functions(cli: Cli, connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """What is registered, and what it has to do with which events."""
    await send(connection, PLACED)
    first, second = (await cli.json("functions"))["functions"]
    assert (PLACED, "fulfil", 3, 1, ["shop/cancelled by order"], ["shop/paid by order"], [RENDER]) == (
        first["event"],
        first["name"],
        first["max_attempts"],
        first["runs"],
        first["cancel_on"],
        first["waits_on"],
        first["invokes"],
    )
    assert RENDER == second["event"]
    assert "fulfil" in (await cli.ok("functions")).stdout


async def test_no_functions(cli: Cli, connection: asyncpg.Connection) -> None:
    """It says how they get there."""
    assert "slayq register" in (await cli.ok("functions")).stdout
