"""Options that several commands share, and how a command gets at the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from slayq.duration import has_unit, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document in place of a table.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask before acting on many.")
queue_filter = click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only of this queue (repeatable).")
event_filter = click.option("--event", metavar="EVENT", help="Only of this event.")
key_filter = click.option("--key", metavar="KEY", help="Only the one with this job key.")
before_id = click.option(
    "--before-id", type=int, metavar="ID", help="Only ids below this one: the next page of a list."
)
limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many to show at the most."
)
payload_option = click.option(
    "--no-payload", "with_payload", is_flag=True, flag_value=False, default=True, help="Leave the payload out."
)
database_option = click.option(
    "--database-url", metavar="URL", help="The database; default: SLAY_Q_DATABASE_URL, also from a .env file here."
)
ids_argument = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")


def composed(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in the order in which `--help` shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


list_options = composed(limit_option, before_id, json_option, database_option)
show_options = composed(payload_option, json_option, database_option)
bulk_options = composed(yes_option, json_option, database_option)


def moment(text: str) -> datetime:
    """The type of an option: a time in ISO 8601 that says its offset from UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time: write it as 2030-01-31T08:30:00Z") from None
    if time.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no time zone: add Z for UTC, or an offset such as +02:00")
    return time.astimezone(UTC)


def duration(text: str) -> float:
    """The type of an option: seconds, as a number or with a unit: 90, 90s, 5m, 2 days."""
    try:
        # A bare number is seconds here, as in the configuration.
        return parse_duration(text if has_unit(text) else f"{text}s").total_seconds()
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
