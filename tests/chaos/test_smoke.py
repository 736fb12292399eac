"""A minute and a half with one of each kind of fault: nothing is lost, nothing happens twice without a cause.

`make chaos ARGS="--minutes 30 --daemons 3"` goes on for as long as you like; see tests/chaos/__main__.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.pgbouncer import installed
from tests.support.process import Program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(420)]
CHAOS = (sys.executable, "-m", "tests.chaos")
TIME_LIMIT = 400.0


async def ran(folder: Path, *arguments: str) -> Program:
    """A run that has ended."""
    with Program(folder, *arguments, "--folder", str(folder / "logs"), command=CHAOS) as program:
        await program.wait(TIME_LIMIT)
        return program


@pytest.mark.parametrize("way", ["direct", "pgbouncer"])
async def test_one_of_each_kind_of_fault(tmp_path: Path, way: str) -> None:
    """Every invariant holds: see the reliability requirement, and the checker for each of them."""
    more: tuple[str, ...] = ()
    if way == "pgbouncer":
        installed()  # skips without it
        more = ("--pgbouncer",)
    once = ("--seed", "1", "--minutes", "0", "--each-once", "--gap", "0.3", "--lease", "4", "--rate", "12")
    program = await ran(tmp_path, *once, *more)
    assert 0 == program.code, program.report()


COMMON = ("--seed", "5", "--runs", "0")
# Each at a rate that its slots keep up with: what waits for long after the faults would be found, too.
PLANTED = {
    "stale_settle": (
        "I9", "--faults=pg_hold", "--minutes=0.4", "--plan=slow:1,regret:3.5", "--queues=mail", "--rate=8"
    ),
    "counted_limit": (
        "I5", "--faults=", "--minutes=0.3", "--plan=slow:0.4", "--queues=tight", "--daemons=3", "--rate=6"
    ),
    "unlocked_cron": ("I7", "--faults=", "--minutes=0.2", "--rate=8"),
    "no_deadline": (
        "I4", "--faults=pg_silence", "--minutes=0.4", "--plan=slow:6", "--queues=mail", "--timeout=20", "--rate=2.5"
    ),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED)
async def test_a_planted_bug_is_found(tmp_path: Path, plant: str) -> None:
    """The checker sees what it must see: a bug put into the daemon breaks the invariant that it is about."""
    invariant, *arguments = PLANTED[plant]
    program = await ran(tmp_path, *COMMON, "--plant", plant, *arguments)
    assert 1 == program.code, program.report()
    assert f"\n{invariant}: " in program.stdout, program.report()
    assert "the suite itself is broken" not in program.stdout, program.report()


@pytest.mark.parametrize("plant", PLANTED)
async def test_nothing_is_found_where_none_is_planted(tmp_path: Path, plant: str) -> None:
    """The control: the same run, with the same faults, of the daemon as it is."""
    _, *arguments = PLANTED[plant]
    if "--faults=" in arguments:  # then nothing but a slow machine would end a lease
        arguments.append("--lease=10")
    program = await ran(tmp_path, *COMMON, *arguments)
    assert 0 == program.code, program.report()
    assert "all invariants held" in program.stdout, program.report()
