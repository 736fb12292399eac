"""docs/cli.md and the command line say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from slayq_server import errors
from slayq_server.cli.entry import program
from slayq_server.model import DeadReason

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
COMMON = "What all commands share"


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by how it is called."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, (*path, name))


def sections() -> dict[str, str]:
    """The text under each heading, by the heading without its arguments."""
    parts = re.split(r"^#{2,3} (.*)$", PAGE, flags=re.MULTILINE)[1:]
    headings = [re.sub(r"^`slayq-server ((?:[a-z]+ ?)+).*`$", r"\1", heading).strip() for heading in parts[::2]]
    assert len(set(headings)) == len(headings)
    return dict(zip(headings, parts[1::2], strict=True))


def options_in(text: str) -> set[str]:
    """The options that a table's first column documents."""
    rows = re.findall(r"^\| (`-.*?) \|", text.replace(r"\|", "/"), flags=re.MULTILINE)
    return {option for row in rows for option in re.findall(r"`(--?[a-z][a-z-]*)", row)}


COMMANDS = dict(commands(program))
SECTIONS = sections()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_documented(name: str) -> None:
    """A command has a section that has its options, but for those that many share, and no others."""
    params = [param for param in COMMANDS[name].params if isinstance(param, click.Option)]
    options = {text for param in params for text in (*param.opts, *param.secondary_opts)}
    documented = options_in(SECTIONS[name])
    assert options == documented | (options & options_in(SECTIONS[COMMON]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    """--help explains all of it."""
    silent = [param.name for param in COMMANDS[name].params if isinstance(param, click.Option) and not param.help]
    assert [] == silent
    assert COMMANDS[name].help


def test_no_other_command_is_documented() -> None:
    """Every section with a command's heading is of one that there is."""
    headings = re.findall(r"^### `slayq-server ((?:[a-z]+ ?)+)", PAGE, flags=re.MULTILINE)
    assert sorted(COMMANDS) == sorted(heading.strip() for heading in headings)


def test_every_command_that_prints_a_result_can_print_json() -> None:
    """All but those that run until they are stopped."""
    without = [name for name, command in COMMANDS.items() if "as_json" not in [param.name for param in command.params]]
    assert ["serve", "dev"] == without


def test_exit_codes_are_documented() -> None:
    """Those of the errors, and the others."""
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS[COMMON], flags=re.MULTILINE)}
    assert documented == codes | {0, 2, 130}


def test_reasons_of_dead_letters_are_documented() -> None:
    """Each can be filtered by."""
    assert [] == [reason.value for reason in DeadReason if f"`{reason.value}`" not in SECTIONS["dead list"]]
