"""The types of the examples, as pyright sees them; `make check` has mypy's word."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.process import ROOT


def test_pyright_finds_nothing_in_the_examples() -> None:
    """What users copy passes their type checker."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "examples"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert [] == [(each["file"], each["range"]["start"]["line"] + 1, each["message"]) for each in found]
