"""`slayq-server migrate`: brings the schema up to date, or prints the SQL that would; takes over from the original."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slayq_server.cli.database import named_database
from slayq_server.cli.options import composed, database_option, json_option
from slayq_server.cli.output import print_json, say
from slayq_server.config import load
from slayq_server.db import migrate as migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slayq_server.db.migrate import Migrated
    from slayq_server.db.takeover import TakenOver


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
@click.option("--dry-run", is_flag=True, help="Say what it would do, with numbers, and change nothing.")
@click.option("--force", is_flag=True, help="Take over from the original though one of its servers is connected.")
@click.option(
    "--forward-graphile/--no-forward-graphile",
    default=None,
    help="Have graphile_worker's add_job, add_jobs and remove_job act here; or put them back as they were.",
)
@composed(json_option, database_option)
def migrate(
    config: Path | None,
    sql: bool,
    app_roles: tuple[str, ...],
    server_roles: tuple[str, ...],
    dry_run: bool,
    force: bool,
    forward_graphile: bool | None,
    as_json: bool,
    database_url: str | None,
) -> int:
    """Bring the database's schema up to date, and set who may use it.

    With CONFIG, its grants.roles are app roles too. A role that was granted once stays granted. Any number of
    migrations and daemons may start at once. A database of the original is taken over, with its jobs.
    """
    if dry_run and (sql or forward_graphile is not None):
        raise click.UsageError("--dry-run goes with neither --sql nor --forward-graphile")
    roles = list(dict.fromkeys([*app_roles, *(load(config).grants.roles if config is not None else ())]))
    if sql:
        text = migrations.script(roles, server_roles)
        if as_json:
            print_json({"sql": text})
        else:
            sys.stdout.write(text)
        return 0
    order = migrations.Order(tuple(roles), server_roles, dry_run=dry_run, force=force, forward=forward_graphile)
    done = asyncio.run(migrations.carry_out(named_database(database_url), order))
    if as_json:
        print_json(_document(done, dry_run))
    else:
        _tell(done, dry_run)
    return 0


def _document(done: Migrated, dry_run: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "applied": [migration.name for migration in done.applied],
        "schema": migrations.load()[-1].number,
    }
    if dry_run:
        document["dry_run"] = True
    if done.taken_over is not None:
        document["taken_over"] = asdict(done.taken_over)
        document["obstacles"] = list(done.obstacles)
    if done.late:
        document["late"] = list(done.late)
    return document


def _tell(done: Migrated, dry_run: bool) -> None:
    for migration in done.applied:
        say(f"{'Would apply' if dry_run else 'Applied'} {migration.name}.")
    if done.taken_over is not None:
        say(f"{'Would take over' if dry_run else 'Took over'} from the original:")
        for line in _counts(done.taken_over):
            say(f"  {line}")
        for obstacle in done.obstacles:
            say(f"{'Would refuse without --force' if dry_run else 'Forced, although'}: {obstacle}.")
    if done.late:
        say(
            f"Sessions with process id {', '.join(map(str, done.late))} were at work before, and still are: what they "
            "may have added to the original is not seen before they commit. Run this again when they have ended."
        )
    if not dry_run or not done.applied:
        version = migrations.load()[-1].number
        say(f"The schema is at {version}." if done.applied else f"The schema is at {version} already.")


def _counts(taken: TakenOver) -> Iterator[str]:
    yield f"jobs: {taken.due + taken.later} ({taken.due} due, {taken.later} later; {taken.retrying} have failed before)"
    if taken.locked:
        yield f"  locked by an old server: {taken.locked}, due when its locks end, four hours after it took them"
    yield (
        f"dead letters: {taken.failed + taken.lost + taken.undeliverable} ({taken.failed} had failed for good, "
        f"{taken.lost} were on their last attempt, {taken.undeliverable} cannot be delivered)"
    )
    yield f"waits: {taken.waits + taken.invocations} ({taken.waits} for an event, {taken.invocations} for a callee)"
