"""Apps that die for real, a process and all, in the middle of what they do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.app_process import Setting
from tests.contract.world import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.world import Scenario


async def dies_after_a_sleep(world: World) -> None:
    """The continuation that was added before is all that comes, once the app is back: once, and with its steps."""
    key = await world.send("after/sleep", ms=3000, then="hang", tag=world.tag())
    await _killed(world, lambda: world.log("answer", key, status="hang"))
    assert "finished" == await world.result(key)
    assert [None, {"nap": True}] == world.caches(key)
    assert [] == world.letters(key)


async def dies_after_a_failed_step(world: World) -> None:
    """The failed attempt counts once, the steps that were finished are kept."""
    key = await world.send("after/failure", then="hang", tag=world.tag())
    await _killed(world, lambda: world.log("answer", key, status="hang"))
    assert "kept" == await world.result(key)
    assert (None, {"kept": "kept"}) == (world.caches(key)[0], world.caches(key)[-1])
    assert 1 == world.steps(key).count("kept")
    assert [] == world.letters(key)


async def dies_in_a_step(world: World) -> None:
    """Nothing was added: the delivery has failed, and the job is tried again from its start."""
    tag = world.tag()
    key = await world.send("steps/held", tag=tag, n=7)
    await _killed(world, lambda: world.log("step", key))
    await world.set_flag(f"go {tag} 7")
    assert 7 == await world.result(key)
    assert ["hold", "hold"] == world.steps(key)
    assert world.retries(key)[-1] > 1


async def _killed(world: World, when: Callable[[], Any]) -> None:
    """Kills the app, and starts it again at its address."""
    await world.until(when, "the app is where it is to die")
    assert world.app.program is not None
    await asyncio.to_thread(world.app.program.kill)
    await world.app.start()


DEATHS = [dies_after_a_sleep, dies_after_a_failed_step, dies_in_a_step]


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.__name__)
@pytest.mark.parametrize("setting", [Setting("python", "postgres"), Setting("node", "rpc")], ids=str)
def test_an_app_that_dies(setting: Setting, death: Scenario, database_url: str, tmp_path: Path) -> None:
    """What it had added stays, and what it was doing is tried again."""
    with World(setting, database_url, tmp_path, {"death": death}) as world:
        world.outcome("death")
