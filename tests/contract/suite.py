"""The tests of one world: a class for each setting inherits them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.contract.scenarios import ALL
from tests.contract.world import ENDED

if TYPE_CHECKING:
    from tests.contract.app_process import Setting
    from tests.contract.world import World


class Contract:
    """Every scenario in one setting, all at the same time, and each a test by itself: see scenarios/."""

    setting: ClassVar[Setting]

    @pytest.mark.parametrize("scenario", [*ALL, ENDED])
    def test_scenario(self, world: World, scenario: str) -> None:
        """The app sees what protocol v1 promises, and the database holds what is recorded."""
        world.outcome(scenario)
