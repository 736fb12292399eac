"""The worlds of the contract suite: one at a time, made when its first test asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.world import Setting, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slayq_server.dev.cluster import Cluster
    from tests.support.databases import Databases

pytest.register_assert_rewrite("tests.contract.scenarios")


@pytest.fixture(scope="session")
def world(
    request: pytest.FixtureRequest, cluster: Cluster, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """All scenarios at the same time in the setting that the test names."""
    # Imported once their assertions are sure to be rewritten.
    from tests.contract.scenarios import ALL

    setting: Setting = request.param
    name = databases.create_migrated()
    folder = tmp_path_factory.mktemp(str(setting))
    with World(setting, cluster.url(name), folder, ALL) as running:
        yield running
    databases.drop(name)
