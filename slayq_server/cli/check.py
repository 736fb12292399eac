"""`slayq-server check`: whether a configuration file is good, without starting anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from slayq_server.cli.options import json_option
from slayq_server.cli.output import print_json, print_table, say
from slayq_server.config import json_schema, load, pools
from slayq_server.errors import ConfigurationError


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--schema", is_flag=True, help="Print the JSON Schema of slay-config.json instead.")
@json_option
def check(config: Path | None, schema: bool, as_json: bool) -> int:
    """Check a configuration file: say all that is wrong with it, or what it asks for."""
    if schema:
        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
        return 0
    if config is None:
        raise click.UsageError("give the path of a slay-config.json, or --schema", click.get_current_context())
    try:
        loaded = load(config)
    except ConfigurationError as error:
        if as_json:
            print_json({"config": str(config), "ok": False, "problems": list(error.problems), "queues": [], "cron": []})
        raise
    found = pools(loaded)
    if as_json:
        queues = [
            {"name": pool.name, "alias": list(pool.config.alias), "concurrency": pool.config.concurrency}
            for pool in found
        ]
        cron = [{"id": entry.id, "cron": entry.cron, "queue": entry.queue} for entry in loaded.cron]
        print_json({"config": str(config), "ok": True, "problems": [], "queues": queues, "cron": cron})
        return 0
    say(f"{config} is good.")
    print_table(
        ("queue", "aliases", "concurrency", "counted for"),
        [
            (
                pool.name,
                list(pool.config.alias),
                pool.config.concurrency,
                "the cluster" if pool.config.scope == "cluster" else "each daemon",
            )
            for pool in found
        ],
        empty="",
    )
    if loaded.cron:
        print_table(
            ("schedule", "cron", "queue", "event"),
            [(entry.id, entry.cron, entry.queue, entry.event) for entry in loaded.cron],
            empty="",
        )
    return 0
