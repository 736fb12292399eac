"""The commands, and which exit code an error turns into.

Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 no such module or app, 69 server unavailable, 77 unauthorized,
78 configuration, 130 interrupted. Every error of ours is one line on the standard error; what the app's own module
raises when it is imported is shown with its traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import traceback
from typing import TYPE_CHECKING, Final

from slayq import __version__
from slayq.cli.loading import ImportFailed, NotFound, load
from slayq.cli.output import complain, functions_table, print_json, say, warn
from slayq.errors import (
    InvalidDefinition,
    InvalidSecret,
    MissingExtra,
    SlayQError,
    Unauthorized,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slayq.client import SlayQ
    from slayq.drivers import Registered

_EXIT_CODES: Final[tuple[tuple[type[SlayQError], int], ...]] = (
    (NotFound, 3),
    (Unavailable, 69),
    (Unauthorized, 77),
    (InvalidDefinition, 78),
    (InvalidSecret, 78),
    (MissingExtra, 78),
)
_FAILED: Final = 1


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as finished:  # --help and --version, or bad usage, which argparse has told already
        return finished.code if isinstance(finished.code, int) else 2
    try:
        code: int = given.command(load(given.app, given.app_dir), as_json=given.json)
        sys.stdout.flush()  # here, where a reader that has gone is handled
    except ImportFailed as error:
        traceback.print_exception(error.__cause__)
        complain(str(error))
        return _FAILED
    except SlayQError as error:
        complain(str(error))
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), _FAILED)
    except BrokenPipeError:
        # Whoever read our output (`head`, a pager) has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slayq", description="Durable functions of an app: what there is, and registering it."
    )
    parser.add_argument("--version", action="version", version=f"slayq {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command, text in (
        ("functions", functions, "List an app's functions. Asks no server."),
        ("register", register, "Tell the server of an app's functions; it forgets those that the app no longer has."),
    ):
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument(
            "app",
            metavar="module:app",
            help="the module and the name of its SlayQ; the name may be left out if it has one",
        )
        made.add_argument("--json", action="store_true", help="print JSON")
        made.add_argument(
            "--app-dir", default=".", metavar="DIR", help="where the module is looked for first (default: here)"
        )
        made.set_defaults(command=command)
    return parser


def functions(sq: SlayQ, *, as_json: bool) -> int:
    """`slayq functions`: lists them. As JSON it is the manifest, as `slayq.register` in SQL takes it."""
    manifest = sq.manifest()
    if as_json:
        print_json(manifest)
    elif not manifest["functions"]:
        say(f"The app {manifest['app']} has no functions.")
    else:
        functions_table(manifest["functions"])
    return 0


def register(sq: SlayQ, *, as_json: bool) -> int:
    """`slayq register`: registers them, by the driver that the app or the environment names."""
    registered = asyncio.run(_registered(sq))
    if as_json:
        print_json(
            {"app": sq.app, "url": sq.url, "functions": registered.functions, "warnings": list(registered.warnings)}
        )
        return 0
    s = "" if registered.functions == 1 else "s"
    say(f"Registered {registered.functions} function{s} of the app {sq.app} at {sq.url}.")
    for warning in registered.warnings:
        warn(warning)
    return 0


async def _registered(sq: SlayQ) -> Registered:
    try:
        return await sq.register()
    finally:
        await sq.close()
