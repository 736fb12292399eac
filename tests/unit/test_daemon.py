"""What a daemon does with signals and words, before there is anything else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from slayq_server import settings
from slayq_server.config import load
from slayq_server.daemon import Daemon
from slayq_server.errors import ConfigurationError
from tests.support.virtual import in_virtual_time, now

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_configuration_that_comes_before_the_database_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor may pass a reload on to a process that has just been started. A wrong one changes nothing."""
    daemon = made(tmp_path, monkeypatch)
    path = tmp_path / "slay-config.json"
    path.write_text('{"queues": {"mail": {"concurrency": 3}, "more": {"concurrency": 1}}}')
    daemon.adopt(load(path), settings.load())
    assert {"mail": 3, "more": 1} == {pool.name: pool.limit for pool in daemon._engine.pools}
    homeless = '[{"id": "a", "cron": "@daily", "event": "e", "queue": "mail"}]'
    path.write_text(f'{{"queues": {{"mail": {{"concurrency": 4}}}}, "cron": {homeless}}}')
    with pytest.raises(ConfigurationError):
        daemon.adopt(load(path), settings.load())
    assert {"mail": 3, "more": 1} == {pool.name: pool.limit for pool in daemon._engine.pools}
