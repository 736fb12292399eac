"""Counts what arrives by number, in memory that is all there from the start, and compares it with what must arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = 20


class Tally:
    """So many small counters, written to from the start on: its memory is all there before anything is measured."""

    def __init__(self, size: int) -> None:
        self._counts = bytearray(b"\0") * size

    def note(self, number: int) -> int:
        """Counts one more; how many there now are of this number."""
        count = min(255, self._counts[number] + 1)
        self._counts[number] = count
        return count

    def wrong(self, until: int, expected: Callable[[int], int]) -> list[dict[str, int]]:
        """The numbers below `until` that came more or less often than expected, and any above that came at all."""
        found = []
        for number, count in enumerate(self._counts):
            right = expected(number) if number < until else 0
            if count != right:
                found.append({"number": number, "expected": right, "came": count})
        return found


def summary(wrong: list[dict[str, int]]) -> dict[str, object]:
    """How many were lost and how many came too often, and the first few of them."""
    return {
        "lost": sum(each["came"] < each["expected"] for each in wrong),
        "again": sum(each["came"] > each["expected"] for each in wrong),
        "first": wrong[:SHOWN],
    }
