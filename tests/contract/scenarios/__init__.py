"""What the contract promises, scenario by scenario: each is a coroutine that takes a world.

Where daemons are killed, a delivery may come twice or an attempt be used up by a death: what counts exactly is asserted
in a steady world alone, how it ends in every world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.scenarios import answers, continuations, events, invocations, steps, waits

if TYPE_CHECKING:
    from tests.contract.world import Scenario

MODULES = (answers, continuations, events, invocations, steps, waits)
ALL: dict[str, Scenario] = {scenario.__name__: scenario for module in MODULES for scenario in module.SCENARIOS}
