"""The top of the command line: which command lives where, and what an error turns into.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 69 database unavailable, 78 configuration or schema, 130 interrupted.
Every error of ours is one line on the standard error; only a bug shows a traceback.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slayq_server import __version__
from slayq_server.config.rules import printable
from slayq_server.errors import SlayQServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "slayq-server"
INTERRUPTED = 128 + signal.SIGINT

# In the order in which `--help` shows them. Modules are imported when their command runs, so that `healthcheck`, which
# Docker starts every few seconds, does not load the daemon.
_COMMANDS = {
    "serve": ("serve", "Run the daemon."),
    "dev": ("dev", "Run everything on this machine: Postgres, the daemon, a sample app."),
    "demo": ("dev", "Watch sample jobs run, fail, retry and finish; check that they ended as they should."),
    "migrate": ("migrate", "Bring the database's schema up to date."),
    "check": ("check", "Check a configuration file."),
    "send": ("send", "Add a job."),
    "jobs": ("jobs", "Look at jobs, retry and cancel them."),
    "runs": ("runs", "Look at runs of durable functions, and cancel them."),
    "functions": ("runs", "List the durable functions that apps have registered."),
    "dead": ("dead", "Look at dead letters, put them back or remove them."),
    "queues": ("queues", "Look at queues, pause and resume them."),
    "workers": ("workers", "Look at the daemons that share the database."),
    "endpoints": ("endpoints", "List the endpoints that are away, and the jobs that are put off."),
    "cron": ("cron", "Look at schedules, and trigger them."),
    "healthcheck": ("healthcheck", "Ask a daemon whether it is healthy."),
}


class Program(click.Group):
    """Loads a command when it is asked for, and takes a configuration file for the command `serve`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"slayq_server.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in the original, `slayq-server CONFIG` serves that configuration."""
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            if not _looks_like_a_file(args[0]):
                close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
                hint = f" Did you mean {close[0]}?" if close else f" Commands are: {', '.join(_COMMANDS)}."
                raise click.UsageError(f"there is no command, and no file, {args[0]!r}.{hint}", ctx)
            args = ["serve", *args]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _looks_like_a_file(argument: str) -> bool:
    return os.sep in argument or argument.endswith(".json") or Path(argument).is_file()


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Slay Q: background jobs in Postgres, delivered to your app as signed HTTP callbacks.

    `slayq-server CONFIG` alone runs the daemon. Commands that talk to the database find it in SLAY_Q_DATABASE_URL.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    try:
        code = program.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that has gone is handled
    except click.exceptions.NoArgsIsHelpError as help_text:
        help_text.show()
        return help_text.exit_code
    except click.UsageError as error:
        _complain(error.format_message())
        if error.ctx is not None:
            print(f"Try: {error.ctx.command_path} --help", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except SlayQServerError as error:
        _complain(str(error))
        return error.exit_code
    except BaseExceptionGroup as group:
        # What ended a group of tasks: one of ours is told as such, anything else is a bug.
        ours, others = group.split(SlayQServerError)
        if ours is None or others is not None:
            raise
        first = _first(ours)
        _complain(str(first))
        return first.exit_code
    except click.Abort:  # what click makes of a KeyboardInterrupt
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`head`, a pager) has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _first(group: BaseExceptionGroup[SlayQServerError]) -> SlayQServerError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _complain(message: str) -> None:
    lines = [printable(line) for line in message.splitlines()]
    print("error: " + "\n".join(lines), file=sys.stderr)  # noqa: T201
