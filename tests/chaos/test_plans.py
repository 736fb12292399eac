"""Plans: what each attempt is answered with, and whether the job must die of it."""

from __future__ import annotations

import random

import pytest

from tests.chaos.plans import Deed, chosen, deed, must_die, regretful


def test_deeds() -> None:
    """By the number of the attempt; 200 after the end."""
    plan = ["500", "slow:1.5", "429:2"]
    assert [Deed("500"), Deed("slow", 1.5), Deed("429", 2), Deed("ok")] == [
        deed(plan, number) for number in range(1, 5)
    ]


KNOWN = {
    "ok", "slow", "regret", "drip", "endless", "500", "429", "503", "301", "666", "404", "reset", "half", "hang",
    "mute", "trickle", "tls",
}  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "attempts", "dies"),
    [
        ([], 1, False),
        (regretful("ok", 1), 25, False),
        (["666"], 25, True),
        (["500", "404"], 25, True),
        (["500"] * 3, 3, True),
        (["500"] * 2, 3, False),
        (["hang", "drip:1"], 2, False),
        (["mute", "endless"], 2, False),
        (["tls", "tls"], 2, True),
    ],
)
def test_who_must_die(plan: list[str], attempts: int, dies: bool) -> None:
    """Jobs whose every attempt fails, or that are told not to try again."""
    assert dies == must_die(plan, attempts)


def test_chosen_plans_are_known() -> None:
    """Each of them can be carried out; most jobs live."""
    plans = [chosen(random.Random(seed)) for seed in range(500)]
    names = {deed(plan, number).name for plan, _ in plans for number in range(1, len(plan) + 1)}
    assert names <= KNOWN
    assert 0.02 < sum(must_die(*plan) for plan in plans) / 500 < 0.2
