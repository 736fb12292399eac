"""The worlds of the contract suite: one for each class of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slayq_server.dev.cluster import Cluster
    from tests.contract.app_process import Setting
    from tests.contract.world import World
    from tests.support.databases import Databases

pytest.register_assert_rewrite("tests.contract.scenarios", "tests.contract.world")


@pytest.fixture(scope="class")
def world(
    request: pytest.FixtureRequest, cluster: Cluster, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """All scenarios at the same time in the setting of the class."""
    from tests.contract.scenarios import ALL
    from tests.contract.world import World

    setting: Setting = request.cls.setting
    name = databases.create_migrated()
    with World(setting, cluster.url(name), tmp_path_factory.mktemp(str(setting)), ALL) as running:
        yield running
    databases.drop(name)
