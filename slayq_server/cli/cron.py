"""`slayq-server cron`: list, next, trigger."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime

import click

from slayq_server.cli.database import connected
from slayq_server.cli.options import composed, database_option, json_option, moment
from slayq_server.cli.output import iso, print_json, print_table, say
from slayq_server.engine.crontab import Crontab
from slayq_server.errors import NotFound, SlayQServerError


@click.group()
def cron() -> None:
    """Look at schedules, and trigger them."""


@cron.command("list")
@composed(json_option, database_option)
def list_schedules(as_json: bool, database_url: str | None) -> int:
    """List the schedules that the database knows, with their last and next ticks."""
    return asyncio.run(_list(database_url, as_json=as_json))


async def _list(database_url: str | None, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        rows = await admin.schedules()
    if as_json:
        print_json({"schedules": [{**asdict(row), "problem": _problem(row.cron)} for row in rows]})
        return 0
    print_table(
        ("id", "cron", "queue", "event", "last tick", "next tick", "catch up", "url"),
        [
            (
                *(row.id, row.cron, row.queue, row.event, row.last_at),
                f"never: {problem}" if (problem := _problem(row.cron)) else row.next_at,
                *(row.catch_up, row.url),
            )
            for row in rows
        ],
        empty="No schedule is known: a daemon writes those of its configuration when it starts.",
    )
    return 0


def _problem(line: str) -> str | None:
    """Why a cron line never fires, such as one that an app has registered in SQL; None: it does."""
    try:
        Crontab.parse(line)
    except ValueError as error:
        return str(error)
    return None


@cron.command("next")
@click.argument("line", metavar="CRONTEXT")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many ticks.")
@click.option("--after", type=moment, metavar="TIME", help="The ticks after this time. Default: now.")
@json_option
def next_ticks(line: str, count: int, after: datetime | None, as_json: bool) -> int:
    """Show when a cron line fires next, such as "TZ=Europe/Paris 30 2 * * MON". Needs no database."""
    instant = after or datetime.now(UTC)
    try:
        crontab = Crontab.parse(line)
        ticks = []
        for _ in range(count):
            instant = crontab.next_after(instant)
            ticks.append(instant)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    if as_json:
        print_json({"cron": line, "ticks": ticks})
    else:
        for tick in ticks:
            say(iso(tick).replace(".000", ""))
    return 0


@cron.command()
@click.argument("schedule_id", metavar="ID")
@composed(json_option, database_option)
def trigger(schedule_id: str, as_json: bool, database_url: str | None) -> int:
    """Add the job of a schedule's tick now. Its next tick comes all the same."""
    return asyncio.run(_trigger(database_url, schedule_id, as_json=as_json))


async def _trigger(database_url: str | None, schedule_id: str, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        known = await admin.schedules(schedule_id)
        if not known:
            raise NotFound(f"there is no schedule {schedule_id!r}. The known ones: slayq-server cron list")
        if known[0].kind == "function":
            run = await admin.trigger_function(known[0].event)
            if as_json:
                print_json({"schedule": schedule_id, "run": run})
            else:
                say(f"Run {run} added for schedule {schedule_id}: {known[0].event} in queue {known[0].queue}.")
            return 0
        job_id = await admin.trigger(schedule_id)
    if job_id is None:
        raise SlayQServerError(
            f"schedule {schedule_id} was not triggered: the job of its last tick is being delivered, and there is "
            "never more than one. Try again when it has ended"
        )
    if as_json:
        print_json({"schedule": schedule_id, "job_id": job_id})
    else:
        say(f"Job {job_id} added for schedule {schedule_id}: {known[0].event} in queue {known[0].queue}.")
    return 0
