"""A soak: an hour or so at about half of what the machine sustains, all kinds of work, and nothing broken but vacuum.

    python -m bench.soak [--minutes 60] [--rate 500] [--orders 10] [--folder bench/results/soak]

A durable Postgres, one daemon, an endpoint and an app with the SDK, each a process of its own. Of the jobs, see `work`;
each order makes three runs. A transaction is held open for a twelfth of the time, so that vacuum can remove nothing.

Every ten seconds a sample goes into samples.jsonl. At the end: whether each figure levels off (see `levels`), and
whether anything was lost or came twice. Exit code 1 if one does not, or something was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from bench.rig import SECRET, daemon, fresh_database, postgres
from bench.soak.levels import levels, table
from bench.soak.picture import svg
from bench.soak.probe import PROBE, Probe, fetch
from bench.soak.producer import Producer

if TYPE_CHECKING:
    from bench.soak.probe import Sample

HOLD_FROM, HOLD_FOR = 0.3, 1 / 12
"""When the long transaction begins and how long it stays, as shares of the run."""
DRAINS_WITHIN = 180.0
ROOM = 1.1


class Process:
    """The endpoint or the app: prints its port, ends when its standard input does."""

    def __init__(self, module: str, size: int, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SOAK_DATABASE_URL": url, "SLAY_Q_DATABASE_URL": url, "SLAY_Q_SECRET": SECRET},
        )
        assert self._process.stdout is not None
        self.origin = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()


def config(port: int, endpoint: str, app: str) -> dict[str, Any]:
    """Of the daemon."""
    return {
        "queues": {
            "mail": {"concurrency": 20},
            "tight": {"concurrency": 3, "scope": "cluster"},
            "runs": {"concurrency": 20},
        },
        "cron": [
            {"id": "minute", "cron": "* * * * *", "event": "soak/minute", "url": f"{endpoint}/slayq", "queue": "mail"}
        ],
        "callbacks": {"allow": [endpoint, app]},
        "http": {"port": port},
    }


async def hold(url: str, seconds: float, held: float) -> None:
    """Waits, then keeps a transaction open that sees the database as it was."""
    await asyncio.sleep(seconds)
    connection = await asyncpg.connect(url, server_settings={"application_name": "soak-holder"})
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.execute("select pg_current_xact_id()")
            await asyncio.sleep(held)
    finally:
        await connection.close()


async def sampling(probe: Probe, path: Path, every: float, stopping: asyncio.Event, producer: Producer) -> list[Sample]:
    """Samples until told to stop, each written down at once."""
    samples = []
    due = time.monotonic()
    with path.open("w", buffering=1) as file:
        while not stopping.is_set():
            due += every
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), max(0.0, due - time.monotonic()))
            sample = {**await probe.look(), "sent": dict(producer.sent), "producer_behind": producer.behind}
            samples.append(sample)
            file.write(json.dumps(sample) + "\n")
    return samples


async def soak(args: argparse.Namespace) -> dict[str, Any]:
    """The run; what came of it."""
    seconds = args.minutes * 60
    args.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(postgres())
        url = await fresh_database(cluster, "soak")
        size = int(seconds * args.rate * ROOM) + 1000
        endpoint = stack.enter_context(Process("bench.soak.endpoint", size, url))
        app = stack.enter_context(Process("bench.soak.app", int(seconds * args.orders * ROOM) + 1000, url))
        port = unused_port()
        server = f"http://127.0.0.1:{port}"
        async with daemon(url, config(port, endpoint.origin, app.origin)) as running:
            watcher = await asyncpg.connect(url, command_timeout=60, server_settings={"application_name": PROBE})
            try:
                producer = Producer(url, server, f"{endpoint.origin}/slayq", args.rate, args.orders)
                probe = Probe(watcher, {"daemon": running.process.pid, "app": app.pid}, server, endpoint.origin)
                minute = await _planned(watcher)
                samples = await _live(args, url, producer, probe)
                drained = await _drained(watcher)
                report = await _account(watcher, endpoint, app, producer, minute)
            finally:
                await watcher.close()
            report["drained_after"] = drained
            report["log"] = [line for line in running.log().splitlines() if line and '"event":"job_dead"' not in line]
    return {"samples": samples, **report}


async def _live(args: argparse.Namespace, url: str, producer: Producer, probe: Probe) -> list[Sample]:
    seconds = args.minutes * 60
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(producer.run(stopping))
        samples = group.create_task(sampling(probe, args.folder / "samples.jsonl", args.every, stopping, producer))
        holder = group.create_task(hold(url, HOLD_FROM * seconds, HOLD_FOR * seconds))
        await asyncio.sleep(seconds)
        stopping.set()
        holder.cancel()
    return samples.result()


async def _planned(watcher: asyncpg.Connection) -> Any:
    """The schedule's first tick, once it is known."""
    async with asyncio.timeout(30):
        while True:
            first = await watcher.fetchval("select next_at from slayq.schedule where id = 'minute' and planned")
            if first is not None:
                return first
            await asyncio.sleep(0.02)


async def _drained(watcher: asyncpg.Connection) -> float | None:
    """Seconds until nothing is left."""
    began = time.monotonic()
    while time.monotonic() < began + DRAINS_WITHIN:
        if not await watcher.fetchval("select exists (select from slayq.job)"):
            return round(time.monotonic() - began, 1)
        await asyncio.sleep(0.25)
    return None


async def _account(
    watcher: asyncpg.Connection, endpoint: Process, app: Process, producer: Producer, minute: Any
) -> dict[str, Any]:
    """What was lost, and what came twice, by all who know."""
    jobs, orders = producer.sent["jobs"], producer.sent["orders"]
    found = {
        "jobs": json.loads(await asyncio.to_thread(fetch, f"{endpoint.origin}/account?{jobs}")),
        "orders": json.loads(await asyncio.to_thread(fetch, f"{app.origin}/account?{orders}")),
    }
    wrong: list[str] = []
    unsure = set(producer.unsure)
    for name, part in (("jobs", found["jobs"]), *found["orders"].items()):
        if isinstance(part, dict) and (part["lost"] or part["again"]):
            if name == "jobs" and {each["number"] for each in part["first"]} <= unsure:
                continue
            wrong.append(f"{name}: {part['lost']} too few, {part['again']} too many: {part['first']}")
    for name, part in found.items():
        if part["odd"]:
            wrong.append(f"{name}: {part['odd']} odd: {part['odd_first']}")
    last = await watcher.fetchval("select last_at from slayq.schedule where id = 'minute'")
    ticks = 0 if last is None else round((last - minute).total_seconds() / 60) + 1
    if found["jobs"]["ticks"].get("soak/minute", 0) != ticks:
        wrong.append(f"{ticks} ticks were due, and what came was {found['jobs']['ticks']}")
    dead, dead_expected = await watcher.fetchval("select count(*) from slayq.dead_letter"), _dead(jobs)
    if dead != dead_expected:
        wrong.append(f"{dead} dead letters, in place of {dead_expected}")
    for name in ("job", "wait", "step"):
        if left := await watcher.fetchval(f"select count(*) from slayq.{name}"):
            wrong.append(f"{left} rows are left in slayq.{name}")
    return {
        "sent": dict(producer.sent),
        "unsure": producer.unsure,
        "ticks": ticks,
        "dead_letters": dead,
        "wrong": wrong,
    }


def _dead(jobs: int) -> int:
    from bench.soak.work import kind

    return sum(kind(number) == "dies" for number in range(jobs))


def unused_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def tell(report: dict[str, Any], folder: Path) -> int:
    """Prints it, writes it down; the exit code."""
    samples = report["samples"]
    found = levels(samples)
    growing = [each.name for each in found if not each.level]
    print(table(found))
    total = samples[-1]["at"]
    print(f"\n{report['sent']['jobs']} jobs and {report['sent']['orders']} orders in {total / 60:.1f} minutes,")
    print(f"{report['ticks']} ticks of the schedule, {report['dead_letters']} dead letters as planned;")
    if report["unsure"]:
        print(f"of {len(report['unsure'])} jobs the answer to their sending was lost: the machine was too busy")
    print(f"drained after {report['drained_after']} s; {len(report['log'])} warnings in the daemon's log but for these")
    for each in report["log"][:10]:
        print(f"  {each[:300]}")
    print("nothing was lost, nothing came twice" if not report["wrong"] else "\n".join(["WRONG:", *report["wrong"]]))
    print("all figures level off" if not growing else f"{len(growing)} figures grow: {', '.join(growing)}")
    (folder / "soak.svg").write_text(svg(samples))
    kept = {name: value for name, value in report.items() if name != "samples"}
    (folder / "report.json").write_text(json.dumps({**kept, "growing": growing}, indent=2) + "\n")
    print(f"samples, report and picture in {folder}")
    return int(bool(growing or report["wrong"] or report["drained_after"] is None))


def main() -> int:
    """Runs; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=500.0, help="jobs sent in a second")
    parser.add_argument("--orders", type=float, default=10.0, help="orders sent in a second: three runs each")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "results" / "soak")
    args = parser.parse_args()
    return tell(asyncio.run(soak(args)), args.folder)


if __name__ == "__main__":
    sys.exit(main())
