"""The soak itself, for a quarter of a minute: all kinds of work come out as they must."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.process import Program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
SOAK = (sys.executable, "-m", "bench.soak")
SHORT = ("--minutes", "0.25", "--rate", "40", "--orders", "2", "--every", "1")


async def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    """Whether anything levels off cannot be told from so little; what was lost or came twice can."""
    with Program(tmp_path, *SHORT, "--folder", str(tmp_path / "soak"), command=SOAK) as program:
        await program.wait(280)
        assert (tmp_path / "soak" / "report.json").exists(), program.report()
    report = json.loads((tmp_path / "soak" / "report.json").read_text())
    assert [] == report["wrong"]  # dead letters among it: as many as were sent
    assert report["sent"]["jobs"] > 400, "a slow machine sends fewer than 600"
    assert report["sent"]["orders"] > 20
    assert report["drained_after"] is not None
    samples = (tmp_path / "soak" / "samples.jsonl").read_text().splitlines()
    assert json.loads(samples[-1])["tables"]["dead_letter"]["live"] <= 6
