"""The stand-in itself: it refuses what the stock client refuses, so that the rest of the suite means something."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.contract.app_process import Setting
from tests.contract.world import World
from tests.support.endpoint import SECRET

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.world import Scenario

BODY: dict[str, Any] = {"job_key": "k", "retry": 1, "time": 0, "event": "data/echo", "data": {"a": "é", "b": [1.5]}}


async def _post(world: World, text: str, signed: str, secret: str = SECRET, case: str = "lower") -> int:
    """The answer to a callback whose body is `text` and whose signature is that of `signed`."""
    signature = hmac.new(secret.encode(), signed.encode(), hashlib.sha512).hexdigest()
    headers = {"X-SlayQ-Signature": signature.upper() if case == "upper" else signature}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.post(world.app.url, data=text.encode(), headers=headers) as answer,
    ):
        return answer.status


def _compact(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


async def signatures_are_checked(world: World) -> None:
    """Over the parsed body, printed again, its six keys in their order, whatever else there is."""
    body = {**BODY, "time": int(time.time() * 1000)}
    text = _compact(body)
    assert 200 == await _post(world, text, text)
    assert 200 == await _post(world, json.dumps(body, indent=2), text)
    assert 200 == await _post(world, _compact({**body, "more": 1}), text)
    assert 401 == await _post(world, text, text, secret="another")
    assert 401 == await _post(world, text, text, case="upper")
    assert 401 == await _post(world, text, text.replace('"retry":1', '"retry":1.0'))
    assert 401 == await _post(world, text, _compact({"retry": 1, **body}))
    assert 401 == await _post(world, text.replace("1.5", "2.5"), text)


async def old_bodies_are_refused(world: World) -> None:
    """15 seconds are the most, however well it is signed."""
    for age, status in ((5_000, 200), (15_500, 401), (3_600_000, 401)):
        text = _compact({**BODY, "time": int(time.time() * 1000) - age})
        assert status == await _post(world, text, text)


@pytest.mark.parametrize("check", [signatures_are_checked, old_bodies_are_refused], ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", ["python", "node"])
def test_the_stand_in(variant: str, check: Scenario, database_url: str, tmp_path: Path) -> None:
    """It trusts no callback that the stock client would not trust."""
    with World(Setting(variant, "postgres"), database_url, tmp_path, {"check": check}) as world:
        world.outcome("check")
