"""`slayq-server workers`: list."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from slayq_server.cli.database import connected
from slayq_server.cli.options import composed, database_option, json_option
from slayq_server.cli.output import print_json, print_table


@click.group()
def workers() -> None:
    """Look at the daemons that share the database."""


@workers.command("list")
@click.option("--live", is_flag=True, help="Only those that are alive.")
@composed(json_option, database_option)
def list_workers(live: bool, as_json: bool, database_url: str | None) -> int:
    """List daemon processes, newest first: those alive, and those gone for no longer than some minutes."""
    return asyncio.run(_list(database_url, only_live=live, as_json=as_json))


async def _list(database_url: str | None, *, only_live: bool, as_json: bool) -> int:
    async with connected(database_url) as admin:
        rows = [row for row in await admin.workers() if row.live or not only_live]
    if as_json:
        print_json({"workers": [asdict(row) for row in rows]})
        return 0
    print_table(
        ("id", "name", "version", "alive", "in flight", "started", "renewed", "queues"),
        [
            (row.id, row.name, row.version, row.live, row.leased, row.started_at, row.renewed_at, row.queues)
            for row in rows
        ],
        empty="No daemon has used this database of late.",
    )
    return 0
