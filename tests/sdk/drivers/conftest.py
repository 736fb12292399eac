"""Fixtures for tests that send: a database with an app in it, and each way to send to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.sdk.drivers.shop import SHOP
from tests.sdk.drivers.ways import CONNECTIONS, DRIVERS, WAYS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from slayq.drivers import Driver
    from tests.sdk.drivers.ways import Joined, Way


@pytest.fixture
async def shop(connection: asyncpg.Connection, database_url: str) -> str:
    """The URL of a database in which the shop is registered."""
    await connection.fetchval("select slayq.register($1)", json.dumps(SHOP))
    return database_url


@pytest.fixture(params=WAYS)
async def way(request: pytest.FixtureRequest, shop: str) -> AsyncIterator[Way]:
    """Each way to send: all drivers, and all kinds of connections."""
    async with WAYS[request.param](shop) as opened:
        yield opened


@pytest.fixture(params=DRIVERS)
async def driver(request: pytest.FixtureRequest, shop: str) -> AsyncIterator[Driver]:
    """Each driver."""
    async with DRIVERS[request.param](shop) as opened:
        yield opened


@pytest.fixture(params=CONNECTIONS)
async def joined(request: pytest.FixtureRequest, shop: str) -> AsyncIterator[Joined]:
    """Each kind of connection, in a transaction."""
    async with CONNECTIONS[request.param](shop) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: Any) -> None:
    """What is sent to 127.0.0.1 goes there."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
