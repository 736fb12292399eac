"""`slayq-server dev` and `slayq-server demo`."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from slayq_server.cli.options import composed, json_option
from slayq_server.cli.output import print_json, print_table
from slayq_server.config.rules import printable

if TYPE_CHECKING:
    from typing import TextIO

_KINDS = ("auto", "embedded", "installed")


def _origins(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Origins as the configuration wants them."""
    from slayq_server.config.addresses import origin

    try:
        return tuple(map(origin, values))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@composed(
    click.option(
        "--database",
        default="auto",
        metavar="embedded|installed|URL",
        help="Which Postgres: the one of the Python package, one installed on this machine, or a database of yours. "
        "Default: embedded, if there is one.",
    ),
    click.option("--port", type=click.IntRange(1, 65_535), help="The server's port. Default: 8288, or a free one."),
    click.option("--app-port", type=click.IntRange(1, 65_535), help="The sample app's. Default: 3000, or a free one."),
    click.option(
        "--allow",
        multiple=True,
        metavar="ORIGIN",
        callback=_origins,
        help="Where an app of yours listens, such as http://127.0.0.1:8000: callbacks may go there, too (repeatable).",
    ),
    click.option("--ephemeral", is_flag=True, help="Keep no data; else it is kept in .slayq/ here."),
    click.option("--once", is_flag=True, help="Stop when the first job and the first order have ended."),
)
def dev(
    database: str, port: int | None, app_port: int | None, allow: tuple[str, ...], ephemeral: bool, once: bool
) -> int:
    """Run Postgres, the daemon and a sample app on this machine; send them a first job and two orders.

    The sample app checks each callback's signature and prints what it sees. Ctrl-C stops all.
    """
    from slayq_server.dev.dev import Options, run_dev

    if database not in _KINDS and not database.startswith(("postgres://", "postgresql://")):
        raise click.UsageError(
            f"--database is embedded, installed, or a postgresql:// URL, not {database!r}", click.get_current_context()
        )
    try:
        return run_dev(Options(database, port, app_port, allow, ephemeral, once), partial(_say, sys.stdout))
    except KeyboardInterrupt:
        return 0


@click.command()
@click.option(
    "--database",
    type=click.Choice(_KINDS),
    default="auto",
    help="Which Postgres: the one of the Python package, or one installed here. Default: embedded, if there is one.",
)
@json_option
def demo(database: str, as_json: bool) -> int:
    """Send sample jobs through a fresh Postgres, the daemon and the sample app, and check that each ends as it should.

    Takes well under a minute, keeps nothing, exits 0 or 1. With --json the events go to the standard error.
    """
    from slayq_server.dev.demo import run_demo

    verdicts = run_demo(database, partial(_say, sys.stderr if as_json else sys.stdout))
    if as_json:
        scenes = [
            {"title": each.scene.title, "expected": each.scene.expected, "ok": each.good, "complaints": each.complaints}
            for each in verdicts
        ]
        print_json({"ok": all(each.good for each in verdicts), "scenes": scenes})
    else:
        _say(sys.stdout, "")
        print_table(
            ("sent", "expected", "ended so"),
            [
                (each.scene.title, each.scene.expected, "yes" if each.good else "; ".join(each.complaints))
                for each in verdicts
            ],
            empty="",
        )
    return 0 if all(each.good for each in verdicts) else 1


def _say(stream: TextIO, line: str) -> None:
    stream.write(printable(line) + "\n")
    stream.flush()
