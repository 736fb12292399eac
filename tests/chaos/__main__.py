"""Breaks it on purpose, and tells whether anything was lost.

    python -m tests.chaos --seed 1 --minutes 5 --daemons 3 --faults daemon_kill,pg_restart --pgbouncer
    python -m tests.chaos --check FOLDER      judges the logs of an earlier run again

Exit code 1 if an invariant is broken; the history of its job is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import disk
from tests.chaos.checker import check, explain, load
from tests.chaos.run import Order, Report, figures, run, shown
from tests.chaos.schedule import KINDS, PRIVILEGED
from tests.chaos.world import Setting

MOST_EXPLAINED = 5


def main() -> int:
    """Runs; returns the exit code."""
    given = _arguments()
    if given.check is not None:
        history = load(given.check)
        return _tell(Report(history, check(history), figures(history)), given.check)
    seed = given.seed if given.seed is not None else int(time.time()) % 100_000
    folder = given.folder or Path(tempfile.mkdtemp(prefix="slayq-chaos-"))
    kinds = list(KINDS) if given.faults == "all" else [kind for kind in given.faults.split(",") if kind]
    small_disk = bool(PRIVILEGED.intersection(kinds)) and disk.private()
    if not small_disk and PRIVILEGED.intersection(kinds):
        kinds = [kind for kind in kinds if kind not in PRIVILEGED]
        print(f"without {', '.join(sorted(PRIVILEGED))}: it needs the right to mount a file system")
    order = Order(
        seed=seed,
        seconds=60 * given.minutes,
        kinds=kinds,
        rate=given.rate,
        runs_share=given.runs,
        each_once=given.each_once,
        gap=(given.gap, 3 * given.gap),
        plan=None if given.plan is None else [each for each in given.plan.split(",") if each],
        count=given.count,
        queues=tuple(given.queues.split(",")),
        setting=Setting(given.daemons, given.lease, given.pgbouncer, given.plant, given.timeout, small_disk=small_disk),
    )
    print(f"seed {seed}, {given.minutes:g} minutes, {given.daemons} daemons, faults {', '.join(kinds) or 'none'}")
    print(f"logs in {folder}", flush=True)
    return _tell(asyncio.run(run(order, folder)), folder)


def _tell(report: Report, folder: Path) -> int:
    print(shown(report))
    for violation in report.violations[:MOST_EXPLAINED]:
        print(explain(report.history, violation))
    for violation in report.violations[MOST_EXPLAINED:50]:
        print(violation)
    held = "all invariants held" if not report.violations else f"{len(report.violations)} violations"
    print(f"{held}; logs in {folder}")
    return bool(report.violations)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, help="of all choices; printed, so that a run can be had again")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--daemons", type=int, default=2)
    parser.add_argument("--faults", default="all", help=f"all, or some of {', '.join(KINDS)}; '' for none")
    parser.add_argument("--pgbouncer", action="store_true", help="a pooler in transaction mode in front of Postgres")
    parser.add_argument("--rate", type=float, default=20.0, help="jobs and runs sent in a second")
    parser.add_argument("--runs", type=float, default=0.1, help="which share of them are durable runs")
    parser.add_argument("--count", type=int, help="of jobs and runs to send, however long that takes")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds that a worker row is good for")
    parser.add_argument(
        "--gap", type=float, default=1.0, help="seconds of calm between two faults, up to three times that"
    )
    parser.add_argument("--timeout", type=float, default=4.0, help="seconds that a delivery may take")
    parser.add_argument("--plan", help="of every job: see tests/chaos/plans.py; '': the endpoint answers 200 to all")
    parser.add_argument("--queues", default="mail,tight,lanes", help="that jobs are sent to")
    parser.add_argument("--each-once", action="store_true", help="each fault once, however long that takes")
    parser.add_argument("--plant", help="a bug to plant: see tests/chaos/planted.py")
    parser.add_argument("--folder", type=Path, help="for the logs")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="judge the logs of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
