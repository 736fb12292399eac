"""What a daemon does with signals and words, before there is anything else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slayq_server import settings
from slayq_server.config import load
from slayq_server.daemon import Daemon
from tests.support.virtual import in_virtual_time, now

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon that has not been started."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sdnotify.SystemdNotifier", lambda: None)  # it opens a socket that nobody closes
    monkeypatch.setenv("SLAY_Q_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("SLAY_Q_SECRET", "a secret that only the tests know")
    path = folder / "slay-config.json"
    path.write_text('{"queues": {"mail": {"concurrency": 1}}}')
    return Daemon(load(path), settings.load(), config_path=path)


def test_a_signal_cuts_a_wait_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one, which comes while that wait is being cleaned up, is no error."""

    @in_virtual_time
    async def run() -> None:
        daemon = made(tmp_path, monkeypatch)

        async def slow_to_end() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(5)

        loop = asyncio.get_running_loop()
        loop.call_later(1, daemon.stop)
        loop.call_later(2, daemon.stop)
        errors: list[object] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        assert not await daemon._patiently(slow_to_end(), None)
        assert (6, []) == (now(), errors)

    run()


def test_a_queue_that_is_paused_or_resumed_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says a word; the renewal of the worker row, which brings what is paused, is due at once."""
    looks: list[None] = []
    daemon = made(tmp_path, monkeypatch)
    monkeypatch.setattr(daemon._engine.worker, "look", lambda: looks.append(None))
    daemon._engine._word("@timer")
    assert [] == looks
    daemon._engine._word("@queues")
    assert [None] == looks


def test_a_wait_that_ends_in_time_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal after it cuts nothing short."""

    @in_virtual_time
    async def run() -> None:
        daemon = made(tmp_path, monkeypatch)
        assert await daemon._patiently(asyncio.sleep(1), 2)
        daemon.stop()

    run()
