"""The command line as a whole: finding commands, exit codes, errors in one line, what is printed where."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slayq_server.cli import main
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.conftest import Connect
    from tests.support.cli import Cli
    from tests.support.daemon import Daemons

DATABASE_COMMANDS = [
    ("send", "shop/order", "--url", "https://app.example.com/slayq", "--queue", "mail"),
    ("jobs", "list"),
    ("jobs", "show", "1"),
    ("jobs", "retry", "1"),
    ("jobs", "cancel", "1"),
    ("dead", "list"),
    ("dead", "show", "1"),
    ("dead", "redrive", "1"),
    ("dead", "purge", "1"),
    ("queues", "list"),
    ("queues", "pause", "mail"),
    ("queues", "resume", "mail"),
    ("workers", "list"),
    ("cron", "list"),
    ("cron", "trigger", "nightly"),
]


@pytest.mark.parametrize("command", [*DATABASE_COMMANDS, ("migrate",)], ids=" ".join)
async def test_a_database_that_is_away_exits_69(cli: Cli, unused_port: int, command: tuple[str, ...]) -> None:
    """Nobody listens on the database's port: one line says so, and the exit code is 69."""
    finished = await cli(*command, "--database-url", f"postgresql://nobody@127.0.0.1:{unused_port}/none")
    assert (69, "") == (finished.code, finished.stdout)
    assert finished.stderr.startswith("error: Postgres cannot be reached")
    assert 1 == finished.stderr.count("\n")


@pytest.mark.parametrize("command", DATABASE_COMMANDS, ids=" ".join)
async def test_a_database_without_the_schema_exits_78(
    cli: Cli, empty_database_url: str, command: tuple[str, ...]
) -> None:
    """A database that was never migrated: the line names the command to run."""
    finished = await cli(*command, "--database-url", empty_database_url)
    assert (78, "") == (finished.code, finished.stdout)
    assert "Run: slayq-server migrate" in finished.stderr
    assert 1 == finished.stderr.count("\n")


@pytest.mark.parametrize(
    ("url", "words"),
    [(None, "SLAY_Q_DATABASE_URL: is not set"), ("mysql://db.example.com/x", "SLAY_Q_DATABASE_URL: must be")],
)
async def test_no_database_exits_78(cli: Cli, monkeypatch: pytest.MonkeyPatch, url: str | None, words: str) -> None:
    """Without a database's URL, or with one of another kind, the error names the variable."""
    monkeypatch.delenv("SLAY_Q_DATABASE_URL")
    finished = await cli("jobs", "list", *(["--database-url", url] if url else []))
    assert 78 == finished.code
    assert words in finished.stderr


async def test_the_database_may_come_from_a_dotenv_file(
    cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in the original, a .env in the working directory is read."""
    monkeypatch.delenv("SLAY_Q_DATABASE_URL")
    (tmp_path / ".env").write_text(f"SLAY_Q_DATABASE_URL={database_url}\n")
    assert {"jobs": [], "more": False} == await cli.json("jobs", "list")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("jbos",), "there is no command, and no file, 'jbos'. Did you mean jobs?"),
        (("frobnicate",), "Commands are: serve, dev,"),
        (("jobs", "list", "--stat", "ready"), "No such option '--stat'"),
        (("jobs", "list", "--state", "done"), "'done' is not one of"),
        (("jobs", "show"), "give the job's id, or its --key"),
        (("jobs", "show", "one"), "'one' is not a valid integer"),
        (("jobs", "retry"), "say which: ids, or filters, or --all"),
        (("jobs", "cancel", "1", "--queue", "mail"), "give ids, or filters, not both"),
        (("jobs", "list", "--match", "a=b"), "--match needs --event"),
        (("jobs", "list", "--event", "e", "--match", "a"), "--match wants KEY=VALUE"),
        (("dead", "list", "--died-before", "yesterday"), "is no time"),
        (("dead", "list", "--died-before", "2030-01-31T08:30:00"), "has no time zone"),
        (("send", "e", "--queue", "mail"), "Missing option '--url'"),
        (("send", "e", "--queue", "q", "--url", "u", "--delay", "5 fortnights"), "is not a duration"),
        (("cron", "next", "61 * * * *"), "minute"),
        (("check",), "give the path of a slay-config.json, or --schema"),
        (("healthcheck", "--url", "ftp://x"), "--url wants http://HOST:PORT"),
        (("dev", "--database", "sqlite"), "--database is embedded, installed"),
        (("dev", "--allow", "http://127.0.0.1:8000/slayq"), 'take "/slayq" out'),
    ],
)
async def test_wrong_usage_exits_2(cli: Cli, command: tuple[str, ...], words: str) -> None:
    """What was typed wrong is said in one line, and where to look it up in a second."""
    finished = await cli(*command)
    assert (2, "") == (finished.code, finished.stdout)
    assert words in finished.stderr
    first, second = finished.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("Try: slayq-server")


async def test_help_is_shown_for_a_group_without_a_command(cli: Cli) -> None:
    """`slayq-server jobs` lists its commands, and exits as any other half command."""
    finished = await cli("jobs")
    assert 2 == finished.code
    assert "List jobs that are not done" in finished.stderr


async def test_version_and_help_exit_0(cli: Cli) -> None:
    """Both print on the standard output."""
    from slayq_server import __version__

    assert f"slayq-server, version {__version__}\n" == (await cli.ok("--version")).stdout
    assert "healthcheck" in (await cli.ok("--help")).stdout


def test_ctrl_c_exits_130_without_a_word(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted command prints no traceback."""

    def interrupt(given: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slayq_server.cli.jobs.connected", interrupt)
    assert 130 == main(["jobs", "list"])
    printed = capsys.readouterr()
    assert ("", "") == (printed.out.strip(), printed.err.strip())


def test_a_reader_that_has_gone_is_no_error_of_ours() -> None:
    """`slayq-server … | head`: no traceback when the pipe breaks."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "slayq_server", "cron", "next", "* * * * *", "-n", "1000"],
            stdout=writing,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writing)
    assert (1, b"") == (finished.returncode, finished.stderr)


async def test_a_configuration_alone_is_served(daemons: Daemons) -> None:
    """`slayq-server CONFIG`, as in the original, runs the daemon until it is told to stop."""
    path = daemons.write()
    environment = {"SLAY_Q_DATABASE_URL": daemons.database_url, "SLAY_Q_SECRET": "s", "SLAY_Q_LOG_FORMAT": "json"}
    program = daemons.start_program(str(path), env=environment)
    await program.wait_for_output('"ready"')
    program.terminate()
    assert 0 == await program.wait()


async def test_serve_may_be_kept_from_migrating(daemons: Daemons, connect: Connect, empty_database_url: str) -> None:
    """With --skip-migrate a schema that is not up to date exits 78 and is left alone; one that is, is served."""
    refused = daemons.launch("--skip-migrate", env={"SLAY_Q_DATABASE_URL": empty_database_url})
    assert 78 == await refused.wait()
    assert "error: the schema lacks 0001_tables" in refused.stderr
    connection = await connect(empty_database_url)
    assert not await connection.fetchval("select exists (select from pg_namespace where nspname = 'slayq')")
    running = await daemons.start("--skip-migrate")
    running.program.terminate()
    assert 0 == await running.program.wait()


async def test_serve_options_go_over_the_configuration(daemons: Daemons, unused_port: int) -> None:
    """--port, --host, --grace and --log-format count more than the file and the environment."""
    options = ("--host=127.0.0.1", f"--port={unused_port}", "--grace=7s", "--log-format=pretty")
    # 192.0.2.1 is kept for documentation: no machine has it.
    program = daemons.launch(*options, env={"SLAY_Q_HTTP_PORT": "1"}, http={"bind": "192.0.2.1"})
    await program.wait_until_answers(f"http://127.0.0.1:{unused_port}/readyz")
    program.terminate()
    assert 0 == await program.wait()
    assert "grace_seconds=7.0" in program.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"queues": {"mail": {"concurrency": "3"}}}', "queues.mail.concurrency"),
        ('{"queus": {}}', 'did you mean "queues"?'),
        (None, "there is no such file"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check", "migrate"])
async def test_a_bad_configuration_exits_78(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, text: str | None, words: str
) -> None:
    """Every command that reads the configuration says what is wrong with it, and where."""
    monkeypatch.setenv("SLAY_Q_SECRET", "s")
    path = tmp_path / "slay-config.json"
    if text is not None:
        path.write_text(text)
    finished = await cli(command, str(path))
    assert (78, "") == (finished.code, finished.stdout)
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr


async def test_nothing_in_a_job_reaches_the_terminal_unescaped(cli: Cli, connection: asyncpg.Connection) -> None:
    """Events and errors come from apps: a table spells out what a terminal would obey."""
    await connection.execute(
        "select slayq.add_job('mail', json_build_object('url', 'http://app.example.com', 'event', $1::text))",
        "shop\x1b[31m\u202e\n[bold]order",
    )
    listed = (await cli.ok("jobs", "list")).stdout
    assert r"shop\x1b[31m\u202e\n[bold]order" in listed
    assert 2 == listed.count("\n")


async def test_a_terminal_is_asked_and_shown_a_progress_bar(
    cli: Cli, connection: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """Somebody at a terminal is told how many, asked, and shown how far a bulk action has come."""
    await connection.execute(
        """select slayq.add_jobs(array(select row('mail', '{"url": "http://a.example", "event": "e"}', null, null, null,
        null, null, null)::slayq.job_spec from generate_series(1, 1201)))"""
    )
    refused = await asyncio.to_thread(_at_a_terminal, ["jobs", "cancel", "--queue", "mail"], database_url, b"n\n")
    assert "Cancel 1,201 jobs? [y/N]" in refused
    assert "Nothing was changed." in refused
    assert 1201 == await connection.fetchval("select count(*) from slayq.job")
    done = await asyncio.to_thread(_at_a_terminal, ["jobs", "cancel", "--queue", "mail"], database_url, b"y\n")
    assert "1201/1201" in done
    assert "1,201 jobs removed." in done
    assert 0 == await connection.fetchval("select count(*) from slayq.job")


def _at_a_terminal(arguments: list[str], database_url: str, typed: bytes) -> str:
    """What a command prints on a terminal of its own, on which somebody types."""
    ours, theirs = os.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "slayq_server", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "SLAY_Q_DATABASE_URL": database_url, "TERM": "xterm", "COLUMNS": "120"},
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed)
    printed = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side of a terminal has been closed
            break
        if not chunk:
            break
        printed += chunk
    os.close(ours)
    program.wait(30)
    return printed.decode()
