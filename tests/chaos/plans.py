"""What the endpoint does with a job, delivery by delivery: written in the job's own data, so that it needs no memory.

A plan is a list of texts, one for each attempt from the first on; after its end every attempt is answered with 200.
`name` or `name:number`:

    ok       200 at once                        slow     200 after so many seconds
    500      that status                        regret   500 after so many seconds
    429, 503 with a Retry-After of so many s    hang     never an answer
    drip     200, a byte at a time, so many s   reset    the connection is reset in place of an answer
    half     200, then a reset in the body      666, 404 no retry: the job must end as a dead letter
    mute     200, its headers, then nothing     trickle  200, a byte at a time, without end
    endless  200, all bytes at once, no end     301      to where whoever follows is seen
    tls      by https, with a certificate that nobody vouches for: the app must never see it

A success is a status of 2xx and its body to the end, or to where the server reads no further: that of `endless` is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

UNTRUSTED = [f"127.0.{network}.{host}" for network in (1, 2) for host in range(1, 201)]
"""Where `tls` is: at so many addresses that no daemon finds one of them away often enough to put its jobs off, which
would then take longer to die than a run lasts."""
DEADLY = ("666", "404")
GOOD = ("ok", "slow", "drip", "endless")
"""What the server must take for a success."""


@dataclass(frozen=True)
class Deed:
    """What one attempt is answered with."""

    name: str
    number: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it is a success."""
        return self.name in GOOD


def deed(plan: Sequence[str], attempt: int) -> Deed:
    """What attempt `attempt` (from 1) is answered with."""
    if not 1 <= attempt <= len(plan):
        return Deed("ok")
    name, _, number = plan[attempt - 1].partition(":")
    return Deed(name, float(number) if number else 0.0)


def must_die(plan: Sequence[str], max_attempts: int) -> bool:
    """Whether the job can only end as a dead letter, if each of its attempts reaches the endpoint."""
    for attempt in range(1, max_attempts + 1):
        this = deed(plan, attempt)
        if this.good:
            return False
        if this.name in DEADLY:
            return True
    return True


def regretful(first: str, seconds: float) -> list[str]:
    """A success, and a delivery after it that fails slowly.

    Were the success written down late, under a lease that is over, the job would end without the further delivery that
    it then needs.
    """
    return [first, f"regret:{seconds:.2f}"]


def chosen(random: random.Random) -> tuple[list[str], int]:
    """A plan, and how many attempts the job has."""
    draw = random.random()
    if draw < 0.62:
        return regretful("ok", random.uniform(0.2, 3.0)), 25
    if draw < 0.80:
        return regretful(f"slow:{random.uniform(0.2, 2.5):.2f}", random.uniform(0.2, 3.0)), 25
    if draw < 0.85:
        return ["500", "ok", "regret:0.2"], 25
    if draw < 0.88:
        return [random.choice(("429:1", "503:1"))], 25
    if draw < 0.90:
        return ["reset", "half", "301", "ok"], 25
    if draw < 0.92:
        return [f"drip:{random.uniform(0.5, 1.5):.2f}"], 25
    if draw < 0.93:
        return regretful("endless", 0.2), 25
    if draw < 0.945:
        return [random.choice(("hang", "mute", "trickle")), "ok"], 25
    if draw < 0.955:
        return ["tls", "tls"], 2
    if draw < 0.975:
        return [random.choice(DEADLY)], 25
    return ["500", "500", "500"], 3
