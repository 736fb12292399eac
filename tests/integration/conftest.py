"""Which event loops tests run on: deliveries on uvloop, too, which the daemon uses and whose errors differ.

And the command line, run in the test's own process.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops for the tests of delivery, the standard one for the others."""
    if item.path.name in ("test_delivery.py", "test_segment.py"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without settings of ours, in an empty folder."""
    for name in list(os.environ):
        if name.startswith(("SLAY_Q_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(
    bare_environment: None, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """Runs commands in this process, against the test's own database."""
    monkeypatch.setenv("SLAY_Q_DATABASE_URL", database_url)
    return Cli(capsys)
