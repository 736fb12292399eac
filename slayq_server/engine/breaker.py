"""Which endpoints are away, and when to try them again: a circuit for each. Pure.

    closed ──`failures` deliveries in a row say that it is away──▶ open ──a probe is answered──▶ closed
                                                               │     ▲
                                                               └─────┘ a probe fails: a longer pause

While a circuit is open, one delivery at a time is let through to find out, the probe; all others are put off: their
jobs wait in the database without an attempt counted. The pause before a probe grows from a second to the rule's
`longest`. A probe that has no answer for long does not block the next one for ever: another may go after half a minute,
then after a minute, and so on.

An endpoint is an origin: scheme, host and port. It is away if there is no connection, no valid TLS, no name, no answer
in time, or a gateway answers that nobody is behind it. Whatever the app says itself, a 500 or a 404, shows that it is
there. What the address guard has not let out shows nothing.

Nothing is kept of an endpoint that answers, so that asking about it costs a look into a dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from slayq_server.model import CallbackResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq_server.model import Answer

Delivery: TypeAlias = "tuple[int, int]"
"""A job's id and lease."""

FIRST_PAUSE: Final = 1.0
PATIENCE: Final = 30.0
"""Seconds without an answer to a probe after which another may go; doubled for each that is on its way."""
_PATIENCE_MOST: Final = 600.0
_ASK_AGAIN: Final = 1.0
"""Seconds after which to look for another job to probe with, if the one that was found has gone elsewhere."""
_IDLE: Final = 600.0
"""Seconds after which an open circuit is forgotten that nobody has wanted to deliver through."""
_MOST: Final = 500
"""Endpoints that are watched: enough for all that may be away at once, and little for the worker row."""
_WAIT: Final = (300.0, 3600.0)
"""The shortest and the longest for which a job is put off. In between: for as long as the circuit has been open.

A net for what cannot be told otherwise: once the endpoint answers, all that was put off is brought forward.
"""
_JITTER: Final = 0.2
_AWAY: Final = frozenset(
    (CallbackResult.TIMEOUT, CallbackResult.CONNECT_ERROR, CallbackResult.DNS_ERROR, CallbackResult.TLS_ERROR)
)
_GATEWAY: Final = frozenset((502, 503, 504, 521, 522, 523))
"""The last three are a well-known gateway's own: the server is down, does not answer, cannot be reached."""


class Says(Enum):
    """What an answer says about its endpoint."""

    THERE = "there"
    AWAY = "away"
    NOTHING = "nothing"


def says(answer: Answer) -> Says:
    """Whether the endpoint is there."""
    if answer.result in _AWAY or answer.status in _GATEWAY:
        return Says.AWAY
    return Says.NOTHING if answer.result is CallbackResult.BLOCKED else Says.THERE


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When to open a circuit, and how often to probe."""

    failures: int = 10
    """Deliveries in a row that say that the endpoint is away."""
    longest: float = 30.0
    """Seconds between two probes at the most."""


class PutOff(Exception):
    """Not to be delivered now: the endpoint is away."""

    def __init__(self, endpoint: str, delay: float) -> None:
        super().__init__(f"{endpoint} is away")
        self.endpoint = endpoint
        self.delay = delay
        """Seconds until the job is looked at again at the latest."""


@dataclass(frozen=True, slots=True)
class Change:
    """A circuit has opened or closed."""

    endpoint: str
    opened: bool
    failures: int
    """Deliveries in a row that said that it is away."""
    result: str
    """What the last of them came to: a status, or a `CallbackResult`."""
    open_for: float = 0.0
    """Seconds, of one that has closed."""
    answered: bool = True
    """It has closed because the endpoint answers; else because nobody asks any more."""


@dataclass(slots=True)
class _Circuit:
    """An endpoint that has failed of late."""

    used_at: float
    """When somebody last wanted to deliver through it."""
    result: str = ""
    failures: int = 0
    opened_at: float | None = None
    pause: float = FIRST_PAUSE
    patience: float = PATIENCE
    probe_at: float = 0.0
    """From when the next delivery is let through."""
    ask_at: float = 0.0
    """From when to look for a job to probe with."""
    probes: set[Delivery] = field(default_factory=set)

    def count(self, answer: Answer) -> None:
        """One more has found it away."""
        self.failures += 1
        self.result = answer.result.value if answer.status is None else str(answer.status)


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """An open circuit, for people."""

    endpoint: str
    open_for: float
    failures: int
    result: str


class Breaker:
    """The circuits of one daemon. In memory only: each daemon finds out for itself."""

    def __init__(
        self,
        rule: BreakerRule | None,
        monotonic: Callable[[], float],
        random: Callable[[], float],
        *,
        on_change: Callable[[Change], None],
        on_sooner: Callable[[], None] = lambda: None,
    ) -> None:
        """Knows of no failure yet.

        Args:
            rule: None: every delivery is let through.
            monotonic: seconds.
            random: numbers in [0, 1), so that what is put off together does not come back together.
            on_change: told of each circuit that opens or closes.
            on_sooner: called when `next_at` may have become sooner.
        """
        self._rule = rule
        self._monotonic = monotonic
        self._random = random
        self._on_change = on_change
        self._on_sooner = on_sooner
        self._circuits: dict[str, _Circuit] = {}
        """By endpoint, the one that has failed last at the end."""
        self._probes: dict[Delivery, str] = {}

    # Deliveries

    def admit(self, endpoint: str, delivery: Delivery) -> None:
        """Lets a delivery through, or raises PutOff."""
        circuit = self._circuits.get(endpoint)
        if circuit is None or circuit.opened_at is None:
            return
        now = self._monotonic()
        circuit.used_at = now
        if now < circuit.probe_at:
            raise PutOff(endpoint, self._delay(now - circuit.opened_at))
        circuit.probes.add(delivery)
        self._probes[delivery] = endpoint
        circuit.probe_at = now + circuit.patience
        circuit.patience = min(2 * circuit.patience, _PATIENCE_MOST)

    def answers(self, endpoint: str, delivery: Delivery) -> None:
        """A delivery has begun to be answered as only the app itself would."""
        circuit = self._circuits.get(endpoint)
        if circuit is not None:
            self._is_there(endpoint, circuit, was_probe=self._take_probe(circuit, delivery))

    def note(self, answer: Answer, delivery: Delivery) -> None:
        """A delivery has ended with this answer."""
        endpoint = answer.origin
        circuit = self._circuits.get(endpoint)
        if circuit is None and (answer.result is CallbackResult.OK or not endpoint or self._rule is None):
            return
        said = says(answer)
        if circuit is None:
            if said is Says.AWAY and self._has_room():
                self._failed(endpoint, _Circuit(self._monotonic()), answer)
            return
        was_probe = self._take_probe(circuit, delivery)
        if said is Says.THERE:
            self._is_there(endpoint, circuit, was_probe=was_probe)
        elif said is Says.NOTHING:
            if was_probe:
                self._may_probe(circuit)
        elif circuit.opened_at is None:
            self._failed(endpoint, circuit, answer)
        elif was_probe:
            self._probe_failed(circuit, answer)

    def let_go(self, delivery: Delivery) -> None:
        """A delivery has ended, perhaps without an answer: cancelled, or never sent."""
        if delivery in self._probes:
            circuit = self._circuits[self._probes[delivery]]
            self._take_probe(circuit, delivery)
            self._may_probe(circuit)

    # Probes

    def wanting(self) -> list[str]:
        """Endpoints that a probe may go to now, and for which nobody has been looking for a job just now."""
        now = self._monotonic()
        found = [
            endpoint
            for endpoint, circuit in self._circuits.items()
            if circuit.opened_at is not None and max(circuit.probe_at, circuit.ask_at) <= now
        ]
        for endpoint in found:
            self._circuits[endpoint].ask_at = now + _ASK_AGAIN
        return found

    def asked(self, endpoint: str, found: bool) -> None:
        """A job to probe with was found, and is on its way to be leased; or there is none."""
        circuit = self._circuits.get(endpoint)
        if circuit is None or circuit.opened_at is None or found:
            return
        now = self._monotonic()
        circuit.ask_at = now + circuit.pause
        if not circuit.probes and now - circuit.used_at > _IDLE:
            self._forget(endpoint, circuit, answered=False)

    def next_at(self) -> float | None:
        """When `wanting` will next have something, by the clock; None: not before something happens."""
        return min(
            (max(c.probe_at, c.ask_at) for c in self._circuits.values() if c.opened_at is not None), default=None
        )

    def hurry(self) -> None:
        """Another daemon has found an endpoint that is back, perhaps one of these."""
        now = self._monotonic()
        for circuit in self._circuits.values():
            if circuit.opened_at is not None and not circuit.probes:
                circuit.probe_at = min(circuit.probe_at, now)
                circuit.ask_at = min(circuit.ask_at, now)
        self._on_sooner()

    def set_rule(self, rule: BreakerRule | None) -> None:
        """Goes by this rule from now on. Without one, all circuits close."""
        self._rule = rule
        if rule is None:
            for endpoint, circuit in list(self._circuits.items()):
                self._forget(endpoint, circuit, answered=False)
            return
        for circuit in self._circuits.values():
            circuit.pause = min(circuit.pause, rule.longest)

    def is_open(self, endpoint: str) -> bool:
        """Whether deliveries to it are put off."""
        circuit = self._circuits.get(endpoint)
        return circuit is not None and circuit.opened_at is not None

    def open_circuits(self) -> list[OpenCircuit]:
        """The open circuits, by endpoint."""
        now = self._monotonic()
        return [
            OpenCircuit(endpoint, now - circuit.opened_at, circuit.failures, circuit.result)
            for endpoint, circuit in sorted(self._circuits.items())
            if circuit.opened_at is not None
        ]

    # Transitions

    def _failed(self, endpoint: str, circuit: _Circuit, answer: Answer) -> None:
        assert self._rule is not None
        now = circuit.used_at = self._monotonic()
        circuit.count(answer)
        self._circuits.pop(endpoint, None)
        self._circuits[endpoint] = circuit
        if circuit.failures >= self._rule.failures:
            circuit.opened_at = now
            circuit.pause = min(FIRST_PAUSE, self._rule.longest)
            circuit.probe_at = now + self._pause_after(circuit, answer)
            self._on_change(Change(endpoint, True, circuit.failures, circuit.result))

    def _probe_failed(self, circuit: _Circuit, answer: Answer) -> None:
        assert self._rule is not None
        circuit.count(answer)
        circuit.pause = min(2 * circuit.pause, self._rule.longest)
        circuit.patience = PATIENCE
        circuit.probe_at = circuit.ask_at = self._monotonic() + self._pause_after(circuit, answer)
        self._on_sooner()

    def _pause_after(self, circuit: _Circuit, answer: Answer) -> float:
        """The pause before the next probe: what the endpoint asks for counts, within bounds."""
        assert self._rule is not None
        return max(circuit.pause, min(answer.retry_after or 0.0, self._rule.longest))

    def _is_there(self, endpoint: str, circuit: _Circuit, *, was_probe: bool) -> None:
        if circuit.opened_at is None:
            del self._circuits[endpoint]
        elif was_probe:
            self._forget(endpoint, circuit, answered=True)
        else:
            # It began before the circuit opened: the last word of an app that goes down, perhaps. Worth a probe.
            self._may_probe(circuit)

    def _may_probe(self, circuit: _Circuit) -> None:
        if circuit.probes:
            return
        circuit.probe_at = min(circuit.probe_at, self._monotonic())
        circuit.patience = PATIENCE
        self._on_sooner()

    def _forget(self, endpoint: str, circuit: _Circuit, *, answered: bool) -> None:
        del self._circuits[endpoint]
        for delivery in circuit.probes:
            del self._probes[delivery]
        if circuit.opened_at is not None:
            open_for = self._monotonic() - circuit.opened_at
            self._on_change(Change(endpoint, False, circuit.failures, circuit.result, open_for, answered))

    def _take_probe(self, circuit: _Circuit, delivery: Delivery) -> bool:
        """Whether this was a probe through that circuit. It is none any more."""
        if delivery not in circuit.probes:
            return False
        circuit.probes.remove(delivery)
        del self._probes[delivery]
        return True

    def _has_room(self) -> bool:
        """Whether one more may be watched; if need be in place of the one that failed least lately and is not open."""
        if len(self._circuits) < _MOST:
            return True
        oldest = next((name for name, circuit in self._circuits.items() if circuit.opened_at is None), None)
        if oldest is None:
            return False
        del self._circuits[oldest]
        return True

    def _delay(self, open_for: float) -> float:
        shortest, longest = _WAIT
        return min(max(shortest, open_for), longest) * (1 + _JITTER * (2 * self._random() - 1))
