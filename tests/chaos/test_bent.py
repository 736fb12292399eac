"""What is bent from outside: the wall clock, the event loop, and the room that Postgres has."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.bent import Control
from tests.support.process import ROOT, Program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

CLOCK = """
import os, pathlib, time
from slayq_server.clock import SystemClock
from tests.chaos.bent import Control, bend
control = Control(pathlib.Path(os.environ["CHAOS_CONTROL"]))
bend(control)
before = SystemClock().monotonic()
for offset in (0, 3600, -3600):
    control.write(offset=offset)
    print(round(SystemClock().wall() - time.clock_gettime(time.CLOCK_REALTIME)))
print(SystemClock().monotonic() - before < 60)
"""
LOOP = """
import asyncio, os, pathlib, time
from slayq_server.loop import run_fast
from tests.chaos.bent import Control, bend
bend(Control(pathlib.Path(os.environ["CHAOS_CONTROL"])))
async def main():
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        print(time.monotonic() - began)
run_fast(main())
"""
DISK = """
import asyncio, errno, json, os, pathlib
from tests.chaos import disk
told = {"private": disk.private()}
if told["private"]:
    with disk.cluster_on_a_small_disk({}) as cluster:
        place = cluster.data_dir.parent
        told["mounted"] = os.path.ismount(place)
        ballast = disk.Ballast(cluster.data_dir)
        ballast.fill()
        try:
            (place / "more").write_bytes(b"x")
        except OSError as error:
            told["refused"] = error.errno == errno.ENOSPC
        ballast.drop()
        (place / "more").write_bytes(b"x")
    told["gone"] = not place.exists()
print(json.dumps(told))
"""


def test_a_wall_clock_that_is_set(tmp_path: Path) -> None:
    """It jumps either way, in the running process; what measures durations does not."""
    env = {"CHAOS_CONTROL": str(tmp_path / "control.json"), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", CLOCK], env=env, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert ["0", "3600", "-3600", "True"] == told.split()


async def test_an_event_loop_that_stands_still(tmp_path: Path) -> None:
    """For as long as the file says, each time that the signal comes."""
    control = Control(tmp_path / "control.json")
    control.write(stall=0.7)
    env = {"CHAOS_CONTROL": str(control.path)}
    with Program(tmp_path, "-c", LOOP, command=(sys.executable,), env=env) as program:

        def stalls() -> int:
            return sum(float(line) >= 0.7 for line in program.stdout.split()[:-1])

        await program.wait_for_output("0.")
        before = stalls()
        program.send_signal(signal.SIGUSR2)
        await wait_until(lambda: stalls() > before)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Its last byte is taken, and given back; nothing of it is left, and nobody else has seen it."""
    ran = subprocess.run(
        [sys.executable, "-c", DISK], env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    if not told["private"]:
        pytest.skip("it needs the right to mount")
    assert {"private": True, "mounted": True, "refused": True, "gone": True} == told
