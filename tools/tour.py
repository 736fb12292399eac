"""`make tour`: walks through examples/slayq_tour.py under each driver and each framework.

Starts one Postgres, and for each walk a database, the real server, and the app as processes of their own. The driver
reaches the server as it would in production, by its settings in the environment; in place of Supabase there is
PostgREST's double of the tests. Not the full product: each driver and each framework at least once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import asyncpg

from slayq_server.db.migrate import migrate
from slayq_server.dev.cluster import temporary_cluster
from slayq_server.dev.processes import Child, run_interruptibly
from slayq_server.dev.stack import free_port, installation
from tests.support.postgrest import PostgRest, supabase_roles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from slayq_server.dev.cluster import Cluster

WALKS = (
    ("postgres", "asgi"),
    ("rpc", "fastapi"),
    ("supabase", "aiohttp"),
    ("rpc", "flask"),
    ("supabase", "django"),
    ("postgres", "django-sync"),
)
ROOT = Path(__file__).parents[1]
LONGEST = 90.0
"""Seconds for one walk; it takes about 5."""
BACKOFF = {"base": 0.3, "factor": 1.5, "jitter": 0}


def config(app_port: int) -> dict[str, object]:
    """The server's: short back-offs, history, and a quick heartbeat, which looks for due ticks."""
    return {
        "queues": {
            "general": {"concurrency": 30, "backoff": BACKOFF},
            "one-at-a-time": {"concurrency": 1, "backoff": BACKOFF},
        },
        "callbacks": {"allow": [f"http://127.0.0.1:{app_port}"]},
        "retention": {"done": "1h"},
        "worker": {"renew": 1},
    }


@dataclass(frozen=True, slots=True)
class Walked:
    """How a walk ended."""

    name: str
    good: bool
    promises: int
    kept: int
    seconds: float


async def walk(cluster: Cluster, driver: str, adapter: str, say: Callable[[str], None]) -> Walked:
    """One walk, on a database of its own."""
    started = time.monotonic()
    name = f"{driver} × {adapter}"
    database_url = await _database(cluster, f"{driver}_{adapter}".replace("-", "_"))
    lines: list[str] = []

    def heard(line: str) -> None:
        lines.append(line)
        say(line)

    with tempfile.TemporaryDirectory(prefix="slayq-tour-") as folder:
        secret, app_port = secrets.token_urlsafe(32), free_port()
        async with (
            _server(Path(folder), database_url, secret, app_port) as server_url,
            _settings(driver, cluster, database_url, server_url) as settings,
        ):
            env = {
                **settings,
                "SLAY_Q_SECRET": secret,
                "TOUR_URL": f"http://127.0.0.1:{app_port}/slayq",
                "TOUR_DATABASE_URL": database_url,
            }
            code = await _app(adapter, env, heard)
    kept, broken = (sum(line.startswith(mark) for line in lines) for mark in "✓✗")
    good = code == 0 and kept > 0 and not broken
    if not good:
        heard(f"  {name}: exit code {code}, {broken} broken promises")
    return Walked(name, good, kept + broken, kept, time.monotonic() - started)


async def _database(cluster: Cluster, name: str) -> str:
    admin = await asyncpg.connect(cluster.url(), timeout=10)
    try:
        await admin.execute(f"create database {name}")
    finally:
        await admin.close()
    await migrate(cluster.url(name))
    return cluster.url(name)


@contextlib.asynccontextmanager
async def _server(folder: Path, database_url: str, secret: str, app_port: int) -> AsyncIterator[str]:
    """The daemon, ready; its address."""
    path = folder / "slay-config.json"
    path.write_text(json.dumps(config(app_port)))
    port = free_port()
    server = await Child.start(
        *("server", "slayq_server", "serve", str(path), f"--port={port}", "--log-format=json"),
        folder=folder,
        env={"SLAY_Q_DATABASE_URL": database_url, "SLAY_Q_SECRET": secret},
    )
    ready = asyncio.Event()

    async def read() -> None:
        async for line in server.lines():
            if '"event":"ready"' in line.replace(" ", ""):
                ready.set()
            elif '"level":"error"' in line.replace(" ", ""):
                print(f"server: {line}", file=sys.stderr)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        try:
            async with asyncio.timeout(30):
                await ready.wait()
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.stop(10)


@contextlib.asynccontextmanager
async def _settings(
    driver: str, cluster: Cluster, database_url: str, server_url: str
) -> AsyncIterator[Mapping[str, str]]:
    """The environment of an app that reaches the server by that driver."""
    match driver:
        case "postgres":
            yield {"SLAY_Q_DATABASE_URL": database_url}
        case "rpc":
            yield {"SLAY_Q_RPC_URL": server_url}
        case _:
            async with _supabase(cluster, database_url) as url:
                key = PostgRest.headers("service_role")["Authorization"].removeprefix("Bearer ")
                yield {"SLAY_Q_SUPABASE_URL": url, "SLAY_Q_SUPABASE_KEY": key}


@contextlib.asynccontextmanager
async def _supabase(cluster: Cluster, database_url: str) -> AsyncIterator[str]:
    admin = await asyncpg.connect(database_url, timeout=10)
    try:
        async with supabase_roles(admin, unquote(urlsplit(cluster.url()).password or "")):
            await admin.execute("select slayq._grant_1('{}', '{}')")
            async with PostgRest(database_url, path="/rest/v1") as postgrest:
                yield postgrest.url
    finally:
        await admin.close()


async def _app(adapter: str, env: Mapping[str, str], heard: Callable[[str], None]) -> int:
    """Runs the tour's app to its end; its exit code."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLAY_Q_", "PG", "TOUR_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.slayq_tour", f"--adapter={adapter}"),
        cwd=ROOT,
        env={**ours, **env, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LONGEST):
            async for raw in process.stdout:
                heard(raw.decode(errors="replace").rstrip("\n"))
            return await process.wait()
    except TimeoutError:
        heard(f"  the tour did not end within {LONGEST:g} s")
        return -1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def tour(cluster: Cluster, walks: list[tuple[str, str]], *, full: bool) -> bool:
    """All walks, one after the other. The first is told in full, of the others what went wrong. Whether all is well."""
    walked = []
    for driver, adapter in walks:
        told: list[str] = []
        in_full = full or not walked
        print(f"\nDriver {driver}, framework {adapter}:\n" if in_full else f"Driver {driver}, framework {adapter} …")
        done = await walk(cluster, driver, adapter, print if in_full else told.append)
        if not done.good and not in_full:
            print("\n".join(told))
        walked.append(done)
        print(f"  {done.kept} of {done.promises} promises kept, {done.seconds:.1f} s", flush=True)
    print("\ndriver × framework        promises kept")
    for done in walked:
        print(f"{done.name:<24}  {done.kept} of {done.promises}{'' if done.good else '   BROKEN'}")
    return all(done.good for done in walked)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="make tour", description="Walks through examples/slayq_tour.py.")
    parser.add_argument("--full", action="store_true", help="tell every walk in full, not just the first")
    parser.add_argument(
        "--only",
        action="append",
        metavar="DRIVER:FRAMEWORK",
        choices=[f"{driver}:{adapter}" for driver, adapter in WALKS],
        help="this walk (repeatable); default: all",
    )
    given = parser.parse_args()
    walks = [(driver, adapter) for driver, adapter in WALKS if not given.only or f"{driver}:{adapter}" in given.only]
    with temporary_cluster(installation("auto")) as cluster:
        try:
            return 0 if run_interruptibly(tour(cluster, walks, full=given.full)) else 1
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
