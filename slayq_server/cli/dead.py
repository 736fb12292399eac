"""`slayq-server dead`: list, show, redrive, purge."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from slayq_server.cli import bulk
from slayq_server.cli.database import connected
from slayq_server.cli.options import (
    before_id,
    composed,
    database_option,
    event_filter,
    json_option,
    key_filter,
    limit_option,
    moment,
    payload_option,
    queue_filter,
    yes_option,
)
from slayq_server.cli.output import RawJson, print_fields, print_json, print_payload, print_table, say
from slayq_server.db.admin_rows import DeadFilter
from slayq_server.errors import NotFound
from slayq_server.model import DeadReason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from slayq_server.db.admin import Admin

_filters = composed(
    queue_filter,
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        type=click.Choice([reason.value for reason in DeadReason]),
        help="Only those that died for this reason (repeatable).",
    ),
    event_filter,
    key_filter,
    click.option("--died-before", type=moment, metavar="TIME", help="Only those that died before this time."),
)
_choice = composed(
    click.argument("ids", nargs=-1, type=int, metavar="[ID]..."),
    _filters,
    click.option("--all", "everything", is_flag=True, help="All dead letters."),
    yes_option,
    json_option,
    database_option,
)


@click.group()
def dead() -> None:
    """Look at dead letters, put them back or remove them."""


@dead.command("list")
@composed(_filters, limit_option, before_id, json_option, database_option)
def list_dead(
    queues: tuple[str, ...],
    reasons: tuple[str, ...],
    event: str | None,
    key: str | None,
    died_before: datetime | None,
    limit: int,
    before_id: int | None,
    as_json: bool,
    database_url: str | None,
) -> int:
    """List dead letters, newest job first."""
    wanted = DeadFilter(queues, reasons, event, key, died_before)
    return asyncio.run(_list(database_url, wanted, limit, before_id, as_json=as_json))


async def _list(database_url: str | None, wanted: DeadFilter, limit: int, below: int | None, *, as_json: bool) -> int:
    async with connected(database_url) as admin:
        found = await admin.dead(wanted, below=below, limit=limit + 1)
    rows, more = found[:limit], len(found) > limit
    if as_json:
        print_json({"dead": [asdict(row) for row in rows], "more": more})
        return 0
    columns = ("id", "queue", "event", "key", "reason", "attempts", "died at", "last error")
    print_table(
        columns,
        [
            (
                row.id,
                row.queue,
                row.event,
                row.key,
                row.reason,
                f"{row.attempts}/{row.max_attempts}",
                row.died_at,
                row.last_error,
            )
            for row in rows
        ],
        empty="No dead letter fits.",
    )
    if more:
        say(f"There are more: add --before-id {rows[-1].id}, or raise --limit.", stderr=True)
    return 0


@dead.command()
@click.argument("letter_id", type=int, metavar="ID")
@composed(payload_option, json_option, database_option)
def show(letter_id: int, with_payload: bool, as_json: bool, database_url: str | None) -> int:
    """Show one dead letter, with its last error and its payload."""
    return asyncio.run(_show(database_url, letter_id, with_payload=with_payload, as_json=as_json))


async def _show(database_url: str | None, letter_id: int, *, with_payload: bool, as_json: bool) -> int:
    async with connected(database_url) as admin:
        detail = await admin.dead_letter(letter_id)
        if detail is None:
            raise await _not_there(admin, letter_id)
    letter = detail.letter
    if as_json:
        document: dict[str, Any] = asdict(letter)
        if with_payload:
            document["payload"] = RawJson(detail.payload)
            document["patches"] = None if detail.patches is None else RawJson(detail.patches)
        print_json(document)
        return 0
    print_fields(
        [
            ("id", letter.id),
            ("queue", letter.queue),
            ("event", letter.event),
            ("key", letter.key),
            ("serial queue", letter.serial_queue),
            ("reason", letter.reason),
            ("last error", letter.last_error),
            ("attempts", f"{letter.attempts} of {letter.max_attempts}"),
            ("priority", letter.priority),
            ("flags", letter.flags),
            ("created", letter.created_at),
            ("last due", letter.run_at),
            ("died", letter.died_at),
        ]
    )
    if with_payload:
        print_payload("payload", detail.payload)
        if detail.patches is not None:
            print_payload("step results added since", detail.patches)
    return 0


async def _not_there(admin: Admin, letter_id: int) -> NotFound:
    if letter_id in await admin.whereabouts([letter_id]):
        return NotFound(f"job {letter_id} is no dead letter: slayq-server jobs show {letter_id}")
    return NotFound(f"there is no dead letter {letter_id}: it was put back, removed, or never was")


@dead.command()
@_choice
def redrive(
    ids: tuple[int, ...],
    queues: tuple[str, ...],
    reasons: tuple[str, ...],
    event: str | None,
    key: str | None,
    died_before: datetime | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    database_url: str | None,
) -> int:
    """Put dead letters back as jobs.

    They keep their ids and finished steps, start again at attempt 1 and are due at once. One whose key a live job has
    by now stays a dead letter.
    """
    wanted = DeadFilter(queues, reasons, event, key, died_before)
    named = bulk.check_choice(ids, filtered=wanted != DeadFilter(), everything=everything)
    return asyncio.run(_redrive(database_url, ids if named else wanted, yes=yes, as_json=as_json))


async def _redrive(database_url: str | None, wanted: Sequence[int] | DeadFilter, *, yes: bool, as_json: bool) -> int:
    async with connected(database_url) as admin:

        async def act(batch: list[int]) -> dict[str, Sequence[int]]:
            return {"redriven": await admin.redrive(batch)}

        action = bulk.Action(
            verb="redrive",
            done={"redriven": "put back"},
            noun="dead letter",
            act=act,
            place="dead_letter",
            still_there="a live job has its key: it stays a dead letter",
            incomplete_fails=True,
        )
        return await _on_letters(admin, action, wanted, yes=yes, as_json=as_json)


@dead.command()
@_choice
def purge(
    ids: tuple[int, ...],
    queues: tuple[str, ...],
    reasons: tuple[str, ...],
    event: str | None,
    key: str | None,
    died_before: datetime | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    database_url: str | None,
) -> int:
    """Remove dead letters for good."""
    wanted = DeadFilter(queues, reasons, event, key, died_before)
    named = bulk.check_choice(ids, filtered=wanted != DeadFilter(), everything=everything)
    return asyncio.run(_purge(database_url, ids if named else wanted, yes=yes, as_json=as_json))


async def _purge(database_url: str | None, wanted: Sequence[int] | DeadFilter, *, yes: bool, as_json: bool) -> int:
    async with connected(database_url) as admin:

        async def act(batch: list[int]) -> dict[str, Sequence[int]]:
            return {"purged": await admin.purge(batch)}

        action = bulk.Action(
            verb="purge",
            done={"purged": "removed"},
            noun="dead letter",
            act=act,
            place="dead_letter",
            still_there="it died again meanwhile",
        )
        return await _on_letters(admin, action, wanted, yes=yes, as_json=as_json)


async def _on_letters(
    admin: Admin, action: bulk.Action, wanted: Sequence[int] | DeadFilter, *, yes: bool, as_json: bool
) -> int:
    if isinstance(wanted, DeadFilter):
        choice = bulk.Choice(await admin.dead_ids(wanted), named=False)
    else:
        choice = bulk.Choice(list(wanted), named=True)
    if not bulk.confirmed(action, choice, yes=yes):
        return 1
    return await bulk.carry_out(admin, action, choice, as_json=as_json)
