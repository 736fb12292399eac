"""Acting on many jobs at once: named by id, or found by filters. The latter says how many first, and asks."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slayq_server.cli.database import connected
from slayq_server.cli.output import console, print_json, say
from slayq_server.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from slayq_server.db.admin import Admin

_BATCH = 500
_MOST_SHOWN = 20
"""Misses told of one by one; with `--json` all are."""
_WHERE = {
    "job": "it is {state}",
    "dead_letter": "it is a dead letter ({state}): see the commands of `dead`",
    "done_job": "it is done",
}


@dataclass(frozen=True, slots=True)
class Action:
    """What a command does to many."""

    verb: str
    """As in "retry 5 jobs"."""
    done: dict[str, str]
    """What may become of one: the key of the JSON document, and the words for people."""
    noun: str
    """job or dead letter."""
    act: Callable[[Admin, list[int]], Awaitable[dict[str, Sequence[int]]]]
    """Acts on a batch; returns the ids by what became of them."""
    place: str
    """Where what it acts on lives: job or dead_letter."""
    still_there: str
    """Why something that lives there was left alone, with `{state}`."""
    incomplete_fails: bool = False
    """Whether something chosen by a filter and left alone is a failure; else it has merely moved on meanwhile."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Ids, and whether they were named one by one."""

    ids: list[int]
    named: bool


def check_choice(ids: Sequence[int], *, filtered: bool, everything: bool) -> None:
    """A UsageError if neither ids nor filters were given, or both."""
    if ids and (filtered or everything):
        raise click.UsageError("give ids, or filters, not both", click.get_current_context())
    if not ids and not filtered and not everything:
        raise click.UsageError("say which: ids, or filters, or --all", click.get_current_context())


async def run(
    database_url: str | None,
    action: Action,
    ids: Sequence[int],
    find: Callable[[Admin], Awaitable[list[int]]],
    *,
    yes: bool,
    as_json: bool,
) -> int:
    """Acts on what `ids` name, or else on what `find` finds once that is confirmed; returns the exit code."""
    async with connected(database_url) as admin:
        choice = Choice(list(ids), named=True) if ids else Choice(await find(admin), named=False)
        if not confirmed(action, choice, yes=yes):
            return 1
        return await carry_out(admin, action, choice, as_json=as_json)


def confirmed(action: Action, choice: Choice, *, yes: bool) -> bool:
    """Says how many, and asks. Ids that were named need no question, and neither does nothing at all."""
    if choice.named or not choice.ids or yes:
        return True
    wanted = f"{action.verb} {counted(len(choice.ids), action.noun)}"
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"this would {wanted}; nobody is there to ask, so say --yes", click.get_current_context()
        )
    if click.confirm(f"{wanted[0].upper()}{wanted[1:]}?", err=True):
        return True
    say("Nothing was changed.", stderr=True)
    return False


async def carry_out(admin: Admin, action: Action, choice: Choice, *, as_json: bool) -> int:
    """Acts in batches, reports, and returns the exit code."""
    ids = list(dict.fromkeys(choice.ids))
    outcome: dict[str, list[int]] = {key: [] for key in action.done}
    with _progress(action, len(ids), quiet=as_json or choice.named) as advance:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            for key, those in (await action.act(admin, batch)).items():
                outcome[key].extend(those)
            advance(len(batch))
    acted_on = {done for those in outcome.values() for done in those}
    missed = [each for each in ids if each not in acted_on]
    places = await admin.whereabouts(missed) if missed else {}
    misses = [
        {"id": each, "why": _why(action, places.get(each))}
        for each in missed
        if choice.named or (action.incomplete_fails and places.get(each, ("", ""))[0] == action.place)
    ]
    _report(action, len(ids), outcome, misses, as_json=as_json)
    if choice.named and len(places) < len(missed):
        return NotFound.exit_code
    return 1 if misses else 0


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _why(action: Action, found: tuple[str, str] | None) -> str:
    if found is None:
        return "not found"
    place, state = found
    return (action.still_there if place == action.place else _WHERE[place]).format(state=state)


def _report(
    action: Action, matched: int, outcome: dict[str, list[int]], misses: list[dict[str, Any]], *, as_json: bool
) -> None:
    if as_json:
        counts = {key: len(those) for key, those in outcome.items()}
        print_json({"matched": matched, **counts, "missed": misses})
        return
    if not matched:
        say(f"No {action.noun} fits.")
        return
    said = [f"{counted(len(those), action.noun)} {action.done[key]}." for key, those in outcome.items() if those]
    for line in said or [f"No {action.noun} was changed."]:
        say(line)
    for miss in misses[:_MOST_SHOWN]:
        say(f"{action.noun} {miss['id']}: {miss['why']}", stderr=True)
    if len(misses) > _MOST_SHOWN:
        say(f"… and {len(misses) - _MOST_SHOWN:,} more", stderr=True)


@contextlib.contextmanager
def _progress(action: Action, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, where somebody waits for more than one batch; yields what moves it on."""
    out = console(stderr=True)
    if quiet or not out.is_terminal or total <= _BATCH:
        yield lambda number: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(action.verb, total=total)
        yield lambda number: bar.advance(task, number)
