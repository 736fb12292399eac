"""How soon things are back to normal, from the arrivals alone."""

from __future__ import annotations

import pytest

from tests.chaos.recovery import AFTER, Restart, back_after, heard_after, normal

RESTART = Restart(0, "fast", stopped=100.0, up=110.0)


def steady(begin: float, end: float, rate: int) -> list[float]:
    """So many a second."""
    return [begin + number / rate for number in range(int((end - begin) * rate))]


def test_the_normal_rate() -> None:
    """Of the seconds before it was stopped, whatever came earlier."""
    assert 50 == normal([*steady(80, 90, 10), *steady(90, 100, 50)], 100.0)


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (steady(110.5, 125, 50), 0.5),
        ([*steady(110.5, 113, 20), *steady(113, 125, 50)], 2.9),  # that second has some of the slow ones
        (steady(110.5, 125, 40), None),
        (steady(110 + AFTER + 0.5, 125, 50), None),
        ([], None),
    ],
)
def test_back_at_the_normal_rate(after: list[float], seconds: float | None) -> None:
    """The first second in which nine tenths arrive; None where there is none soon enough."""
    found = back_after([*steady(90, 100, 50), *after], RESTART)
    assert seconds is None if found is None else seconds == pytest.approx(found, abs=0.06)


def test_new_jobs_are_heard_of() -> None:
    """From the first one on after which each arrives at once."""
    sent = {f"f{number}": 110.0 + number / 5 for number in range(40)}
    slow = {name: at + (3.0 if at < 112 else 0.01) for name, at in sent.items()}
    assert 2.0 == pytest.approx(heard_after(sent, slow, RESTART))
    assert 0.0 == heard_after(sent, {name: at + 0.01 for name, at in sent.items()}, RESTART)
    assert heard_after(sent, {**slow, "f39": 130.0}, RESTART) is None
    assert heard_after(sent, {}, RESTART) is None
