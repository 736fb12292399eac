"""The contract, scenario by scenario, with a stand-in app in each of its forms and one daemon."""

from __future__ import annotations

import itertools

import pytest

from tests.contract.scenarios import ALL
from tests.contract.world import ENDED, Setting, World

SETTINGS = [Setting(variant, driver) for variant, driver in itertools.product(("python", "node"), ("postgres", "rpc"))]


@pytest.mark.parametrize("scenario", [*ALL, ENDED])
@pytest.mark.parametrize("world", SETTINGS, ids=str, indirect=True, scope="session")
def test_scenario(world: World, scenario: str) -> None:
    """The app sees what protocol v1 promises, and the database holds what is recorded: see scenarios/."""
    world.outcome(scenario)
