"""PgBouncer in front of the tests' server: used where it is installed, demanded where `SLAYQ_REQUIRE_PGBOUNCER=1`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import pytest

from slayq_server.dev.account import Account
from tests.support.process import tied_to_us

if TYPE_CHECKING:
    from slayq_server.dev.cluster import Cluster

Mode = Literal["transaction", "session"]
_HOST = "127.0.0.1"
_PORT_TRIES = 5
_STARTS_WITHIN = 10.0


class PgBouncer:
    """A pooler over all databases of a cluster, with its defaults but for what `settings` say.

    with PgBouncer(cluster, "transaction", default_pool_size=2) as pooler:
        pool = Pool(pooler.url(database_url), pooled=True)
    """

    def __init__(self, cluster: Cluster, mode: Mode, **settings: object) -> None:
        self._binary = installed()
        self._cluster = cluster
        self._settings = {
            "pool_mode": mode,
            "listen_addr": _HOST,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            **settings,
        }
        self._folder = Path(tempfile.mkdtemp(prefix="slayq-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    def url(self, database_url: str) -> str:
        """The URL of a database by way of the pooler."""
        parts = urlsplit(database_url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@{_HOST}:{self._port}"))

    def start(self) -> None:
        """Listen: on a free port, and from the second time on on the same."""
        for _ in range(_PORT_TRIES):
            port = self._port or _free_port()
            if self._launch(port):
                self._port = port
                return
        raise AssertionError(f"PgBouncer does not start:\n{self.log}")

    def kill(self) -> None:
        """End it with SIGKILL, and with it all connections through it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return (self._folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def _launch(self, port: int) -> bool:
        """Whether it takes connections on that port; False if it ended instead, as on a port that is taken."""
        settings = {**self._settings, "listen_port": port, "auth_file": self._folder / "users.txt"}
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        server = f"* = host={_HOST} port={self._cluster.port}"
        (self._folder / "pgbouncer.ini").write_text(f"[databases]\n{server}\n[pgbouncer]\n{lines}\n")
        (self._folder / "users.txt").write_text(f'"postgres" "{self._cluster.password}"\n')
        binary = self._binary
        # It does not run as root; whom it runs as must be able to read its files, and itself.
        account = Account.fitting(self._cluster.data_dir)
        if not account.reaches(binary):
            binary = Path(shutil.copy(binary, self._folder))
        account.give(self._folder)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*tied_to_us(), binary, self._folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **account.identity(),
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while self._process.poll() is None:
            if _answers(port):
                return True
            assert time.monotonic() < deadline, f"PgBouncer does not answer:\n{self.log}"
            time.sleep(0.01)
        return False


def installed() -> Path:
    """The program. Skips the test where it is not installed and not required."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        reason = "pgbouncer is not installed (Debian: apt-get install pgbouncer)"
        if os.environ.get("SLAYQ_REQUIRE_PGBOUNCER") == "1":
            pytest.fail(f"{reason}, and SLAYQ_REQUIRE_PGBOUNCER=1 demands it")
        pytest.skip(reason)
    return Path(found)


def _answers(port: int) -> bool:
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
