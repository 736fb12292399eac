"""A Postgres server of our own, started from Python: for `slayq-server dev` and `demo`, and for the tests.

It listens on 127.0.0.1, with a password made at random, and on a Unix socket that only its own user (and root) can
reach. It ends with this process, however that ends: a watchdog holds a pipe to us and stops the server when the pipe
breaks.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Self
from urllib.parse import quote, urlencode

from slayq_server.dev.account import Account
from slayq_server.dev.installation import Installation
from slayq_server.errors import SlayQServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["Cluster", "ClusterError", "Installation", "temporary_cluster"]

HOST = "127.0.0.1"

_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_NOT_DURABLE = {
    # What is committed survives a kill of the server, but not of the machine. synchronous_commit stays on, so that
    # commits behave as in production.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "30min",
    "log_checkpoints": "off",
}

_PASSWORD_FILE = "slayq-password"  # noqa: S105 (a file's name)
_LOG_FILE = "slayq-server.log"
_LONGEST_SOCKET_PATH = 100
_PORT_TRIES = 5
_ROOM_IN_MEMORY = 4 * 2**30
"""Bytes that must be free there: containers often have 64 MB, which a server would fill at once."""

# Arguments: the server's process id, its data folder, and what to remove once it is gone.
# The process id alone might be somebody else's by then; the data folder says whether it still is the server's.
_WATCHDOG = """
read -r _
server=$1 data=$2
shift 2
if [ "$(head -n 1 "$data/postmaster.pid" 2>/dev/null)" = "$server" ]; then
    kill -INT "$server" 2>/dev/null
    tries=0
    while [ -e "$data/postmaster.pid" ] && [ $tries -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    [ -e "$data/postmaster.pid" ] && kill -QUIT "$server" 2>/dev/null
fi
rm -rf -- "$@"
"""


class ClusterError(SlayQServerError):
    """The Postgres server could not be made, started or stopped; the message ends with what it logged."""


class Cluster:
    """One Postgres server over one data folder, made on the first start. Not safe for use from two threads at once.

    `durable=False` trades the data's safety for speed: for tests. `settings` are server settings by name. `port` pins
    the TCP port; else a free one is found at the first start and kept for later ones, so that URLs stay good. `owns` is
    a folder that goes when the server goes for good (`close`), even if this process is killed.
    """

    host = HOST

    def __init__(
        self,
        installation: Installation,
        data_dir: Path,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        owns: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.installation = installation
        self._settings = {**({} if durable else _NOT_DURABLE), **(settings or {})}
        self._durable = durable
        self._port = port
        self._owns = owns
        self._account = Account.fitting(self.data_dir)
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._password: str | None = None
        self._log_start = 0
        self._creator = os.getpid()

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server (the postmaster)."""
        if self._process is None:
            raise ClusterError("the Postgres server is not running: call start() first")
        return self._process.pid

    @property
    def port(self) -> int:
        """The TCP port; known from the first start on."""
        if self._port is None:
            raise ClusterError("the Postgres server has no port yet: call start() first")
        return self._port

    @property
    def socket_dir(self) -> Path:
        """The folder of the Unix socket; known from the first start on."""
        if self._socket_dir is None:
            raise ClusterError("the Postgres server has no socket yet: call start() first")
        return self._socket_dir

    @property
    def password(self) -> str:
        """The password of `postgres`; a role that is to log in through `url` must be created with it too."""
        if self._password is None:
            self._password = (self.data_dir / _PASSWORD_FILE).read_text().strip()
        return self._password

    def url(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """The URL of a database over TCP, with the password in it."""
        return f"postgresql://{quote(user, safe='')}:{self.password}@{HOST}:{self.port}/{quote(dbname, safe='')}"

    def socket_url(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """The URL of a database over the Unix socket, which lets its own user and root in as any role."""
        place = urlencode({"host": str(self.socket_dir), "port": self.port})
        return f"postgresql://{quote(user, safe='')}@/{quote(dbname, safe='')}?{place}"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.data_dir / _LOG_FILE

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server has logged since its last start; empty if it logged none."""
        try:
            logged = self.log_file.read_bytes()[self._log_start :]
        except FileNotFoundError:
            return ""
        return "\n".join(logged.decode(errors="replace").splitlines()[-lines:])

    def start(self, timeout: float = 60.0) -> None:
        """Start the server, over a new data folder if there is none; return when it takes connections.

        Raises `ClusterError` (with the end of the server's log) if it does not within `timeout` seconds.
        """
        if self.running:
            return
        self._reap()
        self.installation = self._account.readable(self.installation)
        self._make_data_dir()
        if self._socket_dir is None:
            self._socket_dir = self._make_socket_dir()
        atexit.register(self.close)
        pinned = self._port is not None
        for _ in range(1 if pinned else _PORT_TRIES):
            port = self._port if self._port is not None else _free_port()
            if self._launch(port, time.monotonic() + timeout):
                self._port = port
                return
        raise ClusterError(f"Postgres found no free port on {HOST} (last tried {port}):\n{self.log_tail()}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 60.0) -> None:
        """End the server; `start` can start it again. `immediate` is a crash: the next start recovers.

        A server that has not ended after `timeout` seconds is made to, ever less gently.
        """
        process = self._process
        if process is None:
            return
        for number, patience in ((_STOP_SIGNALS[mode], timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            process.send_signal(number)
            try:
                process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reap()

    def close(self) -> None:
        """End the server for good, and remove its socket's folder and the folder it owns."""
        if os.getpid() != self._creator:
            return  # a fork of the process that started the server: the server is not ours to end
        atexit.unregister(self.close)
        self.stop()
        for folder in self._disposable():
            shutil.rmtree(folder, ignore_errors=True)
        self._socket_dir = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _disposable(self) -> list[Path]:
        return [folder for folder in (self._socket_dir, self._owns) if folder is not None]

    def _make_data_dir(self) -> None:
        """See to it that the data folder is there, is of this major version, and belongs to who runs the server."""
        version_file = self.data_dir / "PG_VERSION"
        if version_file.exists():
            major = version_file.read_text().strip()
            if major != str(self.installation.major):
                raise ClusterError(
                    f"{self.data_dir} was made by Postgres {major}, and this is {self.installation}: "
                    f"use Postgres {major}, or another data folder"
                )
            if self.data_dir.stat().st_uid != self._account.uid:
                self._account.give(self.data_dir)
        elif self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise ClusterError(f"{self.data_dir} holds other things than a Postgres server's data: use another folder")
        else:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            self._require_access(self.data_dir.parent)
            self._initialise()
        self._require_access(self.data_dir)

    def _require_access(self, folder: Path) -> None:
        if not self._account.reaches(folder):
            raise ClusterError(
                f"Postgres does not run as root, and the user {self._account.name}, who runs it instead, "
                f"cannot enter {folder}: use a data folder that all users can reach"
            )

    def _initialise(self) -> None:
        """Run `initdb` beside the data folder and move the result into place: a data folder is there whole or not."""
        with tempfile.TemporaryDirectory(dir=self.data_dir.parent, prefix=f".{self.data_dir.name}-") as folder:
            staging = Path(folder)
            password = staging / _PASSWORD_FILE
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(18))
            self._account.give(staging)
            complaint = ""
            # C.UTF-8 is not on every system; C is, and differs only in upper and lower case outside ASCII.
            for locale in ("C.UTF-8", "C"):
                answer = self._initdb(staging / "data", password, locale)
                if answer.returncode == 0:
                    password.rename(staging / "data" / _PASSWORD_FILE)
                    (staging / "data").rename(self.data_dir)
                    return
                complaint = (answer.stdout + answer.stderr).strip()
        raise ClusterError(f"initdb could not make the data folder {self.data_dir}:\n{complaint}")

    def _initdb(self, target: Path, password: Path, locale: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            self.installation.bin_dir / "initdb",
            f"--pgdata={target}",
            f"--pwfile={password}",
            f"--locale={locale}",
            "--encoding=UTF8",
            "--lc-messages=C",
            "--username=postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-instructions",
            *([] if self._durable else ["--no-sync"]),
        ]
        return subprocess.run(  # noqa: S603 (a program found by us, no shell)
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd="/",
            env=_environment(),
            **self._account.identity(),
        )

    def _make_socket_dir(self) -> Path:
        """A folder of its own for the Unix socket, with a path as short as sockets need."""
        for base in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 (mkdtemp makes a private folder)
            folder = Path(tempfile.mkdtemp(prefix="slayq-", dir=base))
            self._account.give(folder)
            if len(bytes(folder / ".s.PGSQL.65535")) < _LONGEST_SOCKET_PATH and self._account.reaches(folder):
                return folder
            folder.rmdir()
        raise ClusterError("no place for the Unix socket: set TMPDIR to a folder with a short path, open to all users")

    def _launch(self, port: int, deadline: float) -> bool:
        """Start the server on `port` and wait until it is ready; False if the port was taken meanwhile."""
        options = {
            **self._settings,
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": str(self.socket_dir),
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        command: list[str | Path] = [self.installation.bin_dir / "postgres", "-D", self.data_dir]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self._open_log() as log:
            self._process = subprocess.Popen(  # noqa: S603 (a program found by us, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us; the server must outlive our own shutdown
                **self._account.identity(),
            )
        self._watch(self._process)
        while not self._ready(self._process.pid):
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
                self.stop("immediate", timeout=10.0)
                raise ClusterError(f"Postgres was not ready in time:\n{self.log_tail()}") from None
            self._reap()
            return not self._lost_the_port(port)
        return True

    def _open_log(self) -> BinaryIO:
        """The log, empty, unless another server seems to be writing to it. Follows no link: we may be root here."""
        taken = (self.data_dir / "postmaster.pid").exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND | (0 if taken else os.O_TRUNC)
        log = os.fdopen(os.open(self.log_file, flags, 0o600), "wb")
        self._log_start = os.fstat(log.fileno()).st_size
        return log

    def _lost_the_port(self, port: int) -> bool:
        """True if the server ended because its port was taken and another may be tried; raises else."""
        log = self.log_tail()
        if 'lock file "postmaster.pid" already exists' in log:
            raise ClusterError(
                f"another Postgres server is using {self.data_dir}: stop that one, or use another folder:\n{log}"
            )
        if "could not create any TCP/IP sockets" not in log:
            raise ClusterError(f"Postgres ended while starting:\n{log}")
        if self._port is not None:
            raise ClusterError(f"port {port} on {HOST} is taken: free it or choose another:\n{log}")
        return True

    def _ready(self, pid: int) -> bool:
        """Whether the server says in the eighth line of its pid file, as pg_ctl reads it, that it takes connections."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _watch(self, server: subprocess.Popen[bytes]) -> None:
        self._watchdog = subprocess.Popen(  # noqa: S603 (a fixed script; paths are its arguments)
            ["/bin/sh", "-c", _WATCHDOG, "slayq-watchdog", str(server.pid), self.data_dir, *self._disposable()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **self._account.identity(),
        )

    def _reap(self) -> None:
        """Forget a server that has ended, and call off its watchdog, which must not act on what others do later."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin is not None:
                watchdog.stdin.close()
        process, self._process = self._process, None
        if process is not None:
            process.wait()


@contextmanager
def temporary_cluster(
    installation: Installation, *, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A running server that is gone without a trace at the end; fast, unless it is to be durable (on a real disk)."""
    folder = Path(tempfile.mkdtemp(prefix="slayq-", dir=None if durable else _memory()))
    Account.fitting(folder / "data").give(folder)
    with Cluster(installation, folder / "data", durable=durable, settings=settings, owns=folder) as cluster:
        yield cluster


def _memory() -> Path | None:
    """A folder in memory, where a database is made 15 to 40 times as fast as on a disk; None where there is no room."""
    folder = Path("/dev/shm")  # noqa: S108 (only ever used through mkdtemp)
    if folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _ROOM_IN_MEMORY:
        return folder
    return None


def _environment() -> dict[str, str]:
    """Our environment without what would point Postgres elsewhere, and with messages in English, which we read."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**ours, "LC_ALL": "C"}


def _free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
