"""`slayq-server send`: adds a job, as an app does."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from slayq_server.cli.database import connected
from slayq_server.cli.options import composed, database_option, duration, json_option, moment
from slayq_server.cli.output import iso, print_json, say
from slayq_server.db.admin_rows import NewJob

if TYPE_CHECKING:
    from datetime import datetime


@click.command()
@click.argument("event")
@click.option("--url", required=True, help="The app's Slay Q endpoint.")
@click.option("--queue", required=True, help="The queue to put it into.")
@click.option("--data", metavar="JSON", help="The event's data: JSON, @FILE, or - for standard input. Default: {}.")
@click.option("--key", metavar="KEY", help="The job's key: unique among jobs that are not done.")
@click.option(
    "--key-mode",
    type=click.Choice(("replace", "preserve_run_at", "unsafe_dedupe")),
    help="What happens to a job that has the key already. Default: replace.",
)
@click.option("--serial-queue", metavar="NAME", help="Jobs of one serial queue are delivered one at a time, in order.")
@click.option("--run-at", type=moment, metavar="TIME", help="Not before this time.")
@click.option("--delay", type=duration, metavar="DURATION", help="Not before so long from now: 90, 5m, 2h.")
@click.option("--priority", type=int, help="Lower runs first. Default: 0.")
@click.option("--max-attempts", type=int, help="How often it is delivered at the most. Default: the queue's.")
@click.option("--flag", "flags", multiple=True, metavar="FLAG", help="A flag that servers may forbid (repeatable).")
@composed(json_option, database_option)
def send(
    event: str,
    url: str,
    queue: str,
    data: str | None,
    key: str | None,
    key_mode: str | None,
    serial_queue: str | None,
    run_at: datetime | None,
    delay: float | None,
    priority: int | None,
    max_attempts: int | None,
    flags: tuple[str, ...],
    as_json: bool,
    database_url: str | None,
) -> int:
    """Add a job that delivers EVENT to the app at --url.

    The database's role needs no more than an app's rights.
    """
    if run_at is not None and delay is not None:
        raise click.UsageError("give --run-at or --delay, not both", click.get_current_context())
    head = json.dumps({"url": url, "retry": 0, "event": event})
    job = NewJob(
        queue=queue,
        payload=f'{head[:-1]}, "data": {_json_text(data)}}}',
        serial_queue=serial_queue,
        run_at=run_at,
        delay=delay,
        max_attempts=max_attempts,
        key=key,
        priority=priority,
        flags=flags,
        key_mode=key_mode,
    )
    return asyncio.run(_send(database_url, job, as_json=as_json))


async def _send(database_url: str | None, job: NewJob, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        sent = await admin.send(job)
    if as_json:
        print_json({"job": None if sent is None else asdict(sent)})
    elif sent is None:
        say("Nothing was added: the job it continues was cancelled, or has used up its attempts.")
    else:
        key = f", key {sent.key}" if sent.key is not None else ""
        when = "due now" if sent.state == "ready" else f"due at {iso(sent.run_at)}"
        done = "added" if sent.revision == 0 else "changed"
        say(f"Job {sent.id} {done}: {sent.event} in queue {sent.queue}{key}, {when}.")
    return 0 if sent is not None else 1


def _json_text(data: str | None) -> str:
    """The text of the data, which is JSON: as it was given, not parsed and printed again."""
    if data is None:
        return "{}"
    try:
        text = _read(data)
        json.loads(text, parse_constant=_no_number)
    except OSError as error:
        _refuse(f"{data[1:]} cannot be read: {error.strerror}")
    except RecursionError:
        pass  # too deep for Python alone: the database says whether it is JSON
    except ValueError as error:
        _refuse(f"--data is not JSON: {error}")
    return text


def _read(data: str) -> str:
    if data == "-":
        return sys.stdin.buffer.read().decode()
    if data.startswith("@"):
        return Path(data[1:]).read_bytes().decode()
    return data


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number there")


def _refuse(why: str) -> NoReturn:
    raise click.UsageError(why, click.get_current_context())
