"""The lock files say what `pyproject.toml` asks for, agree with each other, and tie nobody to one registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tools.lock import without_hosts

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
REQUIREMENTS = (ROOT / "requirements.lock").read_text()
ADVICE = "pyproject.toml or a lock was changed: run `make lock`"


def asked_for() -> list[Requirement]:
    """What the project's extras name, without the project itself."""
    lines = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [each for each in map(Requirement, [*PROJECT["dependencies"], *lines]) if each.name != PROJECT["name"]]


def test_the_lock_has_what_the_project_asks_for() -> None:
    """Every requirement is locked, at a version that it admits."""
    versions = {package["name"]: package["version"] for package in LOCKED}
    unmet = [str(each) for each in asked_for() if not each.specifier.contains(versions.get(each.name, "0"))]
    assert unmet == [], ADVICE


def test_both_locks_agree() -> None:
    """What is installed is what uv has resolved, file for file."""
    exported = dict(re.findall(r"^([\w.-]+)==(\S+)", REQUIREMENTS, re.MULTILINE))
    resolved = {package["name"]: package["version"] for package in LOCKED if package["name"] != PROJECT["name"]}
    assert exported == resolved, ADVICE
    files = [file for package in LOCKED for file in [package.get("sdist"), *package.get("wheels", [])] if file]
    assert {file["hash"] for file in files} == set(re.findall(r"--hash=(\S+)", REQUIREMENTS)), ADVICE


def test_the_locks_name_no_host() -> None:
    """Who has a mirror of the registry installs from there: the locks hold names and hashes alone."""
    named = [name for name in ("uv.lock", "requirements.lock") if "://" in (ROOT / name).read_text()]
    assert named == [], ADVICE


def test_hosts_are_taken_out() -> None:
    """A registry becomes a folder, and a URL the file's name; nothing else changes."""
    lock = """\
source = { registry = "https://registry.example/simple" }
sdist = { url = "https://files.example/a/b/c/thing-1.0.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://files.example/d/thing-1.0-py3-none-any.whl", hash = "sha256:11" },
]
"""
    expected = """\
source = { registry = "wheels" }
sdist = { path = "thing-1.0.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { path = "thing-1.0-py3-none-any.whl", hash = "sha256:11" },
]
"""
    assert expected == without_hosts(lock)
