"""A small disk for Postgres, so that it can be full: a file system in memory, mounted where nobody else sees it.

It needs the right to mount. Where there is none, a run goes without the fault `pg_disk_full`, and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from slayq_server.dev.account import Account
from slayq_server.dev.cluster import Cluster, temporary_cluster
from tests.conftest import chosen_installation

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 640 * 2**20
"""Room for the server's log of changes (256 MB at the most) and for what an hour of chaos writes."""
_CLONE_NEWNS = 0x00020000
_PIECE = 2**20


def private() -> bool:
    """Gives this process mounts of its own, which end with it and its children; False where that is not permitted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(_CLONE_NEWNS) != 0:
        return False
    return _mount("--make-rprivate", "/")


@contextlib.contextmanager
def cluster_on_a_small_disk(settings: dict[str, str]) -> Iterator[Cluster]:
    """A Postgres whose data folder has SIZE bytes; to be used after `private`."""
    folder = Path(tempfile.mkdtemp(prefix="slayq-disk-"))
    try:
        if not _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)):
            raise OSError(f"a file system in memory cannot be mounted on {folder}")
        try:
            Account.fitting(folder / "data").give(folder)
            installation = chosen_installation()
            with Cluster(installation, folder / "data", durable=False, settings=settings) as cluster:
                yield cluster
        finally:
            _run("umount", "--lazy", str(folder))
    finally:
        folder.rmdir()


def cluster_in_memory(settings: dict[str, str]) -> contextlib.AbstractContextManager[Cluster]:
    """A Postgres that has all the room there is."""
    return temporary_cluster(chosen_installation(), settings=settings)


class Ballast:
    """A file that takes whatever room is left beside a data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir.parent / "ballast"

    def fill(self) -> int:
        """Takes all of it, to the last byte; how many bytes that were."""
        assert os.path.ismount(self._path.parent), f"{self._path.parent} is no disk of our own: it must not be filled"
        with self._path.open("ab", buffering=0) as file:
            for size in (_PIECE, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
            return file.tell()

    def drop(self) -> None:
        """Gives it back."""
        self._path.unlink(missing_ok=True)


def _mount(*arguments: str) -> bool:
    return _run("mount", *arguments)


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
