"""Packages from npm for tests: installed once a machine, by the lock file of the project that asks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

TIME_LIMIT = 100.0
"""Seconds for an installation."""
REQUIRED = os.environ.get("SLAYQ_REQUIRE_NODE") == "1"


def node() -> str:
    """The path of Node. Without it the test is skipped; with SLAYQ_REQUIRE_NODE=1 it fails."""
    return _found("node")


def npm_project(folder: Path) -> Path:
    """The folder in which the packages of `folder`'s package.json and package-lock.json lie under node_modules.

    It is a copy of those two files in this user's cache, named after what they say: the first test on a machine
    installs it, others wait for that one. Programs reach the packages by `createRequire(<the folder>/package.json)`.
    No scripts of packages run. Without Node or npm the test is skipped; with SLAYQ_REQUIRE_NODE=1 it fails.
    """
    node()
    npm = _found("npm")
    files = [folder / "package.json", folder / "package-lock.json"]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:24]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slayq-tests" / "npm"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / digest
    with (cache / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _install(npm, files, made)
    return made


def _install(npm: str, files: list[Path], made: Path) -> None:
    """Appears whole or not at all: installed beside its place, then renamed."""
    with TemporaryDirectory(dir=made.parent, prefix="installing-") as name:
        unfinished = Path(name) / "project"
        unfinished.mkdir()
        for file in files:
            shutil.copy(file, unfinished)
        finished = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"],
            cwd=unfinished,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
        if finished.returncode != 0:
            pytest.fail(f"npm ci for {files[0].parent} ended with {finished.returncode}:\n{finished.stderr}")
        unfinished.rename(made)


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is not None:
        return path
    if REQUIRED:
        pytest.fail(f"{program} is not on the PATH, and SLAYQ_REQUIRE_NODE=1 asks for it: install nodejs and npm")
    pytest.skip(f"{program} is not on the PATH: install nodejs and npm to run this test")
