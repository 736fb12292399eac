"""The user that Postgres runs as: it refuses to run as root, so where we are root another user must take its place."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from slayq_server.dev.installation import Installation
from slayq_server.errors import ConfigurationError

CACHE = Path("/var/cache/slayq")
"""Where root keeps a copy of the programs that the other user can read. Only root can write there."""

_NOT_NEEDED_TO_RUN = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig", "__pycache__", "*.py")


class ProcessIdentity(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that say who the process is; empty for ourselves."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs Postgres: ourselves (`uid` is None), or an unprivileged user that we, being root, may become."""

    name: str = "you"
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def fitting(cls, data_dir: Path) -> Account:
        """Ourselves where we are not root; else the owner of `data_dir`, or the user `postgres`, or `nobody`.

        Raises `ConfigurationError` where root has no other user to become.
        """
        if os.geteuid() != 0:
            return cls()
        if data_dir.exists() and data_dir.stat().st_uid != 0:
            owner = data_dir.stat()
            return cls(f"with the id {owner.st_uid}", owner.st_uid, owner.st_gid)
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            if entry.pw_uid != 0:
                return cls(name, entry.pw_uid, entry.pw_gid)
        raise ConfigurationError("Postgres refuses to run as root, and there is no user postgres or nobody: add one")

    def identity(self) -> ProcessIdentity:
        """What to hand to `subprocess` to start a process as this user."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make this user the owner of `path` and of all that is in it."""
        if self.uid is None or self.gid is None:
            return
        os.chown(path, self.uid, self.gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """Whether this user may enter the folder, or run the program, at `path`."""
        if self.uid is None:
            return os.access(path, os.X_OK)
        answer = subprocess.run(  # noqa: S603 (the path is an argument of the script, not part of it)
            ["/bin/sh", "-c", 'test -x "$1"', "sh", path], check=False, timeout=30, cwd="/", **self.identity()
        )
        return answer.returncode == 0

    def readable(self, installation: Installation, cache: Path = CACHE) -> Installation:
        """`installation` itself if this user can run it; else a copy of it under `cache`, made once.

        A checkout below `/root`, which others cannot enter, is the usual reason.
        """
        if self.reaches(installation.bin_dir / "postgres"):
            return installation
        prefix = installation.bin_dir.parent
        digest = hashlib.sha256(str(prefix).encode()).hexdigest()[:12]
        copy = cache / f"postgres-{installation.version}-{digest}"
        if not copy.exists():
            _copy(prefix, copy)
        bin_dir = copy / prefix.parent.name / prefix.name / "bin"
        if not self.reaches(bin_dir / "postgres"):
            raise ConfigurationError(f"the user {self.name} can run Postgres neither in {prefix} nor in {copy}")
        return Installation(bin_dir, installation.kind)


def _copy(prefix: Path, target: Path) -> None:
    """Copy an installation in one step, so that nobody sees half of it.

    An embedded one finds its libraries in `../../../<package>.libs`, as wheels do: they and the depth are kept.
    """
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    package = prefix.parent
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copying-") as folder:
        staged = Path(folder) / "copy"
        shutil.copytree(prefix, staged / package.name / prefix.name, symlinks=True, ignore=_NOT_NEEDED_TO_RUN)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, staged / libraries.name)
        for place in (staged, staged / package.name):
            place.chmod(0o755)
        try:
            staged.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker, and its copy is as good
                raise
