"""What `dev` and `demo` run: a database of ours, the sample app, and the daemon between them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from slayq_server.db.migrate import migrate
from slayq_server.dev.account import Account
from slayq_server.dev.cluster import Cluster, Installation, temporary_cluster
from slayq_server.dev.processes import Child
from slayq_server.dev.sample_app import HOST, PATH, Seen
from slayq_server.errors import ConfigurationError, SlayQServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

_T = TypeVar("_T")
ROOTS_DATA = Path("/var/lib/slayq-dev")
_READY_WITHIN = 60.0
_STOP_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Database:
    """A database for `dev`."""

    url: str
    words: str
    """What and where it is, for people; without its password."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is."""

    database_url: str
    server: str
    app: str
    """The sample app's endpoint: the `url` of a payload."""


def shown_url(url: str) -> str:
    """A database's URL without its password."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit((parts.scheme, f"{user}{parts.hostname or ''}{port}", parts.path, parts.query, ""))


def installation(kind: str) -> Installation:
    """The Postgres to start: the newest `embedded` or `installed` one; `auto` is embedded where that is there."""
    match kind:
        case "embedded":
            return Installation.find("embedded")
        case "installed":
            return Installation.find("installed")
        case _:
            try:
                return Installation.find("embedded")
            except ConfigurationError:
                return Installation.find("auto")


@contextlib.contextmanager
def kept_database(folder: Path, kind: str) -> Iterator[Database]:
    """A running server over a data folder in `folder` that stays for the next time."""
    found = installation(kind)
    data = data_folder(folder, f"postgres-{found.major}")
    with Cluster(found, data) as cluster:
        yield Database(cluster.url(), f"{found.kind} Postgres {found.version}, data in {_short(data)}")


def data_folder(folder: Path, name: str, elsewhere: Path = ROOTS_DATA) -> Path:
    """`name` in `folder`; where root works in a folder that nobody else can enter, in one of its own `elsewhere`.

    Postgres does not run as root, and a checkout below /root is closed to the user who runs it then.
    """
    data = folder / name
    if Account.fitting(data).reaches(folder):
        return data
    return elsewhere / hashlib.sha256(bytes(folder.resolve())).hexdigest()[:12] / name


@contextlib.contextmanager
def passing_database(kind: str) -> Iterator[Database]:
    """A running server that is gone without a trace at the end."""
    found = installation(kind)
    with temporary_cluster(found) as cluster:
        yield Database(cluster.url(), f"{found.kind} Postgres {found.version}, gone at the end")


def _short(path: Path) -> Path:
    """A path as seen from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class Stack:
    """The sample app and the daemon, running as processes of their own from `running()` to its end."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        config: Callable[[str], dict[str, Any]],
        *,
        secret: str,
        server_port: int = 0,
        app_port: int = 0,
        allow: Sequence[str] = (),
        log_options: Sequence[str] = ("--log-format=pretty",),
        on_seen: Callable[[Seen], None],
        on_log: Callable[[str], None],
    ) -> None:
        """Starts nothing yet.

        Args:
            folder: where the configuration is written, and the daemon's working directory.
            database_url: a database with or without the schema.
            config: makes the daemon's, from the sample app's endpoint; where callbacks may go is added.
            secret: that both share.
            server_port: the daemon's; 0 for any free one.
            app_port: the sample app's; 0 for any free one.
            allow: origins of other apps that callbacks may reach.
            log_options: how the daemon logs.
            on_seen: called with what the sample app sees.
            on_log: called with each line of the daemon's log.
        """
        self._folder = folder
        self._database_url = database_url
        self._config = config
        self._secret = secret
        self._server_port = server_port
        self._app_port = app_port
        self._allow = tuple(allow)
        self._log_options = log_options
        self._on_seen = on_seen
        self._on_log = on_log
        self._app_bound: asyncio.Future[int] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Addresses]:
        """Migrates the database and starts both; stops them at the end, the daemon first.

        Raises:
            ChildEnded: one of them has ended by itself.
        """
        await migrate(self._database_url)
        self._app_bound = asyncio.get_running_loop().create_future()
        children: list[Child] = []
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    app = await self._start_app()
                    children.append(app)
                    group.create_task(self._read_app(app))
                    app_port = await _in_time(self._app_bound, "the sample app did not listen")
                    server_port = self._server_port or free_port()
                    server = await self._start_server(server_port, app_port)
                    children.append(server)
                    group.create_task(self._read_server(server))
                    await _in_time(_until_ready(server_port), "the server was not ready")
                    yield Addresses(
                        self._database_url, f"http://{HOST}:{server_port}", f"http://{HOST}:{app_port}{PATH}"
                    )
                finally:
                    # The readers run on until their child's output ends, so that a child never waits for a reader.
                    for child in reversed(children):
                        await child.stop(_STOP_WITHIN)
        except BaseExceptionGroup as group_error:
            ours, others = group_error.split(SlayQServerError)
            if ours is None or others is not None:
                raise
            raise ours.exceptions[0] from None

    async def _start_app(self) -> Child:
        return await Child.start(
            "sample app",
            "slayq_server.dev.sample_app",
            "--json",
            f"--port={self._app_port}",
            folder=self._folder,
            env={"SLAY_Q_DATABASE_URL": self._database_url, "SLAY_Q_SECRET": self._secret},
        )

    async def _start_server(self, port: int, app_port: int) -> Child:
        path = self._folder / "slay-config.json"
        origin = f"http://{HOST}:{app_port}"
        config = {**self._config(origin + PATH), "callbacks": {"allow": list(dict.fromkeys((origin, *self._allow)))}}
        path.write_text(json.dumps(config, indent=2) + "\n")
        return await Child.start(
            "server",
            "slayq_server",
            "serve",
            str(path),
            f"--port={port}",
            *self._log_options,
            folder=self._folder,
            env={"SLAY_Q_DATABASE_URL": self._database_url, "SLAY_Q_SECRET": self._secret},
        )

    async def _read_app(self, app: Child) -> None:
        assert self._app_bound is not None
        async for line in app.lines():
            if not line.startswith("{"):
                self._on_log(line)
                continue
            told = json.loads(line)
            if "port" in told:
                self._app_bound.set_result(told["port"])
            else:
                self._on_seen(Seen(**told))

    async def _read_server(self, server: Child) -> None:
        async for line in server.lines():
            self._on_log(line)


async def _in_time(awaited: Awaitable[_T], complaint: str) -> _T:
    try:
        async with asyncio.timeout(_READY_WITHIN):
            return await awaited
    except TimeoutError:
        raise SlayQServerError(f"{complaint} within {_READY_WITHIN:g} s") from None


async def _until_ready(port: int) -> None:
    """Returns when the daemon says that it takes jobs."""
    while not await asyncio.to_thread(_is_ready, port):  # noqa: ASYNC110 (another process can only be asked)
        await asyncio.sleep(0.05)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free on this machine, else any that is."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return int(probe.getsockname()[1])
    raise SlayQServerError(f"there is no free port on {HOST}")
