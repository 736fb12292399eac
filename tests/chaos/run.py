"""One run: a world, load, faults, calm, an end; then its logs are judged."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from tests.chaos import world as worlds
from tests.chaos.checker import History, Violation, check, load
from tests.chaos.nemesis import STOPS_WITHIN, Nemesis
from tests.chaos.producer import Producer
from tests.chaos.records import Log
from tests.chaos.schedule import schedule
from tests.chaos.world import SECRET, Setting, World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CALM = 6.0
"""Seconds after the last fault from which on everything must be as usual."""
TAIL = 10.0
"""Seconds for which load goes on after the last fault."""
DRAINS_WITHIN = 150.0


@dataclass(frozen=True)
class Order:
    """What to run."""

    seed: int
    seconds: float
    kinds: Sequence[str] = ()
    """Of faults; none: a run in which nothing may be delivered twice."""
    rate: float = 20.0
    """Jobs and runs sent in a second."""
    runs_share: float = 0.1
    each_once: bool = False
    gap: tuple[float, float] = (1.0, 4.0)
    plan: list[str] | None = None
    """Of every job, in place of one chosen for each; the empty one has all answered with 200."""
    count: int | None = None
    """How many are sent, however long that takes; None: as many as there is time for."""
    queues: tuple[str, ...] = ("mail", "tight", "lanes")
    setting: Setting = field(default_factory=Setting)


@dataclass(frozen=True)
class Report:
    """What came of it."""

    history: History
    violations: list[Violation]
    figures: dict[str, Any]


async def run(order: Order, folder: Path) -> Report:
    """Runs it, and judges it by what it has logged into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = order.setting
    log = Log(folder / "final.jsonl")
    log(
        "setting",
        seed=order.seed,
        lease=setting.lease,
        limits={"mail": worlds.MAIL * setting.daemons, "tight": worlds.TIGHT, "lanes": worlds.LANES * setting.daemons},
        order={**asdict(order), "setting": asdict(setting)},
    )
    faults = schedule(
        order.seed,
        order.seconds,
        order.kinds,
        daemons=setting.daemons,
        lease=setting.lease,
        gap=order.gap,
        each_once=order.each_once,
    )
    async with World(folder, setting) as world:
        final = await _live(order, world, faults, folder)
        log("final", **final)
    history = await asyncio.to_thread(load, folder)
    violations = await asyncio.to_thread(check, history)
    return Report(history, violations, figures(history))


async def _live(order: Order, world: World, faults: Sequence[Any], folder: Path) -> dict[str, Any]:
    producer = Producer(
        Log(folder / "producer.jsonl"),
        seed=order.seed,
        database_url=worlds.through(world.database_url, world.producer_wire.port),
        rpc_urls=[world.rpc_url(daemon) for daemon in world.daemons],
        endpoint_url=world.endpoint_url,
        tls_urls=world.tls_urls,
        secret=SECRET,
        runs_share=order.runs_share,
        plan=order.plan,
        queues=order.queues,
    )
    nemesis = Nemesis(world)
    began = time.monotonic()
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(producer.run(order.rate, over.is_set, order.count))
        await nemesis.run(faults, began)
        broken_until = time.monotonic()
        tail = TAIL if faults else 0.0
        if order.count is None:
            await asyncio.sleep(max(tail, began + order.seconds - time.monotonic()))
            over.set()
        else:
            await sending
    drained = await world.drained(DRAINS_WITHIN)
    final = {
        "calm_from": broken_until + CALM if faults else None,
        "drained_after": drained,
        "began": began,
        "faults": nemesis.done,
        **await _found(world, folder),
    }
    final["unhealthy"] = await _health(world)
    await _stop(world)
    final["warnings"] = _warnings(folder)
    return final


async def _found(world: World, folder: Path) -> dict[str, Any]:
    """What the database says at the end, and the audit as a log of its own."""
    async with world.connection() as connection:
        # Taken at once: from here to the wall clock of what follows, no tick may come in between.
        row = await connection.fetchrow("select extract(epoch from clock_timestamp())::float8 as now")
        ahead = row["now"] - time.monotonic()
        ticks = await connection.fetchval(
            "select extract(epoch from min(last_at))::float8 from slayq.schedule where id like 'minute-%'"
        )
        left = await connection.fetch("select id, queue, state, event, attempts, run_at::text from slayq.job limit 50")
        dead = await connection.fetch(
            "select payload -> 'data' ->> 'id' as id, run_id::text, event from slayq.dead_letter"
        )
        workers = await connection.fetch("select id, name from chaos.worker")
        audit = Log(folder / "audit.jsonl")
        async with connection.transaction():
            async for change in connection.cursor(_AUDIT, prefetch=2000):
                values = dict(change)
                audit("change", **{**values, "at": values["at"] - ahead})
    since = next((record["since"] for record in worlds_log(folder) if record["what"] == "ticks_since"), None)
    return {
        "left": [dict(job) for job in left if not job["event"].startswith(("chaos/minute", "chaos/tick"))],
        "dead": [row["id"] for row in dead if row["run_id"] is None],
        "dead_runs": [row["run_id"] for row in dead if row["run_id"] is not None],
        "workers": {str(row["id"]): row["name"] for row in workers},
        "ticks_since": since,
        "ticks_until": ticks,
    }


def worlds_log(folder: Path) -> list[dict[str, Any]]:
    """The fault runner's log."""
    from tests.chaos.records import read

    return read(folder / "faults.jsonl")


async def _health(world: World) -> list[str]:
    """What a daemon still holds on to, once there is nothing to do."""
    wrong = []
    async with world.connection() as connection:
        for row in await connection.fetch(_IDLE_IN_TRANSACTION):
            wrong.append(f"a connection has been idle in a transaction for {row['seconds']:.0f} s: {row['name']}")
        held = await connection.fetchval("select count(*) from slayq.slot where worker_id is not null")
        if held > worlds.TIGHT:
            wrong.append(f"{held} slots are taken")
        waits = await connection.fetchval("select count(*) from slayq.wait")
        steps = await connection.fetchval("select count(*) from slayq.step")
        if waits or steps:
            wrong.append(f"{waits} waits and {steps} steps are left of jobs and runs that are gone")
    for daemon in world.daemons:
        if daemon.program is None or daemon.program.code is not None:
            wrong.append(f"daemon {daemon.number} has ended by itself: {daemon.program and daemon.program.code}")
            continue
        files = psutil.Process(daemon.program.pid).num_fds()
        world.faults("hygiene", daemon=daemon.number, files=files, memory=_memory(daemon.program.pid))
        if files > 150:
            wrong.append(f"daemon {daemon.number} has {files} files open")
    return wrong


def _memory(pid: int) -> int:
    process = psutil.Process(pid)
    children = process.children(recursive=True)
    return int(sum(each.memory_info().rss for each in [process, *children]))


async def _stop(world: World) -> None:
    """SIGTERM for all; each must end in good order."""
    for daemon in world.daemons:
        if daemon.program is None or daemon.program.code is not None:
            continue
        began = time.monotonic()
        daemon.program.terminate()
        try:
            code: int | None = await daemon.program.wait(STOPS_WITHIN)
        except AssertionError:
            code = None
        world.faults(
            "term_end",
            daemon=daemon.number,
            name=worlds.name_of(daemon),
            code=code,
            held=0,
            seconds=time.monotonic() - began,
        )


def _warnings(folder: Path) -> int:
    """How many warnings and errors the daemons have logged, but for those that a job's plan asks for."""
    number = 0
    for path in folder.glob("daemon-*/start-*/std*"):
        for line in path.read_text(errors="replace").splitlines():
            loud = '"level":"warning"' in line or '"level":"error"' in line
            number += loud and '"event":"job_dead"' not in line
    return number


def figures(history: History) -> dict[str, Any]:
    """A run in numbers."""
    jobs = [job for job in history.jobs.values() if "event" not in job.facts]
    sends = [job for job in history.jobs.values() if "event" in job.facts]
    kinds: dict[str, int] = {}
    for window in history.windows:
        kinds[window.kind] = kinds.get(window.kind, 0) + 1
    again = sorted(record["seconds"] for record in history.faults if record["what"] == "ready_again")
    return {
        "seed": history.setting.get("seed"),
        "jobs": len(jobs),
        "jobs_ok": sum(job.state == "ok" for job in jobs),
        "jobs_unknown": sum(job.state == "unknown" for job in jobs),
        "jobs_refused": sum(job.state == "fail" for job in jobs),
        "deliveries": sum(len(job.deliveries) for job in jobs),
        "deliveries_of_ticks": sum(each.id is None for each in history.deliveries),
        "duplicates": sum(max(0, sum(each.good for each in job.deliveries) - len(job.invoked)) for job in jobs),
        "dead": len(history.final.get("dead", ())),
        "sends_of_runs": len(sends),
        "runs": len({record["run"] for record in history.app if record["what"] == "finished"}),
        "segments": sum(record["what"] == "request" for record in history.app),
        "steps": sum(record["what"] == "body" for record in history.app),
        "faults": kinds,
        "drained_after": history.final.get("drained_after"),
        "ready_after_restart": {"median": again[len(again) // 2], "most": again[-1]} if again else None,
        "warnings": history.final.get("warnings"),
    }


def shown(report: Report) -> str:
    """The figures, a line each."""
    return "\n".join(f"  {name}: {json.dumps(value)}" for name, value in report.figures.items())


_AUDIT = """
select extract(epoch from at)::float8 as at, transaction::text, job, run::text, event,
    extract(epoch from tick)::float8 as tick, was, became, lease_was, lease, worker_was, worker, attempts, max_attempts
from chaos.audit order by id
"""
_IDLE_IN_TRANSACTION = """
select application_name as name, extract(epoch from now() - state_change) as seconds from pg_stat_activity
where state like 'idle in transaction%' and now() - state_change > interval '1 second' and pid <> pg_backend_pid()
"""
