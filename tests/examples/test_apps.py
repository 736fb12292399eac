"""The examples for each framework, and for sending in a transaction, as programs beside the real daemon."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.support.endpoint import SECRET
from tests.support.process import Program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.support.daemon import Daemons

UVICORN = ("uvicorn", "--log-level=warning", "--port={port}")
APPS = {
    "fastapi": (*UVICORN, "examples.fastapi_app:app"),
    "django": (*UVICORN, "examples.django_app:application"),
    "flask": ("flask", "--app=examples.flask_app", "run", "--port={port}"),
    "aiohttp": ("examples.aiohttp_app",),
}
REGISTERED_WHEN_DEPLOYED = ("django", "flask")


def environment(database_url: str, port: int) -> dict[str, str]:
    """What an example reads."""
    return {
        "SLAY_Q_DATABASE_URL": database_url,
        "SLAY_Q_SECRET": SECRET,
        "APP_URL": f"http://127.0.0.1:{port}/slayq",
    }


def python(*arguments: str, port: int = 0) -> tuple[str, ...]:
    """`python -m` with these arguments."""
    return (sys.executable, "-m", *(each.format(port=port) for each in arguments))


async def finished(folder: Path, command: tuple[str, ...], env: dict[str, str]) -> str:
    """What a program printed that ended well."""
    with Program(folder, env=env, command=command) as program:
        assert 0 == await program.wait(), program.report()
        return program.stdout


def place(url: str) -> str | None:
    """Places an order: the run's id; None while the app does not listen."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=20) as answer:
            assert 202 == answer.status
            return str(json.load(answer)["run"])
    except urllib.error.HTTPError:
        raise
    except OSError:
        return None


@pytest.mark.parametrize("framework", APPS)
async def test_an_order_is_fulfilled_by_the_app_of_each_framework(
    framework: str,
    daemons: Daemons,
    connection: asyncpg.Connection,
    database_url: str,
    unused_port: int,
    tmp_path: Path,
) -> None:
    """Placed over HTTP, reserved, and shipped after a sleep: each step once."""
    origin = f"http://127.0.0.1:{unused_port}"
    await daemons.start(queues={"general": {"concurrency": 5}}, callbacks={"allow": [origin]}, retention={"done": "1h"})
    env = environment(database_url, unused_port)
    if framework in REGISTERED_WHEN_DEPLOYED:
        told = await finished(tmp_path / "register", python("slayq", "register", f"examples.{framework}_app"), env)
        assert f"Registered 1 function of the app {framework}-shop at {origin}/slayq.\n" == told
    with Program(tmp_path / "app", env=env, command=python(*APPS[framework], port=unused_port)) as app:

        async def placed() -> str | None:
            assert app.code is None, app.report()
            return await asyncio.to_thread(place, f"{origin}/orders/A-17")

        run = await wait_until(placed, 30, "the app taking an order")

        async def output() -> str | None:
            value: str | None = await connection.fetchval("select output from slayq.done_job where run_id = $1", run)
            return value

        assert '"parcel-A-17"' == await wait_until(output, 30, "the end of the run")
        steps = [line for line in app.stdout.splitlines() if "A-17" in line and "POST" not in line]
        assert ["reserving 3 units for A-17", "shipping 3 units of A-17"] == steps, app.report()


async def test_an_order_and_its_event_are_in_one_transaction(
    daemons: Daemons, connection: asyncpg.Connection, database_url: str, unused_port: int, tmp_path: Path
) -> None:
    """What commits is fulfilled, what is rolled back leaves neither row nor run: by asyncpg and by SQLAlchemy."""
    await daemons.start(
        queues={"general": {"concurrency": 5}}, callbacks={"allow": [f"http://127.0.0.1:{unused_port}"]}
    )
    env = environment(database_url, unused_port)
    receiving = python(*UVICORN, "examples.send_with_order:app", port=unused_port)
    with Program(tmp_path / "app", env=env, command=receiving) as app:
        told = await finished(tmp_path / "send", python("examples.send_with_order"), env)
        assert 2 == told.count("rolled back, and nothing was sent"), told
        await app.wait_for_output("fulfilling A-1")
        await app.wait_for_output("fulfilling S-1")

        async def none_left() -> bool:
            return not await connection.fetchval("select exists (select from slayq.job)")

        await wait_until(none_left, 20, "the end of all runs")
        assert 2 == app.stdout.count("fulfilling"), app.report()
    rows = await connection.fetch("select order_id from desk_order order by 1")
    assert ["A-1", "S-1"] == [row["order_id"] for row in rows]
