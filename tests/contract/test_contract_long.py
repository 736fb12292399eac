"""The contract with two daemons, and with daemons killed at random; `make contract` runs these, `make test` does not.

The kills come at times that a seed decides, which a failure names and SLAYQ_SEED sets.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.contract.scenarios import ALL
from tests.contract.world import ENDED, Setting, World

FORMS = list(itertools.product(("python", "node"), ("postgres", "rpc")))
TWO_DAEMONS = [Setting(*form, daemons=2) for form in FORMS]
KILLED = [Setting(*form, daemons=daemons, kills=10) for daemons, form in zip((1, 2, 2, 1), FORMS, strict=True)]


def each(settings: list[Setting]) -> list[Any]:
    """The settings as parameters; all scenarios of one go to the same xdist worker."""
    return [
        pytest.param(setting, id=str(setting), marks=pytest.mark.xdist_group(repr(setting))) for setting in settings
    ]


pytestmark = pytest.mark.contract_long


@pytest.mark.parametrize("scenario", [*ALL, ENDED])
@pytest.mark.parametrize("world", each(TWO_DAEMONS), indirect=True, scope="session")
def test_two_daemons(world: World, scenario: str) -> None:
    """Two daemons share the work, and the app cannot tell: every number of deliveries is that of one daemon."""
    world.outcome(scenario)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", [*ALL, ENDED])
@pytest.mark.parametrize("world", each(KILLED), indirect=True, scope="session")
def test_daemons_killed_at_random(world: World, scenario: str) -> None:
    """kill -9 over and over while all scenarios run again and again: everything ends as it should, nothing is lost."""
    world.outcome(scenario)
