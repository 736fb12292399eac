"""How soon deliveries are back at their normal rate after a restart of Postgres, by the arrivals alone.

    python -m tests.chaos.recovery --restarts 20 --daemons 2

Each daemon has more to deliver than it can: 10 at once, each of which takes a while, so that its normal rate is steady.
Postgres is stopped in turn at once (a crash) and fast (an orderly end), and stays away for a moment, or for longer than
a lease. From when it takes connections again, two times are taken: until the first second in which as much arrives as
before, by nine tenths; and until a job that is added to another, empty queue arrives at once, which takes LISTEN.

Exit code 1 if either took longer than it may, if a daemon has ended, or if a job was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from bisect import bisect_left
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import asyncpg

from tests.chaos.records import Log, read
from tests.chaos.world import MAIL, Setting, World

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIMIT = 5.0
SHARE = 0.9
AT_ONCE = 0.25
"""Seconds in which a job arrives that a word has told of."""
WARM = 6.0
"""Seconds before each stop, of which the last ones are the normal rate."""
MEASURED = 5
AFTER = 8.0
BACKLOG = 600
FRESH_EVERY = 0.2
TAKES = 0.1
AWAY = (0.0, 1.0, 3.0, 8.0, 20.0)
"""Seconds, in turn; the last is longer than a lease."""
LEASE = 15.0
DRAINS_WITHIN = 60.0


@dataclass(frozen=True)
class Restart:
    """One, as it was carried out. Times by the monotonic clock."""

    number: int
    mode: str
    stopped: float
    up: float
    """When Postgres took connections again."""


def normal(arrivals: Sequence[float], stopped: float) -> float:
    """Deliveries in a second before it was stopped: the median of some seconds."""
    return median(
        bisect_left(arrivals, stopped - second) - bisect_left(arrivals, stopped - second - 1)
        for second in range(MEASURED)
    )


def back_after(arrivals: Sequence[float], restart: Restart) -> float | None:
    """Seconds from Postgres being back to the first second in which nine tenths of the normal rate arrive; or None."""
    enough = SHARE * normal(arrivals, restart.stopped)
    for place in range(bisect_left(arrivals, restart.up), len(arrivals)):
        begin = arrivals[place]
        if begin > restart.up + AFTER:
            break
        if bisect_left(arrivals, begin + 1) - place >= enough:
            return begin - restart.up
    return None


def heard_after(sent: Mapping[str, float], arrived: Mapping[str, float], restart: Restart) -> float | None:
    """Seconds from Postgres being back until each job that is added to an empty queue arrives at once; or None."""
    since: float | None = None
    for name, at in sorted(sent.items(), key=lambda each: each[1]):
        if not restart.up <= at <= restart.up + AFTER:
            continue
        if arrived.get(name, float("inf")) - at > AT_ONCE:
            since = None
        elif since is None:
            since = at
    return None if since is None else since - restart.up


class Feeder:
    """Sees to it that there always is more to deliver; adds what is to arrive at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.sent: dict[str, float] = {}
        self.fresh: dict[str, float] = {}
        self.over = asyncio.Event()

    async def run(self) -> None:
        """Until it is over; a database that is away is nothing to it."""
        while not self.over.is_set():
            try:
                async with self._world.connection() as connection:
                    await self._feed(connection)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                await asyncio.sleep(0.05)

    async def _feed(self, connection: asyncpg.Connection) -> None:
        turn = 0
        while not self.over.is_set():
            if turn % 5 == 0 and await connection.fetchval(_READY) < BACKLOG:
                names = [f"b{len(self.sent) + number}" for number in range(BACKLOG)]
                await self._add(connection, "mail", names, [f"slow:{TAKES}"])
                self.sent.update(dict.fromkeys(names, time.monotonic()))
            name, at = f"f{len(self.fresh)}", time.monotonic()
            await self._add(connection, "lanes", [name], [])
            self.fresh[name] = at
            turn += 1
            await asyncio.sleep(FRESH_EVERY)

    async def _add(self, connection: asyncpg.Connection, queue: str, names: Sequence[str], plan: list[str]) -> None:
        url = self._world.endpoint_url
        payloads = [
            json.dumps({"url": url, "event": "chaos/job", "data": {"id": name, "plan": plan}}) for name in names
        ]
        await connection.execute(_ADD, queue, payloads)


async def measure(restarts: int, daemons: int, folder: Path) -> bool:
    """Restarts Postgres so often, and prints how long each took; whether all were soon enough."""
    log = Log(folder / "restarts.jsonl")
    done: list[Restart] = []
    async with World(folder, Setting(daemons, LEASE, timeout=10.0, missed_minutes=0, log_level="warning")) as world:
        feeder = Feeder(world)
        async with asyncio.TaskGroup() as group:
            group.create_task(feeder.run())
            for number, away in enumerate(islice(cycle(AWAY), restarts)):
                await asyncio.sleep(WARM)
                mode = ("immediate", "fast")[number % 2]
                stopped = time.monotonic()
                await asyncio.to_thread(world.cluster.stop, mode)
                await asyncio.sleep(away)
                await asyncio.to_thread(world.cluster.start)
                done.append(Restart(number, mode, stopped, time.monotonic()))
                log("restart", number=number, mode=mode, away=away, stopped=stopped, up=done[-1].up)
                await asyncio.sleep(AFTER + 1)
            feeder.over.set()
        drained = await world.drained(DRAINS_WITHIN)
        ended = [daemon.number for daemon in world.daemons if daemon.program is None or daemon.program.code is not None]
        arrived: dict[str, float] = {}
        arrivals = []
        for record in read(folder / "endpoint.jsonl"):
            if record["what"] == "recv_start" and record["id"] is not None:
                arrived.setdefault(record["id"], record["at"])
                if record["id"].startswith("b"):
                    arrivals.append(record["at"])
    lost = [name for name in (*feeder.sent, *feeder.fresh) if name not in arrived]
    good = _tell(done, sorted(arrivals), feeder.fresh, arrived)
    print(f"{len(feeder.sent) + len(feeder.fresh)} jobs, {len(lost)} lost; drained after {drained} s")
    print(f"daemons that have ended: {ended or 'none'}; logs in {folder}")
    return good and not lost and not ended and drained is not None


def _tell(
    done: Sequence[Restart], arrivals: Sequence[float], fresh: Mapping[str, float], arrived: Mapping[str, float]
) -> bool:
    print("    how        away    normal rate    back after    heard after")
    worst: list[list[float]] = [[], []]
    for restart in done:
        times = back_after(arrivals, restart), heard_after(fresh, arrived, restart)
        for found, seconds in zip(worst, times, strict=True):
            found.append(float("inf") if seconds is None else seconds)
        shown = "".join("      not within 8 s" if seconds is None else f"{seconds:12.2f} s" for seconds in times)
        rate = normal(arrivals, restart.stopped)
        print(f"{restart.number + 1:3} {restart.mode:9} {restart.up - restart.stopped:5.1f} s {rate:10.0f} /s {shown}")
    for name, found in zip(("deliveries at their normal rate", "new jobs heard of at once"), worst, strict=True):
        print(f"{name}: {median(found):.2f} s (the median), {max(found):.2f} s at most")
    return max(map(max, worst)) <= LIMIT


_READY = f"select count(*) from (select from slayq.job where state = 'ready' and queue = 'mail' limit {BACKLOG}) as few"
_ADD = """
select count(*) from slayq.add_jobs(array(
    select row($1, payload::json, null, null, null, null, null, null)::slayq.job_spec from unnest($2::text[]) as payload
))
"""


def main() -> int:
    """Runs; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=__doc__.split("\n")[0])
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--daemons", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the logs")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="slayq-recovery-"))
    print(f"{args.restarts} restarts, {args.daemons} daemons with {MAIL} deliveries at once each", flush=True)
    return int(not asyncio.run(measure(args.restarts, args.daemons, folder)))


if __name__ == "__main__":
    sys.exit(main())
