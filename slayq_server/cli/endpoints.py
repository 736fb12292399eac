"""`slayq-server endpoints`: list."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from slayq_server.cli.database import connected
from slayq_server.cli.options import composed, database_option, json_option
from slayq_server.cli.output import print_json, print_table


@click.group()
def endpoints() -> None:
    """Look at the endpoints that are away."""


@endpoints.command("list")
@composed(json_option, database_option)
def list_endpoints(as_json: bool, database_url: str | None) -> int:
    """List the endpoints that are away: since when, who says so, and how many jobs are put off until they are back."""
    return asyncio.run(_list(database_url, as_json=as_json))


async def _list(database_url: str | None, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        rows = await admin.endpoints()
    if as_json:
        print_json({"endpoints": [asdict(row) for row in rows]})
        return 0
    print_table(
        ("endpoint", "away since", "failures", "last result", "jobs put off", "found by"),
        [(row.endpoint, row.since, row.failures, row.result, row.put_off, row.worker or "nobody") for row in rows],
        empty="No endpoint is away.",
    )
    return 0
