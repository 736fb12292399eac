"""The table of README.md is true: what it names exists, and no scenario is missing from it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.contract.scenarios import ALL

TESTS = Path(__file__).parents[1]
ROWS = [line for line in (TESTS / "contract" / "README.md").read_text().splitlines() if line.startswith("| ")]
NAMED = [name for row in ROWS for name in re.findall(r"`([^`]+)`", row.split(" | ", 1)[1])]


def test_all_that_is_named_exists() -> None:
    """Files, tests in them, and scenarios."""
    missing = []
    for name in NAMED:
        file, _, function = name.partition("::")
        if not file.endswith(".py"):
            found = name in ALL or name in ("postgres", "rpc")
        elif found := (TESTS / file).exists():
            tree = ast.parse((TESTS / file).read_text())
            found = not function or function in {getattr(node, "name", None) for node in tree.body}
        if not found:
            missing.append(name)
    assert [] == missing


def test_every_scenario_has_a_row() -> None:
    """The other way round."""
    assert [] == sorted(set(ALL) - set(NAMED))
