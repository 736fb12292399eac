"""`make bench`: what a delivery costs on this machine.

    python -m bench [--jobs 10000] [--rounds 3] [--concurrency 10] [--idle-seconds 30] [--only backlog]

Prints a table, and writes bench/results/latest.json. Absolute figures drift with the machine; the comparison with a
rival in the same run is not here yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from bench.backlog import backlog
from bench.rig import Endpoint, add_jobs, cost, daemon, fresh_database, postgres
from bench.runs import runs

if TYPE_CHECKING:
    from slayq_server.dev.cluster import Cluster

CASES = ["drain", "latency", "runs", "backlog", "idle"]
RESULTS = Path(__file__).parent / "results" / "latest.json"


def config(endpoint: Endpoint, concurrency: int, queues: int = 1) -> dict[str, Any]:
    """A configuration with one queue that is used, and more that sit idle."""
    names = ["bench", *(f"idle{number}" for number in range(1, queues))]
    return {
        "queues": {name: {"concurrency": concurrency} for name in names},
        "callbacks": {"allow": [f"http://127.0.0.1:{endpoint.port}"]},
    }


async def drain(cluster: Cluster, endpoint: Endpoint, concurrency: int, jobs: int) -> dict[str, float]:
    """`jobs` no-op jobs wait before the daemon starts; from the first arrival to the last."""
    endpoint.ask("reset")
    url = await fresh_database(cluster, "bench_drain")
    await add_jobs(url, endpoint.url, 0, jobs)
    before = cost(cluster, None)
    async with daemon(url, config(endpoint, concurrency)) as running:
        found = await endpoint.wait_for(jobs, timeout=300)
        await _settled(url)
        used = cost(cluster, running) - before
    found = endpoint.ask("count")
    if found["count"] != jobs or found["duplicates"]:
        raise RuntimeError(f"expected {jobs} deliveries, each once: {found}")
    return {
        "deliveries_per_second": (jobs - 1) / (found["last"] - found["first"]),
        "daemon_cpu_seconds_per_1000": used.daemon / jobs * 1000,
        "postgres_cpu_seconds_per_1000": used.postgres / jobs * 1000,
    }


async def _settled(url: str) -> None:
    """Returns when no job is left."""
    connection = await asyncpg.connect(url)
    try:
        deadline = time.monotonic() + 30
        while await connection.fetchval("select exists (select from slayq.job)"):
            if time.monotonic() > deadline:
                raise TimeoutError("the jobs were delivered, but not settled")
            await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def latency(
    cluster: Cluster, endpoint: Endpoint, concurrency: int, rate: float, seconds: float
) -> dict[str, float]:
    """Seconds from the commit of an add to the job's arrival, at a steady rate."""
    endpoint.ask("reset")
    url = await fresh_database(cluster, "bench_latency")
    jobs = int(rate * seconds)
    committed: dict[int, float] = {}
    async with daemon(url, config(endpoint, concurrency)):
        connection = await asyncpg.connect(url)
        try:
            await add_jobs(url, endpoint.url, jobs, 20)  # connections are open, plans are made
            await endpoint.wait_for(20, timeout=30)
            begin = time.monotonic()
            for number in range(jobs):
                await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
                await connection.execute(
                    "select public.add_worker_job('bench', $1)",
                    json.dumps({"url": endpoint.url, "event": "bench/noop", "data": {"n": number}}).replace(": ", ":"),
                )
                committed[number] = time.monotonic()
            await endpoint.wait_for(jobs + 20, timeout=60)
        finally:
            await connection.close()
    arrivals = endpoint.ask("arrivals")["arrivals"]
    waits = sorted(max(0.0, arrivals[str(number)] - at) * 1000 for number, at in committed.items())
    return {
        "p50_ms": statistics.median(waits),
        "p95_ms": waits[int(len(waits) * 0.95)],
        "p99_ms": waits[int(len(waits) * 0.99)],
        "max_ms": waits[-1],
    }


async def idle(cluster: Cluster, endpoint: Endpoint, seconds: float) -> dict[str, float]:
    """What a daemon with six queues does when there is nothing to do."""
    url = await fresh_database(cluster, "bench_idle")
    async with daemon(url, config(endpoint, 10, queues=6)) as running:
        watcher = await asyncpg.connect(cluster.url())
        try:
            await asyncio.sleep(20)  # what a start needs is done, and its connections are closed again
            transactions = "select xact_commit + xact_rollback from pg_stat_database where datname = 'bench_idle'"
            before, used = await watcher.fetchval(transactions), cost(cluster, running)
            await asyncio.sleep(seconds)
            after, used = await watcher.fetchval(transactions), cost(cluster, running) - used
            connections = await watcher.fetchval(
                "select count(*) from pg_stat_activity where datname = 'bench_idle' and backend_type = 'client backend'"
            )
        finally:
            await watcher.close()
        return {
            "transactions_per_minute": (after - before) / seconds * 60,
            "connections": float(connections),
            "rss_mb": running.process.memory_info().rss / 2**20,
            "daemon_cpu_percent": used.daemon / seconds * 100,
        }


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def show(title: str, rounds: list[dict[str, float]]) -> None:
    """Prints medians and spreads."""
    print(f"\n{title}")
    for name, value in median(rounds).items():
        values = [figures[name] for figures in rounds]
        spread = f"   ({min(values):.3g} to {max(values):.3g} in {len(values)} rounds)" if len(values) > 1 else ""
        print(f"  {name.replace('_', ' '):34} {value:10.4g}{spread}")


async def main() -> None:
    """Runs all cases."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a delivery costs on this machine.")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--latency-seconds", type=float, default=10)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--parked", type=int, default=1_000_000)
    parser.add_argument("--idle-seconds", type=float, default=30)
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    args = parser.parse_args()
    endpoint = Endpoint()
    figures: dict[str, dict[str, float]] = {}
    try:
        with postgres() as cluster:
            for concurrency in args.concurrency if "drain" in args.only else []:
                rounds = [await drain(cluster, endpoint, concurrency, args.jobs) for _ in range(args.rounds)]
                show(f"Drain of {args.jobs} no-op jobs, concurrency {concurrency}", rounds)
                figures[f"drain_c{concurrency}"] = median(rounds)
            for rate in (20, 200) if "latency" in args.only else []:
                rounds = [await latency(cluster, endpoint, 10, rate, args.latency_seconds) for _ in range(args.rounds)]
                show(f"Latency from commit to arrival at {rate} jobs a second", rounds)
                figures[f"latency_{rate}"] = median(rounds)
            for steps in (1, 10) if "runs" in args.only else []:
                rounds = [await runs(cluster, args.runs, steps) for _ in range(args.rounds)]
                show(f"{args.runs} runs of {steps} trivial steps each, in one request each", rounds)
                figures[f"runs_{steps}_steps"] = median(rounds)
            if args.parked and "backlog" in args.only:
                rounds = [await backlog(cluster, args.parked)]
                show(f"With {args.parked} parked jobs, as a ratio to none", rounds)
                figures["backlog"] = median(rounds)
            if "idle" in args.only:
                rounds = [await idle(cluster, endpoint, args.idle_seconds)]
                show("Idle, six queues", rounds)
                figures["idle"] = median(rounds)
    finally:
        endpoint.close()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"figures": figures}, indent=2) + "\n")
    print(f"\nWritten to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    asyncio.run(main())
