"""`slayq-server dead`: list, show, redrive, purge."""

from __future__ import annotations

import asyncio
import functools
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
    moment,
    queue_filter,
    show_options,
)
from slayq_server.cli.output import RawJson, print_fields, print_json, print_payload, print_table, say
from slayq_server.db.admin_rows import DeadFilter
from slayq_server.errors import NotFound
from slayq_server.model import DeadReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from slayq_server.db.admin import Admin


def _filtered(command: Callable[..., int]) -> Any:
    """Gives a command the options that choose dead letters, as its argument `wanted`."""

    @composed(
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
    @functools.wraps(command)
    def with_filter(
        queues: tuple[str, ...],
        reasons: tuple[str, ...],
        event: str | None,
        key: str | None,
        died_before: datetime | None,
        **others: Any,
    ) -> int:
        return command(wanted=DeadFilter(queues, reasons, event, key, died_before), **others)

    return with_filter


_choice = composed(
    ids_argument,
    _filtered,
    click.option("--all", "everything", is_flag=True, help="All dead letters."),
    bulk_options,
)


@click.group()
def dead() -> None:
    """Look at dead letters, put them back or remove them."""


@dead.command("list")
@composed(_filtered, list_options)
def list_dead(wanted: DeadFilter, limit: int, before_id: int | None, as_json: bool, database_url: str | None) -> int:
    """List dead letters, newest job first."""
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
@show_options
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


async def _put_back(admin: Admin, batch: list[int]) -> dict[str, Sequence[int]]:
    return {"redriven": await admin.redrive(batch)}


_REDRIVE = bulk.Action(
    verb="redrive",
    done={"redriven": "put back"},
    noun="dead letter",
    act=_put_back,
    place="dead_letter",
    still_there="a live job has its key: it stays a dead letter",
    incomplete_fails=True,
)


@dead.command()
@_choice
def redrive(**given: Any) -> int:
    """Put dead letters back as jobs.

    They keep their ids and finished steps, start again at attempt 1 and are due at once. One whose key a live job has
    by now stays a dead letter.
    """
    return _act_on(_REDRIVE, **given)


async def _remove(admin: Admin, batch: list[int]) -> dict[str, Sequence[int]]:
    return {"purged": await admin.purge(batch)}


_PURGE = bulk.Action(
    verb="purge",
    done={"purged": "removed"},
    noun="dead letter",
    act=_remove,
    place="dead_letter",
    still_there="it died again meanwhile",
)


@dead.command()
@_choice
def purge(**given: Any) -> int:
    """Remove dead letters for good."""
    return _act_on(_PURGE, **given)


def _act_on(
    action: bulk.Action,
    *,
    ids: tuple[int, ...],
    wanted: DeadFilter,
    everything: bool,
    yes: bool,
    as_json: bool,
    database_url: str | None,
) -> int:
    bulk.check_choice(ids, filtered=wanted != DeadFilter(), everything=everything)
    acting = bulk.run(database_url, action, ids, lambda admin: admin.dead_ids(wanted), yes=yes, as_json=as_json)
    return asyncio.run(acting)
