"""The types of the SDK, as type checkers see them in the code of its users."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "typed"
GOOD = FOLDER / "good.py"
MISUSE = FOLDER / "misuse.py"

Found = dict[str, set[int]]


def of_mypy() -> Found:
    """The lines in which mypy finds errors, by file."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", str(GOOD), str(MISUSE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Found = {}
    for name, line, kind in re.findall(r"^(.+?):(\d+): (\w+):", done.stdout, re.MULTILINE):
        if kind == "error":
            found.setdefault(Path(name).name, set()).add(int(line))
    return found


def of_pyright() -> Found:
    """The lines in which pyright finds errors, by file."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(GOOD), str(MISUSE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    found: Found = {}
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        if each["severity"] == "error":
            found.setdefault(Path(each["file"]).name, set()).add(each["range"]["start"]["line"] + 1)
    return found


def refused() -> set[int]:
    """The lines that are marked as wrong."""
    lines = MISUSE.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# refused:" in line}


@pytest.mark.parametrize("checker", [of_mypy, of_pyright], ids=["mypy", "pyright"])
def test_types_accept_good_code_and_refuse_each_misuse(checker: object) -> None:
    """Both checkers pass what is right, and see each wrong argument, wrong data, misused result and unchecked None."""
    assert callable(checker)
    assert {"misuse.py": refused()} == checker()
