"""The command `slayq`: what it finds, what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING

import pytest

from slayq import __version__
from slayq.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

_NUMBERS = count(1)
APP = """
from slayq.client import SlayQ

sq = SlayQ(app="shop", url="https://shop.example.com/slayq", secret="secret")

@sq.function(event="shop/order.placed", queue="orders", retries=5, priority=10,
             cancel_on=[("shop/order.cancelled", "order_id")], waits_on=[("shop/order.paid", "order_id")],
             invokes=["shop/render"])
async def fulfil(step):
    ...

@sq.function(event="shop/nightly", cron="TZ=Asia/Singapore 0 3 * * *")
def nightly(step):
    ...
"""


class Project:
    """A folder with a module of an app, under a name that no other test has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"shop_of_test_{next(_NUMBERS)}"

    def write(self, source: str) -> None:
        """Writes the module."""
        (self.folder / f"{self.name}.py").write_text(source)

    def run(self, command: str, app: str | None = ":sq", *options: str) -> int:
        """Runs a command on it; the exit code."""
        return main([command, f"{self.name}{app or ''}", "--app-dir", str(self.folder), *options])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with an app, and no way to a server."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for variable in ("SLAY_Q_DATABASE_URL", "SLAY_Q_RPC_URL", "SLAY_Q_SUPABASE_URL", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.delenv(variable, raising=False)
    made = Project(tmp_path)
    made.write(APP)
    return made


def test_functions_are_listed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, with all that they were given; no server is asked."""
    assert 0 == project.run("functions")
    said = capsys.readouterr()
    assert "" == said.err
    assert [
        "EVENT              FUNCTION  QUEUE    RETRIES  PRIORITY  MORE",
        (
            "shop/order.placed  fulfil    orders   5        10        cancelled by shop/order.cancelled (order_id);"
            " waits for shop/order.paid (order_id); invokes shop/render"
        ),
        "shop/nightly       nightly   general  25       0         cron TZ=Asia/Singapore 0 3 * * *",
    ] == said.out.splitlines()


def test_functions_as_json_are_the_manifest(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """As `slayq.register` in SQL takes it."""
    assert 0 == project.run("functions", ":sq", "--json")
    manifest = json.loads(capsys.readouterr().out)
    assert ("shop", "https://shop.example.com/slayq") == (manifest["app"], manifest["url"])
    assert ["shop/order.placed", "shop/nightly"] == [each["event"] for each in manifest["functions"]]


def test_an_app_without_functions_is_said_to_have_none(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """And registering it takes all of its functions away, so it is no error."""
    project.write('from slayq.client import SlayQ\nsq = SlayQ(app="shop", url="https://shop.example.com")')
    assert 0 == project.run("functions")
    assert "The app shop has no functions.\n" == capsys.readouterr().out


def test_the_name_of_the_only_app_may_be_left_out(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """An app that has two names is still one; of two, the error names both."""
    project.write(APP + "\nalias = sq\n")
    assert 0 == project.run("functions", None)
    project.name = f"{project.name}_two"
    project.write(APP + "\nother = SlayQ(app='b', url='https://b.example.com')\n")
    assert 3 == project.run("functions", None)
    assert "say which of sq, other after a colon" in capsys.readouterr().err


def test_an_app_may_be_within_something(project: Project) -> None:
    """Names may have dots, on both sides of the colon."""
    package = project.folder / f"{project.name}_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jobs.py").write_text(APP + "\nclass holder:\n    app = sq\n")
    assert 0 == main(["functions", f"{package.name}.jobs:holder.app", "--app-dir", str(project.folder)])


# Registering


async def test_an_app_is_registered(
    project: Project, database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """By the driver that the environment names, as a program; warnings go beside what is printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "slayq", "register", f"{project.name}:sq"],
        cwd=tmp_path,
        env={"SLAY_Q_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Registered 2 functions of the app shop at https://shop.example.com/slayq.\n" == ran.stdout
    assert "warning: 'shop/order.placed' invokes 'shop/render', which no app has registered yet\n" == ran.stderr
    assert 0 == ran.returncode
    events = await connection.fetch("select event from slayq.function order by event")
    assert ["shop/nightly", "shop/order.placed"] == [each["event"] for each in events]


def test_registering_says_it_as_json(
    project: Project, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the warnings in it."""
    monkeypatch.setenv("SLAY_Q_DATABASE_URL", database_url)
    assert 0 == project.run("register", ":sq", "--json")
    said = json.loads(capsys.readouterr().out)
    assert ("shop", "https://shop.example.com/slayq", 2) == (said["app"], said["url"], said["functions"])
    assert 1 == len(said["warnings"])


def test_what_the_server_refuses_fails(
    project: Project, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, with what to do about it."""
    monkeypatch.setenv("SLAY_Q_DATABASE_URL", database_url)
    assert 0 == project.run("register")
    project.name = f"{project.name}_thief"
    project.write(APP.replace('app="shop"', 'app="thief"'))
    assert 1 == project.run("register")
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the event 'shop/order.placed' belongs to the app 'shop'")


def test_a_server_that_is_away(
    project: Project, unused_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """69, so that a deployment can try again."""
    monkeypatch.setenv("SLAY_Q_RPC_URL", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("SLAY_Q_SECRET", "secret")
    assert 69 == project.run("register")
    assert capsys.readouterr().err.startswith("error: the daemon cannot be reached")


def test_an_app_with_no_way_to_the_server(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """78, and the names of what to set."""
    assert 78 == project.run("register")
    assert "SLAY_Q_DATABASE_URL" in capsys.readouterr().err


def test_an_app_without_a_url(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The server could not reach it."""
    project.write('from slayq.client import SlayQ\nsq = SlayQ(app="shop")')
    assert 78 == project.run("functions")
    assert "url=" in capsys.readouterr().err


# What cannot be found


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (":sk", "did you mean {name}:sq?"),
        (":fulfil", "is a Function and no SlayQ: did you mean {name}:sq?"),
        (":sq.nothing", "has no 'sq.nothing'"),
        ("_nowhere:sq", "there is no module {name}_nowhere in "),
        (".below:sq", "there is no module {name}.below in "),
    ],
)
def test_what_is_not_there(project: Project, app: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """3, and what could be meant."""
    assert 3 == project.run("functions", app)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert 1 == error.count("\n")
    assert said.format(name=project.name) in error


@pytest.mark.parametrize("name", ["", ":sq", ".jobs:sq", "shop/jobs.py:sq"])
def test_what_is_no_name(name: str, capsys: pytest.CaptureFixture[str], project: Project) -> None:
    """A path, or half a name, is told how to be written."""
    assert 3 == main(["functions", name])
    assert "such as shop.jobs:sq" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_package_at_all", "No module named 'no_such_package_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("int('x')", "invalid literal"),
        ("def", "SyntaxError"),
    ],
)
def test_a_module_that_fails(project: Project, source: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own traceback is shown, and then one line."""
    project.write(source)
    assert 1 == project.run("functions")
    error = capsys.readouterr().err
    assert f"{project.name}.py" in error
    assert error.splitlines()[-1].startswith(f"error: the module {project.name} cannot be imported: ")
    assert said in error.splitlines()[-1]


def test_a_module_without_an_app(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The error asks for the place where it is."""
    project.write("x = 5")
    assert 3 == project.run("functions", None)
    assert "has no SlayQ" in capsys.readouterr().err


# Usage


@pytest.mark.parametrize("arguments", [[], ["functions"], ["nothing", "a:b"], ["functions", "a:b", "--what"]])
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """2, and the usage."""
    assert 2 == main(arguments)
    assert "usage: slayq" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Both end well."""
    assert [0, 0, 0] == [main(["--help"]), main(["register", "--help"]), main(["--version"])]
    said = capsys.readouterr().out
    assert "functions" in said
    assert f"slayq {__version__}\n" == said[-len(f"slayq {__version__}\n") :]


def test_a_reader_that_has_gone(project: Project, tmp_path: Path) -> None:
    """`slayq functions app | head -0` is quiet."""
    program = f"{sys.executable} -m slayq functions {project.name}:sq --json | true"
    ran = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ("", "") == (ran.stdout, ran.stderr)


def test_a_project_of_django_is_set_up_first(project: Project, tmp_path: Path) -> None:
    """Modules that need Django's apps can be imported."""
    (tmp_path / "settings_of_test.py").write_text("INSTALLED_APPS = ['django.contrib.contenttypes']\n")
    project.write("from django.contrib.contenttypes.models import ContentType\n" + APP)
    ran = subprocess.run(
        [sys.executable, "-m", "slayq", "functions", project.name],
        cwd=tmp_path,
        env={"DJANGO_SETTINGS_MODULE": "settings_of_test"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "") == (ran.returncode, ran.stderr)


def test_the_program_is_installed() -> None:
    """`slayq` is a command."""
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="slayq")
    assert main is command.load()
