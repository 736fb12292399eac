"""Commands that the pages show exist, links lead somewhere, and what is public is in the reference."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest

import slayq
import slayq.testing
from slayq.cli import entry
from slayq_server.cli.entry import program
from tests.docs.pages import PAGES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^ {4}(?:[a-z]+ .*?&& )?((?:slayq-server|slayq|make) .*)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:slayq-server|slayq|make) [^`]+)`")
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands() -> Iterator[tuple[str, str]]:
    """Each command that a page shows, without its comment, and the page. Two may stand on one line."""
    for page, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        bash = "\n".join(
            "    " + line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
        )
        text = _FENCED.sub("", text)
        for found in (*_INDENTED.findall(text + bash), *_INLINE.findall(text)):
            for command in re.split(r" {3,}(?=slayq-server|make )", found):
                yield page, re.split(r"\s+#|; | …", command)[0].strip()


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_commands_exist(page: str, command: str) -> None:
    """With the options that they are shown with."""
    words = shlex.split(command.replace("…", ""))
    match words[0]:
        case "make":
            assert _TARGETS >= {word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)}, page
        case "slayq":
            check_ours(words[1:])
        case _:
            check_servers(words[1:])


def check_ours(words: list[str]) -> None:
    """A command of the SDK's program."""
    (subparsers,) = [each for each in entry._parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert words[0] in subparsers.choices
    options = {option for action in subparsers.choices[words[0]]._actions for option in action.option_strings}
    assert options >= {word for word in words if word.startswith("-")}


def check_servers(words: list[str]) -> None:
    """A command of the server's."""
    command: click.Command = program
    options = {"-h", "--help", "--version"}
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(click.Context(command), words[0])
        if inner is None:
            assert command is program, f"{words[0]} is no command"  # slayq-server slay-config.json: serve is meant
            assert words[0].endswith(".json") or words[0] == "CONFIG"
            break
        command = inner
        words = words[1:]
    options |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert options >= {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    """On a code host, too. (Anchors, and pages that no other leads to, are looked at by `make docs`.)"""
    text = PAGES[page].read_text(encoding="utf-8")
    links = re.findall(r"\]\(((?!https?://|#)[^)#\s]+)", _FENCED.sub("", text))
    assert [] == [link for link in links if not (PAGES[page].parent / link).exists()]


def test_the_readme_leads_to_every_page() -> None:
    """By itself, for those who read on a code host."""
    text = PAGES["README.md"].read_text(encoding="utf-8")
    assert [] == [page for page in PAGES if page not in ("README.md", "index.md") and f"(docs/{page})" not in text]


def test_all_that_is_public_is_in_the_reference() -> None:
    """docs/api.md has each name of `slayq`, of `slayq.testing`, and every error."""
    text = PAGES["api.md"].read_text(encoding="utf-8")
    names = [f"slayq.{name}" for name in dir(slayq) if name in slayq._HOMES]
    names += [f"slayq.testing.{name}" for name in slayq.testing.__all__]
    assert [] == [name for name in names if not re.search(rf":: {re.escape(name)}$", text, re.MULTILINE)]
    from slayq import errors

    kinds = [
        kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert [] == [name for name in kinds if not re.search(rf":: slayq\.(errors\.)?{name}$", text, re.MULTILINE)]


def test_the_sdks_program_is_documented() -> None:
    """docs/cli.md has its commands, its options and its exit codes."""
    text = PAGES["cli.md"].read_text(encoding="utf-8")
    text = text[text.index("## The SDK's program") :]
    (subparsers,) = [each for each in entry._parser()._actions if isinstance(each, argparse._SubParsersAction)]
    for name, command in subparsers.choices.items():
        assert f"`slayq {name} module:app`" in text
        options = {option for action in command._actions for option in action.option_strings} - {"-h", "--help"}
        assert [] == [option for option in options if f"`{option}" not in text]
    codes = {code for _, code in entry._EXIT_CODES} | {0, 1, 2, 130}
    documented = {int(code) for code in re.findall(r"[:;] (\d+) ", text[text.index("Exit codes") :])}
    assert codes == documented


def test_every_setting_of_the_sdk_is_documented() -> None:
    """docs/settings.md has each variable that the SDK reads, and no other."""
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "slayq").rglob("*.py"))
    rows = re.findall(r"^\| (`SLAY_Q_.*?) \|", PAGES["settings.md"].read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"SLAY_Q_[A-Z_]+", row)}
    assert set(re.findall(r"SLAY_Q_[A-Z_]+[A-Z]", code)) == documented
