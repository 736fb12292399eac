"""The rival: stock Graphile Worker from npm, whose handler signs and posts as protocol v1 says.

Measured in two ways: as the original server does it (`fetch`, default settings), and with the best it has (undici's
pool, local queue, batched completion).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.rig import SECRET, empty_database
from bench.sides import Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from bench.rig import Endpoint
    from slayq_server.dev.cluster import Cluster

SOURCES = Path(__file__).parent / "graphile"
INSTALLED = Path(__file__).parents[1] / "build" / "rival"
WAYS = {
    "fetch": {"CLIENT": "fetch"},
    "undici": {"CLIENT": "undici", "LOCAL_QUEUE": "500", "COMPLETE_DELAY": "0", "FAIL_DELAY": "0"},
}
"""Settings of graphile.mjs by the name of the way."""
_INSTALL_SECONDS = 300


class Rival(Side):
    """Graphile Worker in one of its ways."""

    # Its own call for many at once, which is quicker than one call each.
    add = """
        select count(*) from graphile_worker.add_jobs(array(
            select row($1, json_build_object('url', $2::text, 'event', 'bench/noop', 'data', json_build_object('n', i)),
                null, null, null, null, null, null)::graphile_worker.job_spec
            from generate_series($3::integer, $4::integer) as i
        ))
    """
    add_one = "select graphile_worker.add_job($1, $2::json)"
    left = "select exists (select from graphile_worker._private_jobs)"
    table = "graphile_worker._private_jobs"

    def __init__(self, way: str, folder: Path) -> None:
        self.name = way
        self.title = f"Graphile Worker with {way}"
        self._folder = folder
        self.node = str(folder / "node_modules" / ".bin" / "node")

    async def database(self, cluster: Cluster) -> str:
        url = await empty_database(cluster, "bench_rival")
        worker = self._folder / "node_modules" / "graphile-worker" / "dist" / "cli.js"
        await asyncio.to_thread(
            subprocess.run,
            [self.node, str(worker), "--connection", url, "--schema-only"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return url

    @contextlib.asynccontextmanager
    async def running(self, url: str, queues: Mapping[str, int], endpoint: Endpoint) -> AsyncIterator[psutil.Process]:
        with tempfile.TemporaryDirectory(prefix="slayq-bench-") as name:
            config = Path(name) / "slay-config.json"
            config.write_text(
                json.dumps({"queues": {queue: {"concurrency": number} for queue, number in queues.items()}})
            )
            env = {**os.environ, "SLAY_Q_DATABASE_URL": url, "SLAY_Q_SECRET": SECRET, "GRAPHILE_LOGGER_DEBUG": "0"}
            process = subprocess.Popen(
                [self.node, "graphile.mjs", str(config)],
                cwd=self._folder,
                env={**env, **WAYS[self.name]},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                yield psutil.Process(process.pid)
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.to_thread(process.wait, 20)
                finally:
                    process.kill()


def rivals() -> list[Rival]:
    """All ways, installed by the lock file if need be. Raises RuntimeError where npm is missing or fails."""
    files = [SOURCES / name for name in ("package.json", "package-lock.json", "graphile.mjs")]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = INSTALLED / digest
    if not folder.exists():
        _install(files, folder)
    return [Rival(way, folder) for way in WAYS]


def _install(files: list[Path], folder: Path) -> None:
    """Appears whole or not at all: installed beside its place, then renamed."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("the rival needs npm: install nodejs and npm, or leave the rival out with --no-rival")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="installing-") as name:
        unfinished = Path(name) / "rival"
        unfinished.mkdir()
        for file in files:
            shutil.copy(file, unfinished)
        finished = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--no-update-notifier"],
            cwd=unfinished,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
        if finished.returncode != 0:
            raise RuntimeError(f"npm ci ended with {finished.returncode}:\n{finished.stderr}")
        unfinished.rename(folder)
