"""`slayq-server demo` and `slayq-server dev`: everything on one machine, as a newcomer meets it."""

from __future__ import annotations

import json
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest

from slayq_server.dev.account import Account
from slayq_server.dev.stack import data_folder
from tests.support.process import Program, run_program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.endpoint import Endpoint

SCENES = 9


async def test_the_demo_sends_and_checks_all_its_scenes(tmp_path: Path) -> None:
    """Each job ends as it should, what happens is told, nothing is kept, and the exit code is 0."""
    finished = await run_program(tmp_path, "demo", "--json", timeout=90)
    assert (0, True) == (finished.code, finished.json["ok"]), finished
    assert [True] * SCENES == [scene["ok"] for scene in finished.json["scenes"]]
    for told in (
        "app     demo/flaky (fails twice), attempt 3: succeeds after 2 failures → 200",
        "server  always fails: attempt 3 of 3 failed; it is a dead letter now",
        "server  schedule demo-tick fired",
        "app     demo/order.placed (order-1), attempt 1: fails on purpose after step 2",
        "server  order-1: suspended; nothing of it runs until it goes on",
        "sent demo/order.cancelled (order-2)",
        "app     demo/order.placed (order-1), attempt 1: ends: paid, and there is the invoice of order-1",
    ):
        assert told in finished.stderr
    assert {"stdout", "stderr"} == {path.name for path in tmp_path.iterdir()}


async def test_the_demo_shows_a_table_at_the_end(tmp_path: Path) -> None:
    """For people, what happened and how it ended stand on the standard output."""
    finished = await run_program(tmp_path, "demo", timeout=90)
    assert (0, "") == (finished.code, finished.stderr)
    table = finished.stdout.splitlines()[-SCENES:]
    assert [True] * SCENES == [line.endswith("yes") for line in table]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users can enter: as root, Postgres runs as another."""
    with tempfile.TemporaryDirectory(prefix="slayq-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_dev_runs_a_first_job_to_its_end(open_folder: Path) -> None:
    """The first job fails twice, is tried again and succeeds; the first order is paid, and ends.

    With --once that is all, and a second start works.
    """
    for _ in range(2):
        finished = await run_program(open_folder, "dev", "--once", timeout=90)
        assert 0 == finished.code, finished
        assert "demo/flaky (first-job), attempt 3: succeeds after 2 failures → 200" in finished.stdout
        assert "demo/order.placed (order-1), attempt 1: ends: paid" in finished.stdout
        assert "dev     sent demo/order.cancelled (order-2)" in finished.stdout
    for name in ("env", "secret"):
        assert 0o600 == stat.S_IMODE((open_folder / ".slayq" / name).stat().st_mode)


def test_data_is_kept_where_postgres_can_reach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the folder itself; below a folder that is closed to who runs Postgres, elsewhere, always in the same place."""
    monkeypatch.setattr(Account, "reaches", lambda self, path: True)
    assert tmp_path / "postgres-18" == data_folder(tmp_path, "postgres-18")
    monkeypatch.setattr(Account, "reaches", lambda self, path: False)
    elsewhere = data_folder(tmp_path, "postgres-18", tmp_path / "elsewhere")
    assert tmp_path / "elsewhere" == elsewhere.parents[1]
    assert elsewhere == data_folder(tmp_path, "postgres-18", tmp_path / "elsewhere")
    assert elsewhere != data_folder(tmp_path / "other", "postgres-18", tmp_path / "elsewhere")


async def test_dev_on_a_database_of_ones_own(tmp_path: Path, empty_database_url: str) -> None:
    """It is migrated; what dev tells to type in another terminal works; SIGTERM stops all, cleanly.

    An app of one's own may be reached, beside the sample app.
    """
    own = "http://127.0.0.1:8000"
    with Program(tmp_path / "dev", "dev", "--database", empty_database_url, "--allow", own) as dev:
        await dev.wait_for_output("sent a first job", timeout=60)
        lines = dev.stdout.splitlines()
        command = next(line.split() for line in lines if " send demo/success " in line)
        settings = json.loads((tmp_path / "dev" / ".slayq" / "slay-config.json").read_text())
        assert own == settings["callbacks"]["allow"][1]
        env_file = tmp_path / "dev" / ".slayq" / "env"
        env = dict(line.removeprefix("export ").split("=", 1) for line in env_file.read_text().splitlines())
        assert empty_database_url == env["SLAY_Q_DATABASE_URL"].strip("'")
        arguments = command[command.index("send") :]
        sent = await run_program(tmp_path / "send", *arguments, env={k: v.strip("'") for k, v in env.items()})
        assert 0 == sent.code, sent
        await dev.wait_for_output("demo/success, attempt 1: succeeds → 200")
        children = psutil.Process(dev.pid).children(recursive=True)
        assert len(children) >= 2
        dev.terminate()
        assert 0 == await dev.wait()
        await wait_until(lambda: not any(_lives(child) for child in children))
    assert "stopped" in dev.stdout
    assert empty_database_url.split(":")[2].split("@")[0] not in dev.stdout  # the password


async def test_nothing_of_dev_outlives_it(tmp_path: Path) -> None:
    """Killed with -9, it leaves neither a daemon nor an app nor a Postgres behind."""
    with Program(tmp_path, "dev", "--ephemeral") as dev:
        await dev.wait_for_output("sent a first job", timeout=60)
        children = psutil.Process(dev.pid).children(recursive=True)
        dev.kill()
        await wait_until(lambda: not any(_lives(child) for child in children), timeout=30)


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and that nobody has asked about does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("which", ["--port", "--app-port"])
async def test_dev_says_when_a_port_is_taken(tmp_path: Path, endpoint: Endpoint, which: str) -> None:
    """A port that was asked for and is in use: a clear error, nothing left behind, exit 1."""
    endpoint_port = urlsplit(endpoint.origin).port
    finished = await run_program(tmp_path, "dev", "--ephemeral", which, str(endpoint_port), timeout=60)
    assert 1 == finished.code
    assert "ended by itself" in finished.stderr
    assert f"127.0.0.1:{endpoint_port}" in finished.stderr
    assert "Traceback" not in finished.stderr
