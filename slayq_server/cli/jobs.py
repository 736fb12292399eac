"""`slayq-server jobs`: list, show, retry, cancel."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from slayq_server.cli import bulk
from slayq_server.cli.database import connected
from slayq_server.cli.options import (
    bulk_options,
    composed,
    event_filter,
    ids_argument,
    key_filter,
    list_options,
    queue_filter,
    show_options,
)
from slayq_server.cli.output import RawJson, print_fields, print_json, print_payload, print_table, say
from slayq_server.db.admin_rows import JobFilter
from slayq_server.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slayq_server.db.admin import Admin
    from slayq_server.db.admin_rows import JobDetail

STATES = ("scheduled", "ready", "blocked", "leased")

_state_filter = click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only in this state (repeatable)."
)
_match_filter = click.option(
    "--match",
    metavar="KEY=VALUE",
    help="Only where the member KEY of the payload's data is VALUE, compared as text; needs --event.",
)


@click.group()
def jobs() -> None:
    """Look at jobs, retry and cancel them."""


@jobs.command("list")
@composed(queue_filter, _state_filter, event_filter, key_filter, _match_filter, list_options)
def list_jobs(
    queues: tuple[str, ...],
    states: tuple[str, ...],
    event: str | None,
    key: str | None,
    match: str | None,
    limit: int,
    before_id: int | None,
    as_json: bool,
    database_url: str | None,
) -> int:
    """List jobs that are not done, newest first."""
    wanted = JobFilter(queues, states, event, key, _match(match, event))
    return asyncio.run(_list(database_url, wanted, limit, before_id, as_json=as_json))


async def _list(database_url: str | None, wanted: JobFilter, limit: int, below: int | None, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        found = await admin.jobs(wanted, below=below, limit=limit + 1)
    rows, more = found[:limit], len(found) > limit
    if as_json:
        print_json({"jobs": [asdict(row) for row in rows], "more": more})
        return 0
    print_table(
        ("id", "queue", "state", "event", "key", "prio", "attempts", "run at", "last error"),
        [
            (
                row.id,
                row.queue,
                row.state,
                row.event,
                row.key,
                row.priority,
                f"{row.attempts}/{row.max_attempts}",
                row.run_at,
                row.last_error,
            )
            for row in rows
        ],
        empty="No job fits.",
    )
    if more:
        say(f"There are more: add --before-id {rows[-1].id}, or raise --limit.", stderr=True)
    return 0


@jobs.command()
@click.argument("job_id", type=int, required=False, metavar="[ID]")
@click.option("--key", metavar="KEY", help="The job's key, in place of its id.")
@show_options
def show(job_id: int | None, key: str | None, with_payload: bool, as_json: bool, database_url: str | None) -> int:
    """Show one job, with what it waits for, its last error and its payload."""
    if (job_id is None) == (key is None):
        raise click.UsageError("give the job's id, or its --key", click.get_current_context())
    return asyncio.run(_show(database_url, job_id, key, with_payload=with_payload, as_json=as_json))


async def _show(
    database_url: str | None, job_id: int | None, key: str | None, *, with_payload: bool, as_json: bool
) -> int:
    async with connected(database_url) as admin:
        detail = await admin.job(job_id=job_id, key=key)
        if detail is None:
            raise await _not_there(admin, job_id, key)
    if as_json:
        print_json(_detail_document(detail, with_payload=with_payload))
        return 0
    job = detail.job
    marks = [word for word, is_so in (("superseded", detail.superseded), ("cancelled", detail.cancelled)) if is_so]
    print_fields(
        [
            ("id", job.id),
            ("queue", job.queue),
            ("state", ", ".join([job.state, *marks])),
            ("event", job.event),
            ("key", job.key),
            ("serial queue", job.serial_queue),
            ("priority", job.priority),
            ("run at", job.run_at),
            ("attempts", f"{job.attempts} of {job.max_attempts}"),
            ("last error", job.last_error),
            ("flags", job.flags),
            ("held by", f"{detail.worker or 'a worker that is gone'}#{job.worker_id}" if job.worker_id else None),
            ("held since", job.leased_at),
            ("leases", detail.lease),
            ("revision", detail.revision),
            ("created", job.created_at),
            ("updated", job.updated_at),
            *(
                ("waits for", f"{wait.kind} {wait.target_key or f'{wait.event} {wait.match_key}={wait.match_value}'}")
                for wait in detail.waits
            ),
        ]
    )
    if with_payload:
        print_payload("payload", detail.payload)
        if detail.patches is not None:
            print_payload("step results added since", detail.patches)
    return 0


async def _not_there(admin: Admin, job_id: int | None, key: str | None) -> NotFound:
    if job_id is None:
        return NotFound(f"no job has the key {key!r}. Its dead letters: slayq-server dead list --key {key}")
    place, _ = (await admin.whereabouts([job_id])).get(job_id, ("", ""))
    match place:
        case "dead_letter":
            return NotFound(f"job {job_id} is a dead letter: slayq-server dead show {job_id}")
        case "done_job":
            return NotFound(f"job {job_id} is done")
        case _:
            return NotFound(f"there is no job {job_id}: it is done, was cancelled, or never was")


async def _hurry(admin: Admin, batch: list[int]) -> dict[str, Sequence[int]]:
    return {"retried": await admin.retry(batch)}


_RETRY = bulk.Action(
    verb="retry",
    done={"retried": "due now"},
    noun="job",
    act=_hurry,
    place="job",
    still_there="it is {state}, so there is nothing to hurry",
)


@jobs.command()
@ids_argument
@composed(queue_filter, event_filter, key_filter, _match_filter)
@click.option("--all", "everything", is_flag=True, help="All that failed and wait for their next attempt.")
@click.option(
    "--delayed", is_flag=True, help="With filters or --all: also those that were to run later, sleep, or wait."
)
@bulk_options
def retry(
    ids: tuple[int, ...],
    queues: tuple[str, ...],
    event: str | None,
    key: str | None,
    match: str | None,
    everything: bool,
    delayed: bool,
    yes: bool,
    as_json: bool,
    database_url: str | None,
) -> int:
    """Make jobs that wait for their time due now.

    By filters or --all: those that failed and wait for their next attempt. By id: any that is scheduled; one that
    waits for an event or an invocation goes on as if the wait had timed out.
    """
    wanted = JobFilter(queues, ("scheduled",), event, key, _match(match, event), failed=None if delayed else True)
    filtered = bool(queues or event or key or match)
    bulk.check_choice(ids, filtered=filtered, everything=everything)
    acting = bulk.run(database_url, _RETRY, ids, lambda admin: admin.job_ids(wanted), yes=yes, as_json=as_json)
    return asyncio.run(acting)


async def _remove(admin: Admin, batch: list[int]) -> dict[str, Sequence[int]]:
    cancelled = await admin.cancel(batch)
    return {"removed": cancelled.removed, "marked": cancelled.marked}


_CANCEL = bulk.Action(
    verb="cancel",
    done={"removed": "removed", "marked": "in delivery marked: nothing comes back once that ends"},
    noun="job",
    act=_remove,
    place="job",
    still_there="it is {state}",
)


@jobs.command()
@ids_argument
@composed(queue_filter, _state_filter, event_filter, key_filter, _match_filter)
@click.option("--all", "everything", is_flag=True, help="All jobs.")
@bulk_options
def cancel(
    ids: tuple[int, ...],
    queues: tuple[str, ...],
    states: tuple[str, ...],
    event: str | None,
    key: str | None,
    match: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    database_url: str | None,
) -> int:
    """Remove jobs, with their waits.

    A job that is being delivered cannot be called back: it is marked, so that nothing of it (no retry, no
    continuation) comes back once that delivery ends.
    """
    wanted = JobFilter(queues, states, event, key, _match(match, event))
    filtered = bool(queues or states or event or key or match)
    bulk.check_choice(ids, filtered=filtered, everything=everything)
    acting = bulk.run(database_url, _CANCEL, ids, lambda admin: admin.job_ids(wanted), yes=yes, as_json=as_json)
    return asyncio.run(acting)


def _match(match: str | None, event: str | None) -> tuple[str, str] | None:
    if match is None:
        return None
    key, equals, value = match.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--match wants KEY=VALUE, not {match!r}", click.get_current_context())
    if event is None:
        raise click.UsageError("--match needs --event", click.get_current_context())
    return key, value


def _detail_document(detail: JobDetail, *, with_payload: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        **asdict(detail.job),
        "worker": detail.worker,
        "lease": detail.lease,
        "revision": detail.revision,
        "superseded": detail.superseded,
        "cancelled": detail.cancelled,
        "waits": [asdict(wait) for wait in detail.waits],
    }
    if with_payload:
        document["payload"] = RawJson(detail.payload)
        document["patches"] = None if detail.patches is None else RawJson(detail.patches)
    return document
