"""`make bench`: what a delivery costs on this machine, beside what it costs Graphile Worker.

    python -m bench [--jobs 10000] [--rounds 3] [--concurrency 10] [--idle-seconds 30] [--only backlog] [--no-rival]

Prints a table, and writes bench/results/latest.json. Absolute figures drift with the machine; the ratios are of medians
of rounds that were taken in turn, in this one run. The rival is measured in two ways: see `rival`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from bench.backlog import backlog
from bench.rig import Endpoint, add_jobs, cost, daemon, fresh_database, postgres
from bench.rival import WAYS, Rival
from bench.runs import runs

if TYPE_CHECKING:
    from slayq_server.dev.cluster import Cluster

COMPARED = {
    "deliveries_per_second": "",
    "daemon_cpu_seconds_per_1000": "cpu_",
    "postgres_cpu_seconds_per_1000": "postgres_",
    "p50_ms": "p50_",
    "p99_ms": "p99_",
}
"""The figures of which ratios are taken, and what tells them apart in the ratios' names."""
RIVALLED = {"drain", "latency"}
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
    return spread(sorted(max(0.0, arrivals[str(number)] - at) * 1000 for number, at in committed.items()))


def spread(waits: list[float]) -> dict[str, float]:
    """What is told of sorted times."""
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


async def drains(
    cluster: Cluster, endpoint: Endpoint, rival: Rival | None, concurrency: int, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Ours and the rival's ways in turn."""
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        rounds.setdefault("", []).append(await drain(cluster, endpoint, concurrency, args.jobs))
        for way in WAYS if rival is not None else ():
            assert rival is not None
            figures = await rival.drain(cluster, endpoint, way, concurrency, args.jobs)
            rounds.setdefault(f"_{way}", []).append(figures)
    for way, each in rounds.items():
        show(f"Drain of {args.jobs} no-op jobs, concurrency {concurrency}{_whose(way)}", each)
    return {f"drain_c{concurrency}{way}": median(each) for way, each in rounds.items()}


async def latencies(
    cluster: Cluster, endpoint: Endpoint, rival: Rival | None, rate: float, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Ours and the best of the rival in turn."""
    seconds = args.latency_seconds
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        rounds.setdefault("", []).append(await latency(cluster, endpoint, 10, rate, seconds))
        if rival is not None:
            waits = await rival.latency(cluster, endpoint, "undici", 10, rate, seconds)
            rounds.setdefault("_undici", []).append(spread(waits))
    for way, each in rounds.items():
        show(f"Latency from commit to arrival at {rate} jobs a second{_whose(way)}", each)
    return {f"latency_{rate}{way}": median(each) for way, each in rounds.items()}


def _whose(way: str) -> str:
    return f": Graphile Worker with {way[1:]}" if way else ""


def ratios(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ours to the rival's; more is better for rates, less for costs and times."""
    found = {}
    for name, theirs in figures.items():
        case, _, way = name.rpartition("_")
        if way not in WAYS or case not in figures:
            continue
        for figure in ("deliveries_per_second", "daemon_cpu_seconds_per_1000", "p50_ms", "p99_ms"):
            if theirs.get(figure):
                label = {"deliveries_per_second": "", "daemon_cpu_seconds_per_1000": "cpu_"}.get(
                    figure, f"{figure[:3]}_"
                )
                found[f"{case}_{label}vs_{way}"] = figures[case][figure] / theirs[figure]
    return found


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
    parser.add_argument("--no-rival", dest="rival", action="store_false", help="leave Graphile Worker out")
    args = parser.parse_args()
    endpoint = Endpoint()
    figures: dict[str, dict[str, float]] = {}
    try:
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(postgres())
            rival = stack.enter_context(Rival.installed()) if args.rival and RIVALLED & set(args.only) else None
            for concurrency in args.concurrency if "drain" in args.only else []:
                figures |= await drains(cluster, endpoint, rival, concurrency, args)
            for rate in (20, 200) if "latency" in args.only else []:
                figures |= await latencies(cluster, endpoint, rival, rate, args)
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
    compared = ratios(figures)
    if compared:
        print("\nRatios, ours to the rival's")
        for name, value in compared.items():
            print(f"  {name:34} {value:10.3g}")
    RESULTS.write_text(json.dumps({"ratios": compared, "figures": figures}, indent=2) + "\n")
    print(f"\nWritten to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    asyncio.run(main())
