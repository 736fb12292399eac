"""`slayq-server migrate`: brings the schema up to date, or prints the SQL that would."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from slayq_server.cli.database import named_database
from slayq_server.cli.options import composed, database_option, json_option
from slayq_server.cli.output import print_json, say
from slayq_server.config import load
from slayq_server.db import migrate as migrations


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--sql", is_flag=True, help="Print the SQL for an empty database, and touch none.")
@click.option(
    "--app-role",
    "app_roles",
    multiple=True,
    metavar="ROLE",
    help="A database role that may call the SQL functions (repeatable).",
)
@click.option(
    "--server-role",
    "server_roles",
    multiple=True,
    metavar="ROLE",
    help="A database role that may do all that a daemon does (repeatable).",
)
@composed(json_option, database_option)
def migrate(
    config: Path | None,
    sql: bool,
    app_roles: tuple[str, ...],
    server_roles: tuple[str, ...],
    as_json: bool,
    database_url: str | None,
) -> int:
    """Bring the database's schema up to date, and set who may use it.

    With CONFIG, its grants.roles are app roles too. A role that was granted once stays granted. Any number of
    migrations and daemons may start at once.
    """
    roles = list(dict.fromkeys([*app_roles, *(load(config).grants.roles if config is not None else ())]))
    if sql:
        text = migrations.script(roles, server_roles)
        if as_json:
            print_json({"sql": text})
        else:
            sys.stdout.write(text)
        return 0
    applied = asyncio.run(
        migrations.migrate(named_database(database_url), app_roles=roles, server_roles=list(server_roles))
    )
    version = migrations.load()[-1].number
    if as_json:
        print_json({"applied": [migration.name for migration in applied], "schema": version})
        return 0
    for migration in applied:
        say(f"Applied {migration.name}.")
    say(f"The schema is at {version}." if applied else f"The schema is at {version} already.")
    return 0
