"""`slayq-server runs`: list, show, cancel; `slayq-server functions`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from slayq_server.cli.database import connected
from slayq_server.cli.options import (
    composed,
    database_option,
    event_filter,
    json_option,
    list_options,
    queue_filter,
    show_options,
)
from slayq_server.cli.output import RawJson, print_fields, print_json, print_payload, print_table, say
from slayq_server.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from slayq_server.db.admin_runs import RunDetail, RunRow, StepRow

_state_filter = click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(("scheduled", "ready", "leased")),
    help="Only in this state (repeatable).",
)
_run_argument = click.argument("run", type=click.UUID, metavar="RUN")


@click.group()
def runs() -> None:
    """Look at runs of durable functions, and cancel them."""


@runs.command("list")
@composed(queue_filter, _state_filter, event_filter, list_options)
def list_runs(
    queues: tuple[str, ...],
    states: tuple[str, ...],
    event: str | None,
    limit: int,
    before_id: int | None,
    as_json: bool,
    database_url: str | None,
) -> int:
    """List runs that have not ended, newest first."""
    return asyncio.run(_list(database_url, queues, states, event, limit, before_id, as_json=as_json))


async def _list(
    database_url: str | None,
    queues: tuple[str, ...],
    states: tuple[str, ...],
    event: str | None,
    limit: int,
    below: int | None,
    *,
    as_json: bool,
) -> int:
    async with connected(database_url) as admin:
        found = await admin.runs.list(queues, states, event, below=below, limit=limit + 1)
    rows, more = found[:limit], len(found) > limit
    if as_json:
        print_json({"runs": [{**asdict(row), "run": str(row.run)} for row in rows], "more": more})
        return 0
    print_table(
        ("id", "run", "event", "state", "attempt", "steps", "due", "waits for", "last error"),
        [
            (
                row.id,
                str(row.run),
                row.event,
                _state(row),
                f"{row.attempts}/{row.max_attempts}",
                row.steps,
                row.run_at,
                row.waits_for,
                row.last_error,
            )
            for row in rows
        ],
        empty="No run fits.",
    )
    if more:
        say(f"There are more: add --before-id {rows[-1].id}, or raise --limit.", stderr=True)
    return 0


def _state(row: RunRow) -> str:
    if row.suspended:
        return "suspended"
    return f"{row.state}, {row.delivery_failures} deliveries failed" if row.delivery_failures else row.state


@runs.command()
@_run_argument
@show_options
def show(run: UUID, with_payload: bool, as_json: bool, database_url: str | None) -> int:
    """Show one run: its state, every step with its outcome, what it waits for, its data."""
    return asyncio.run(_show(database_url, run, with_payload=with_payload, as_json=as_json))


async def _show(database_url: str | None, run: UUID, *, with_payload: bool, as_json: bool) -> int:
    async with connected(database_url) as admin:
        found = await admin.runs.show(run)
    if found is None:
        raise NotFound(f"there is no run {run}: it is done, was cancelled, or never was")
    detail, steps = found
    if as_json:
        print_json(_document(detail, steps, with_payload=with_payload))
        return 0
    print_fields(
        [
            ("run", str(detail.run)),
            ("job", detail.id),
            ("event", detail.event),
            ("queue", detail.queue),
            ("state", f"{detail.state}, cancelled" if detail.cancelled else detail.state),
            ("attempt", f"{detail.attempts} of {detail.max_attempts}" if detail.max_attempts else None),
            ("deliveries failed", detail.delivery_failures or None),
            ("due", None if detail.ended_at else detail.run_at),
            ("created", detail.created_at),
            ("ended", detail.ended_at),
            ("last error", detail.last_error),
            ("held by", detail.worker),
        ]
    )
    say("")
    print_table(
        ("step", "kind", "state", "failures", "until", "outcome"),
        [
            (step.name, step.kind, step.state, step.attempts or None, _until(step), _outcome(step, show=with_payload))
            for step in steps
        ],
        empty="No step is recorded.",
    )
    if with_payload:
        print_payload("payload", detail.payload)
        if detail.output is not None:
            print_payload("output", detail.output)
    return 0


def _until(step: StepRow) -> Any:
    return step.due_at if step.state == "pending" else None


def _outcome(step: StepRow, *, show: bool) -> str | None:
    """One cell: the output, the error's first words, or what is waited for."""
    if step.error is not None:
        error = json.loads(step.error)
        return f"{error.get('type')}: {error.get('message')}"
    if step.state == "done" and show:
        return step.output
    return step.target or None


def _document(detail: RunDetail, steps: Sequence[StepRow], *, with_payload: bool) -> dict[str, Any]:
    document = {**asdict(detail), "run": str(detail.run)}
    payload, output = document.pop("payload"), document.pop("output")
    if with_payload:
        document |= {"payload": RawJson(payload), "output": None if output is None else RawJson(output)}
    document["steps"] = [_step_document(step, with_payload=with_payload) for step in steps]
    return document


def _step_document(step: StepRow, *, with_payload: bool) -> dict[str, Any]:
    document = asdict(step)
    for member in ("output", "error"):
        text = document.pop(member)
        if member == "error" or with_payload:
            document[member] = None if text is None else RawJson(text)
    return document


@runs.command()
@_run_argument
@composed(json_option, database_option)
def cancel(run: UUID, as_json: bool, database_url: str | None) -> int:
    """Cancel a run. One that is being delivered is cut off; nothing of it comes back."""
    return asyncio.run(_cancel(database_url, run, as_json=as_json))


async def _cancel(database_url: str | None, run: UUID, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        if not await admin.runs.cancel(run):
            raise NotFound(f"there is no run {run}: it is done, was cancelled, is a dead letter, or never was")
    if as_json:
        print_json({"run": str(run), "cancelled": True})
    else:
        say(f"Run {run} is cancelled.")
    return 0


@click.command()
@composed(json_option, database_option)
def functions(as_json: bool, database_url: str | None) -> int:
    """List the durable functions that apps have registered."""
    return asyncio.run(_functions(database_url, as_json=as_json))


async def _functions(database_url: str | None, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        rows = await admin.runs.functions()
    if as_json:
        print_json({"functions": [asdict(row) for row in rows]})
        return 0
    print_table(
        ("app", "event", "name", "queue", "attempts", "cron", "runs", "cancelled on", "waits on", "invokes", "url"),
        [
            (
                row.app,
                row.event,
                row.name,
                row.queue,
                row.max_attempts,
                row.cron,
                row.runs,
                row.cancel_on,
                row.waits_on,
                row.invokes,
                row.url,
            )
            for row in rows
        ],
        empty="No function is registered: apps register theirs when they start, or by slayq register.",
    )
    return 0
