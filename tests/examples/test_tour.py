"""The tour: every feature, against the real daemon. `make tour` walks it under all drivers and frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from examples.touring import ADAPTERS
from tools.tour import WALKS, walk

if TYPE_CHECKING:
    from slayq_server.dev.cluster import Cluster

IN_EVERY_RUN = [("postgres", "asgi"), ("rpc", "flask"), ("supabase", "django")]
"""Each driver, and each way that a framework serves; the rest is left to `make tour`, which CI runs as well."""


@pytest.mark.parametrize(("driver", "adapter"), IN_EVERY_RUN)
async def test_every_promise_of_the_tour_is_kept(cluster: Cluster, driver: str, adapter: str) -> None:
    """All that the tour says of a feature happens."""
    told: list[str] = []
    walked = await walk(cluster, driver, adapter, told.append)
    assert walked.good, "\n".join(told)
    assert walked.kept == walked.promises > 20


def test_make_tour_walks_under_every_driver_and_framework() -> None:
    """Each at least once."""
    assert {"postgres", "rpc", "supabase"} == {driver for driver, _ in WALKS}
    assert set(ADAPTERS) == {adapter for _, adapter in WALKS}
    assert set(IN_EVERY_RUN) <= set(WALKS)
