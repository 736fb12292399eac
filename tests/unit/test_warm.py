"""A daemon that is forked is a process like one that is started from nothing."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.process import Program
from tests.support.wait import wait_until
from tests.support.warm import Forked, Nursery

if TYPE_CHECKING:
    from pathlib import Path

BOTH = pytest.mark.parametrize("cold", [False, True], ids=["forked", "from nothing"])
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
"""A daemon waits for it, for as long as it lives."""


@pytest.fixture
def chosen(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that is tested."""
    if cold:
        monkeypatch.setenv("SLAYQ_TEST_COLD", "1")
    elif Nursery.at_hand() is None:
        pytest.skip("nothing is forked on this system")


def serve(folder: Path, **env: str) -> Program:
    """A daemon with a configuration that is as it should be."""
    folder.mkdir(exist_ok=True)
    (folder / "slay-config.json").write_text('{"queues": {"mail": {"concurrency": 1}}, "http": {"port": 0}}')
    settings = {"SLAY_Q_DATABASE_URL": NOWHERE, "SLAY_Q_SECRET": "s", "SLAY_Q_LOG_FORMAT": "json"}
    return Program(folder, "serve", "slay-config.json", env={**settings, **env})


@BOTH
@pytest.mark.usefixtures("chosen")
async def test_what_it_says_and_how_it_ends(tmp_path: Path) -> None:
    """Its own folder, environment, outputs and exit code; what it says is there before it ends."""
    with Program(tmp_path / "one", "serve", "nowhere.json") as refused:
        assert 78 == await refused.wait()
    assert ("", True) == (refused.stdout, "error: " in refused.stderr)
    with serve(tmp_path / "two", SLAY_Q_LOG_LEVEL="warning") as waiting:
        await waiting.wait_for_output('"database_unavailable"')
        assert "starting" not in waiting.stderr
        waiting.terminate()
        assert 0 == await waiting.wait()


@BOTH
@pytest.mark.usefixtures("chosen")
async def test_signals(tmp_path: Path) -> None:
    """It leads a session of its own, can be frozen, and tells the signal that has ended it; more than once."""
    with serve(tmp_path) as program:
        await program.wait_for_output('"starting"')
        assert program.pid == os.getsid(program.pid)
        program.send_signal(signal.SIGSTOP)
        program.kill()
        assert (-9, -9) == (program.code, await program.wait())
        program.kill()


@pytest.mark.parametrize("cold", [False])
@pytest.mark.usefixtures("chosen")
async def test_in_threads(tmp_path: Path) -> None:
    """Programs of several threads do not take each other's ends away."""
    ended: dict[int, int | None] = {}

    def run(number: int) -> None:
        with Program(tmp_path / str(number), "serve", "nowhere.json") as program:
            process = program._process
            assert isinstance(process, Forked)
            ended[number] = process.wait(20)

    threads = [threading.Thread(target=run, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    await wait_until(lambda: len(ended) == 4, 30)
    for thread in threads:
        thread.join()
    assert dict.fromkeys(range(4), 78) == ended
