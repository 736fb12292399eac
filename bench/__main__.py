"""`make bench`: what a delivery costs on this machine, beside what it costs Graphile Worker.

    python -m bench [--scale quick] [--only drain latency] [--no-rival] [--output FILE]

Prints each case, and writes bench/results/latest.json. Absolute figures drift with the machine; the ratios are of
medians of rounds that were taken in turn, in this one run. `make bench-full` also writes what docs/performance.md is
made of; `python -m bench --render` makes the page and its pictures of that file again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop

from bench import adds, backlog, bloat, ceiling, daemons, drain, idle, latency, runs, spread
from bench.context import RIVALS, Case, Context
from bench.page import PAGE, filled
from bench.plots import FOLDER, drawn
from bench.results import Results
from bench.rig import Endpoint, postgres
from bench.rival import rivals
from bench.scale import SCALES, Scale
from bench.sides import Ours

if TYPE_CHECKING:
    from bench.sides import Side

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        ceiling.CASE,
        drain.CASE,
        latency.CASE,
        idle.CASE,
        backlog.CASE,
        spread.CASE,
        daemons.CASE,
        runs.CASE,
        adds.CASE,
        bloat.CASE,
    )
}
RESULTS = Path(__file__).parent / "results"
LATEST = RESULTS / "latest.json"
FULL = RESULTS / "full.json"
"""Of the last full run: what the page and its pictures are made of."""


def names(cases: dict[str, Case], scale: Scale, *, rival: bool = True) -> tuple[list[str], list[str]]:
    """The ratios and the figures that these cases have."""

    def kept(name: str) -> bool:
        if not rival and any(f"_{way}" in name for way in RIVALS):
            return False
        return bool(scale.long_drain_jobs) or not name.startswith("drain_100k")

    return (
        [name for case in cases.values() for name in case.ratios if kept(name)],
        [name for case in cases.values() for name in case.figures if kept(name)],
    )


async def measure(chosen: dict[str, Case], scale: Scale, *, with_rival: bool) -> Results:
    """Runs the cases one after the other."""
    sides: list[Side] = [Ours(), *(rivals() if with_rival else [])]
    endpoint = Endpoint()
    try:
        with postgres() as cluster:
            connection = await asyncpg.connect(cluster.url())
            version = await connection.fetchval("show server_version")
            await connection.close()
            here = {**machine(sides), "postgres": version.split()[0]}
            results = Results(scale.name, here)
            context = Context(cluster, endpoint, {side.name: side for side in sides}, scale, results)
            for name, case in chosen.items():
                print(f"\n== {name}", flush=True)
                begun = time.monotonic()
                try:
                    await case.run(context)
                except Exception:  # the others have taken long, too: what is missing is told at the end
                    traceback.print_exc()
                results.seconds[name] = round(time.monotonic() - begun, 1)
                print(f"  ({name}: {results.seconds[name]:.0f} s)", flush=True)
            results.machine["load_after"] = round(os.getloadavg()[0], 1)
    finally:
        endpoint.close()
    return results


def machine(sides: list[Side]) -> dict[str, Any]:
    """What it is measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "node": node_version(sides),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def node_version(sides: list[Side]) -> str:
    """Of the Node that runs the rival; a dash without one."""
    paths = [side.node for side in sides if hasattr(side, "node")]
    if not paths:
        return "–"
    return (
        subprocess.run([paths[0], "--version"], capture_output=True, text=True, check=True).stdout.strip().lstrip("v")
    )


def render() -> None:
    """Makes the page's tables and pictures of the last full run."""
    measured = json.loads(FULL.read_text())
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")
    FOLDER.mkdir(exist_ok=True)
    for name, picture in drawn(measured).items():
        (FOLDER / name).write_text(picture, encoding="utf-8")
    print(f"Made {PAGE.name} and {FOLDER.name}/*.svg of {FULL.name}")


def main() -> None:
    """Runs the cases, and writes down what came out."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a delivery costs on this machine.")
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--only", choices=CASES, nargs="+", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--no-rival", dest="rival", action="store_false", help="leave Graphile Worker out")
    parser.add_argument("--output", type=Path, default=LATEST, metavar="FILE")
    parser.add_argument("--render", action="store_true", help="only make the page of the last full run again")
    args = parser.parse_args()
    if args.render:
        render()
        return
    scale = SCALES[args.scale]
    chosen = {name: case for name, case in CASES.items() if args.only is None or name in args.only}
    results = uvloop.run(measure(chosen, scale, with_rival=args.rival))
    results.show_ratios()
    results.write(args.output)
    print(f"\nWritten to {args.output}, in {sum(results.seconds.values()) / 60:.1f} minutes")
    missing = results.missing(*names(chosen, scale, rival=args.rival))
    if missing:
        raise SystemExit(f"not measured: {', '.join(missing)}")
    if scale.name == "full" and args.rival:
        keep(results)


def keep(results: Results) -> None:
    """Makes the page of a full run. One of some cases alone leaves the others as the last full run had them."""
    earlier = json.loads(FULL.read_text()) if FULL.exists() else {}
    if earlier.get("scale") == results.scale:
        results.complete_with(earlier)
    missing = results.missing(*names(CASES, SCALES[results.scale]))
    if missing:
        raise SystemExit(f"the page stays as it is: it needs all cases, and has no {', '.join(missing)}")
    results.write(FULL)
    render()


if __name__ == "__main__":
    main()
