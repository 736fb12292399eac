"""Fixtures for pytest, there wherever `slayq` is installed. Nothing is imported before a test asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slayq.testing import Engine, SyncEngine


@pytest.fixture(name="slayq_engine")
def slayq_engine_fixture() -> type[Engine]:
    """Makes engines for async tests: `engine = slayq_engine(sq)`. See `slayq.testing`."""
    from slayq.testing import Engine

    return Engine


@pytest.fixture(name="slayq_sync_engine")
def slayq_sync_engine_fixture() -> type[SyncEngine]:
    """Makes engines for tests that are not async: `engine = slayq_sync_engine(sq)`. See `slayq.testing`."""
    from slayq.testing import SyncEngine

    return SyncEngine
