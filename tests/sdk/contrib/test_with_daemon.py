"""The whole way round, for every adapter: registered at the start, sent, delivered by the real daemon, done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slayq import SlayQ, Step
from slayq.drivers.postgres import PostgresDriver
from slayq.drivers.rpc import RpcDriver
from tests.sdk.contrib.servers import ADAPTERS, PATH, REGISTERING
from tests.support.endpoint import SECRET
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import asyncpg

    from tests.support.daemon import Daemons


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_run_goes_through(
    adapter: str, daemons: Daemons, connection: asyncpg.Connection, database_url: str, unused_port: int
) -> None:
    """Steps that run, sleep and send; sent over HTTP or straight to Postgres."""
    origin = f"http://127.0.0.1:{unused_port}"
    running = await daemons.start(queues={"general": {"concurrency": 5}}, callbacks={"allow": [origin]})
    by_rpc = adapter in ("asgi", "flask", "aiohttp", "django-wsgi")
    driver = RpcDriver(running.url, [SECRET]) if by_rpc else PostgresDriver(database_url)
    seen: list[Any] = []
    sq = SlayQ(app="shop", url=origin + PATH, secret=SECRET, driver=driver)

    @sq.function(event="shop/order.placed")
    async def fulfil(order: dict[str, Any], step: Step) -> None:
        units = await step.run("reserve", reserve, order["units"])
        await step.sleep("hush", "10ms")
        await step.send_event("tell", "shop/order.fulfilled", {"units": units})

    @sq.function(event="shop/order.fulfilled")
    async def tell(order: dict[str, Any], step: Step) -> None:
        seen.append(order)

    async def reserve(units: int) -> int:
        return units + 1

    async with ADAPTERS[adapter](sq, unused_port):
        if adapter not in REGISTERING:
            await sq.register()
        run = await sq.send_event("shop/order.placed", {"units": 3})
        assert run is not None
        await wait_until(lambda: seen, timeout=20)
        await wait_until(lambda: _no_runs(connection), timeout=20)
        await sq.close()
    assert [{"units": 4}] == seen


async def _no_runs(connection: asyncpg.Connection) -> bool:
    return not await connection.fetchval("select exists (select from slayq.job)")
