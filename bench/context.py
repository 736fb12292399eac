"""What every case is given, and what a case is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from bench.results import Results
    from bench.rig import Endpoint
    from bench.scale import Scale
    from bench.sides import Side
    from slayq_server.dev.cluster import Cluster

    Round = Callable[[], Awaitable[dict[str, float]]]

RIVALS = ("fetch", "undici")
"""The rival's ways: as the original does it, and with the best it has."""


@dataclass(frozen=True, slots=True)
class Context:
    """One Postgres, one endpoint, and who is measured."""

    cluster: Cluster
    endpoint: Endpoint
    sides: Mapping[str, Side]
    """By name: ours, and the rival's ways where the rival is there."""
    scale: Scale
    results: Results

    def chosen(self, *names: str) -> list[Side]:
        """Those of the sides that are there."""
        return [self.sides[name] for name in names if name in self.sides]

    async def in_turn(self, rounds: int, cases: Mapping[str, tuple[str, Round]]) -> None:
        """Runs each case once, then each again, and takes the results in. The cases by name, each with its title."""
        found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, (_, case) in cases.items():
                found[name].append(await case())
        for name, (title, _) in cases.items():
            self.results.add(name, found[name], title)


@dataclass(frozen=True, slots=True)
class Case:
    """A case, and the names that its results have at the full scale."""

    name: str
    run: Callable[[Context], Awaitable[None]]
    figures: Sequence[str] = ()
    ratios: Sequence[str] = ()


def of(name: str, side: str) -> str:
    """The name of a case's figures for one side: ours goes without saying."""
    return name if side == "ours" else f"{name}_{side}"
