"""promtool, Prometheus's own checker: used where it is installed, demanded where `SLAYQ_REQUIRE_PROMTOOL=1`."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def promtool(*arguments: str, stdin: bytes | None = None, cwd: Path | None = None) -> tuple[int, str]:
    """Run promtool: (exit code, what it printed). Skips the test where promtool is not installed and not required."""
    binary = shutil.which("promtool")
    if binary is None:
        reason = "promtool is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("SLAYQ_REQUIRE_PROMTOOL") == "1":
            pytest.fail(f"{reason}, and SLAYQ_REQUIRE_PROMTOOL=1 demands it")
        pytest.skip(reason)
    done = subprocess.run(
        [binary, *arguments],
        input=stdin,
        cwd=cwd,
        timeout=60,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()
