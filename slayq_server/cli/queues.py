"""`slayq-server queues`: list, pause, resume."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from slayq_server.cli.database import connected
from slayq_server.cli.options import composed, database_option, json_option
from slayq_server.cli.output import print_json, print_table, say
from slayq_server.errors import NotFound

_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@click.group()
def queues() -> None:
    """Look at queues, pause and resume them."""


@queues.command("list")
@composed(json_option, database_option)
def list_queues(as_json: bool, database_url: str | None) -> int:
    """List queues: their jobs by state, their dead letters, the live daemons that serve them."""
    return asyncio.run(_list(database_url, as_json=as_json))


async def _list(database_url: str | None, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        rows = await admin.queues()
    if as_json:
        print_json({"queues": [asdict(row) for row in rows]})
        return 0
    columns = ("queue", "ready", "scheduled", "blocked", "leased", "dead", "oldest ready (s)", "paused", "served by")
    print_table(
        columns,
        [
            (
                row.name,
                row.ready,
                row.scheduled,
                row.blocked,
                row.leased,
                row.dead,
                row.oldest_ready_seconds,
                row.paused,
                row.workers or "nobody",
            )
            for row in rows
        ],
        empty="No queue is known: no daemon has served one, and there are no jobs.",
    )
    return 0


@queues.command()
@_names
@composed(json_option, database_option)
def pause(names: tuple[str, ...], as_json: bool, database_url: str | None) -> int:
    """Stop the delivery of queues, in the whole cluster. What is being delivered ends; jobs can still be added.

    A pool's aliases are queues of their own here: name each that is to pause.
    """
    return asyncio.run(_set_paused(database_url, names, paused=True, as_json=as_json))


@queues.command()
@_names
@composed(json_option, database_option)
def resume(names: tuple[str, ...], as_json: bool, database_url: str | None) -> int:
    """Let paused queues go on.

    A queue with `"paused": true` in slay-config.json is paused again when a daemon starts with that file.
    """
    return asyncio.run(_set_paused(database_url, names, paused=False, as_json=as_json))


async def _set_paused(database_url: str | None, names: tuple[str, ...], *, paused: bool, as_json: bool) -> int:
    async with connected(database_url) as admin:
        known = {row.name for row in await admin.queues()}
        unknown = sorted(set(names) - known)
        if unknown:
            raise NotFound(
                f"there is no queue {', '.join(unknown)}: no daemon has served it, and it has no jobs. "
                "The known ones: slayq-server queues list"
            )
        changed = await admin.set_paused(names, paused=paused)
    if as_json:
        print_json({"paused": paused, "queues": sorted(set(names)), "changed": changed})
        return 0
    done = "paused" if paused else "resumed"
    for name in sorted(set(names)):
        say(f"Queue {name} {done}." if name in changed else f"Queue {name} was {done} already.")
    return 0
