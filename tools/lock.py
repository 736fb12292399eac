"""Write `uv.lock` and `requirements.lock` for what `pyproject.toml` asks for, without the name of any registry.

A lock that says where each file lies ties everybody to one registry, mirrors or not, and the files' names and hashes
say what to install just as well. So `uv.lock` gets a folder `wheels` in place of the registry: uv takes that, checks
the lock, keeps its versions and exports it; only `uv sync` and `uv run` would look for the folder. What is installed
is the export, `requirements.lock`, by uv and pip alike.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "uv.lock"
REQUIREMENTS = ROOT / "requirements.lock"
HEADER = "# Written by `make lock` from uv.lock: all that the server, its tests and its tools need.\n"


def without_hosts(lock: str) -> str:
    """A uv lock file's text with a local folder in the place of every registry, and file names in that of URLs."""
    files = re.sub(r'\{ url = "https?://[^"]*/([^"/]+)"', r'{ path = "\1"', lock)
    return re.sub(r'registry = "https?://[^"]*"', 'registry = "wheels"', files)


def uv() -> str:
    """The path of uv: the one that `UV` names, or the environment's, into which it is installed if need be."""
    named = os.environ.get("UV")
    if named:
        return named
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    if shutil.which("uv", path=path) is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "uv"], check=True)
    found = shutil.which("uv", path=path)
    if found is None:
        raise SystemExit("uv cannot be installed here: install it, and try again")
    return found


def main() -> None:
    """Lock, take out the hosts, export."""
    program = uv()
    subprocess.run([program, "lock", *sys.argv[1:]], cwd=ROOT, check=True)
    LOCK.write_text(without_hosts(LOCK.read_text()))
    exported = subprocess.run(
        [program, "export", "--quiet", "--frozen", "--all-extras", "--no-emit-project", "--no-header", "--no-annotate"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name, text in ((LOCK.name, LOCK.read_text()), (REQUIREMENTS.name, exported)):
        if "://" in text:
            raise SystemExit(f"{name} still names a host: see without_hosts in {__file__}")
    REQUIREMENTS.write_text(HEADER + exported)


if __name__ == "__main__":
    main()
