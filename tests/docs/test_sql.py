"""Every block of SQL on the pages of durable functions runs on Postgres, in order, and does what the page says.

supabase.md and from-slay-q.md have their own tests, beside what they are about.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.docs.pages import blocks_of, pages_with

if TYPE_CHECKING:
    import asyncpg

SHOP = {
    "app": "shop",
    "url": "https://app.example.com/slayq",
    "functions": [{"event": "shop/order.placed", "waits_on": [{"event": "shop/order.paid", "match": "order_id"}]}],
}


async def test_sql_md(connection: asyncpg.Connection) -> None:
    """Each send makes a run, so does the trigger; the last block shows them all."""
    registered = json.loads(await connection.fetchval("select slayq.register($1)", json.dumps(SHOP)))
    assert {"functions": 1, "warnings": []} == registered
    blocks = blocks_of("sql.md", "sql")
    for block in blocks[:-1]:
        await connection.execute(block.code)
    rows = await connection.fetch(blocks[-1].code)
    payloads = await connection.fetch("select payload -> 'data' ->> 'order_id' from slayq.job order by id")
    assert ["A-17", "A-18", "A-19", "A-20"] == [row[0] for row in payloads]
    assert ["ready", "scheduled", "ready", "ready"] == [row["state"] for row in rows]


async def test_readme(connection: asyncpg.Connection) -> None:
    """What README.md shows of SQL."""
    await connection.fetchval("select slayq.register($1)", json.dumps(SHOP))
    for block in blocks_of("README.md", "sql"):
        await connection.execute(block.code)
    assert await connection.fetchval("select count(*) from slayq.job") >= 1


def test_no_other_page_has_sql_that_nobody_runs() -> None:
    """A new page with SQL needs a test."""
    tested = {"README.md", "sql.md", "sending.md", "supabase.md", "from-slay-q.md"}
    assert tested >= set(pages_with("sql"))


async def test_a_manifest(connection: asyncpg.Connection) -> None:
    """The one on protocol.md is taken."""
    (manifest,) = [block.code for block in blocks_of("protocol.md", "json") if '"functions"' in block.code]
    assert 1 == json.loads(await connection.fetchval("select slayq.register($1)", manifest))["functions"]
