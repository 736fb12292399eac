"""Circuits: when they open, who may probe and when, what closes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slayq_server.engine.breaker import Breaker, BreakerRule, Change, PutOff, Says, says
from slayq_server.model import Answer, CallbackResult

if TYPE_CHECKING:
    from collections.abc import Iterable

APP = "https://app.example.com"
LIMIT = 3
LONGEST = 8.0
RULE = BreakerRule(LIMIT, LONGEST)


def answer(
    result: CallbackResult = CallbackResult.OK,
    status: int | None = None,
    *,
    origin: str = APP,
    retry_after: float | None = None,
) -> Answer:
    """How an endpoint answered."""
    return Answer(result, status, origin=origin, retry_after=retry_after)


THERE = answer(CallbackResult.OK, 200)
AWAY = answer(CallbackResult.CONNECT_ERROR)


class Rig:
    """A breaker on a clock that stands still, with what it has said."""

    def __init__(self, rule: BreakerRule | None = RULE) -> None:
        self.now = 1000.0
        self.changes: list[Change] = []
        self.sooner = 0
        self.last = 0
        self.breaker = Breaker(
            rule, lambda: self.now, lambda: 0.5, on_change=self.changes.append, on_sooner=self._note_sooner
        )

    def _note_sooner(self) -> None:
        self.sooner += 1

    def begin(self, endpoint: str = APP) -> tuple[int, int] | None:
        """Asks to deliver another job; None: it is put off."""
        self.last += 1
        try:
            self.breaker.admit(endpoint, (self.last, 1))
        except PutOff:
            return None
        return self.last, 1

    def deliver(self, said: Answer = AWAY, times: int = 1) -> None:
        """Delivers, one after the other, what must be let through."""
        for _ in range(times):
            delivery = self.begin(said.origin)
            assert delivery is not None
            self.breaker.note(said, delivery)
            self.breaker.let_go(delivery)

    def open(self, endpoint: str = APP) -> None:
        """Fails until the circuit is open."""
        self.deliver(answer(CallbackResult.CONNECT_ERROR, origin=endpoint), LIMIT)
        assert self.breaker.is_open(endpoint)

    @property
    def transitions(self) -> list[tuple[str, bool]]:
        """Endpoints, and whether they opened."""
        return [(change.endpoint, change.opened) for change in self.changes]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (AWAY, Says.AWAY),
        (answer(CallbackResult.TIMEOUT), Says.AWAY),
        (answer(CallbackResult.DNS_ERROR), Says.AWAY),
        (answer(CallbackResult.TLS_ERROR), Says.AWAY),
        (answer(CallbackResult.SERVER_ERROR, 502), Says.AWAY),
        (answer(CallbackResult.SERVER_ERROR, 503, retry_after=5.0), Says.AWAY),
        (answer(CallbackResult.SERVER_ERROR, 504), Says.AWAY),
        (answer(CallbackResult.SERVER_ERROR, 500), Says.THERE),
        (answer(CallbackResult.CLIENT_ERROR, 404), Says.THERE),
        (answer(CallbackResult.CLIENT_ERROR, 429), Says.THERE),
        (answer(CallbackResult.REDIRECT, 302), Says.THERE),
        (answer(CallbackResult.NO_RETRY, 666), Says.THERE),
        (answer(CallbackResult.TOO_LARGE), Says.THERE),
        (answer(CallbackResult.PROTOCOL_ERROR), Says.THERE),
        (THERE, Says.THERE),
        (answer(CallbackResult.BLOCKED), Says.NOTHING),
    ],
)
def test_what_an_answer_says(said: Answer, expected: Says) -> None:
    """Away is what cannot be reached, or is said to be so by what stands before it; a function that fails is there."""
    assert expected is says(said)


def test_a_run_of_failures_opens_it() -> None:
    """As many as the rule says, one after the other; any sign of life begins the count anew."""
    rig = Rig()
    for sign in (THERE, answer(CallbackResult.SERVER_ERROR, 500)):
        rig.deliver(AWAY, LIMIT - 1)
        rig.deliver(sign)
    rig.deliver(AWAY, LIMIT - 1)
    assert [] == rig.changes
    rig.deliver(AWAY)
    assert [Change(APP, True, LIMIT, "connect_error")] == rig.changes
    assert rig.begin() is None
    assert rig.begin("https://app.example.com:8443") is not None


def test_without_a_rule_nothing_is_put_off() -> None:
    """The breaker is switched off, also while it runs: then all circuits close."""
    rig = Rig(None)
    rig.deliver(AWAY, 100)
    assert ([], False) == (rig.changes, rig.breaker.is_open(APP))
    rig.breaker.set_rule(RULE)
    rig.open()
    rig.breaker.set_rule(None)
    assert [(APP, True), (APP, False)] == rig.transitions
    rig.deliver(AWAY, 100)


def test_one_probe_at_a_time_with_growing_pauses() -> None:
    """After 1 s, then 2, 4, 8 and so on up to the longest; a probe is counted as any other delivery."""
    rig = Rig()
    rig.open()
    for pause in (1.0, 2.0, 4.0, LONGEST, LONGEST):
        assert rig.breaker.next_at() == rig.now + pause
        rig.now += pause - 0.001
        assert rig.begin() is None
        rig.now += 0.001
        probe = rig.begin()
        assert probe is not None
        assert rig.begin() is None
        rig.breaker.note(AWAY, probe)
    assert LIMIT + 5 == rig.breaker.open_circuits()[0].failures


@pytest.mark.parametrize("said", [THERE, answer(CallbackResult.SERVER_ERROR, 500), answer(CallbackResult.REDIRECT)])
def test_a_probe_that_is_answered_closes_it(said: Answer) -> None:
    """At once, for everybody, and the next failures are counted from the beginning."""
    rig = Rig()
    rig.open()
    rig.now += 1
    rig.deliver(said)
    assert [(APP, True), (APP, False)] == rig.transitions
    assert (1.0, True) == (rig.changes[1].open_for, rig.changes[1].answered)
    assert rig.breaker.next_at() is None
    rig.deliver(AWAY, LIMIT - 1)
    assert 2 == len(rig.changes)


def test_an_answer_that_has_begun_closes_it() -> None:
    """A run's probe may go on for hours."""
    rig = Rig()
    rig.open()
    rig.now += 1
    probe = rig.begin()
    assert probe is not None
    rig.breaker.answers(APP, probe)
    assert not rig.breaker.is_open(APP)
    rig.breaker.note(THERE, probe)
    rig.breaker.let_go(probe)
    assert 2 == len(rig.changes)


def test_late_answers_to_what_began_before() -> None:
    """A failure tells nothing new. A success may be the app's last word: worth a probe at once, and no more."""
    rig = Rig()
    early = [rig.begin() for _ in range(3)]
    rig.open()
    for delivery in early:
        assert delivery is not None
    rig.breaker.note(AWAY, early[0])  # type: ignore[arg-type]
    assert rig.begin() is None
    rig.breaker.note(THERE, early[1])  # type: ignore[arg-type]
    assert rig.breaker.is_open(APP)
    probe = rig.begin()
    assert probe is not None
    rig.breaker.note(THERE, early[2])  # type: ignore[arg-type]
    assert rig.begin() is None


def test_a_probe_that_is_lost_makes_room_for_another() -> None:
    """Cancelled with its worker row, or at a shutdown, or never sent by the address guard's rules."""
    rig = Rig()
    rig.open()
    rig.now += 1
    probe = rig.begin()
    assert probe is not None
    rig.breaker.let_go(probe)
    assert [APP] == rig.breaker.wanting()
    probe = rig.begin()
    assert probe is not None
    rig.breaker.note(answer(CallbackResult.BLOCKED), probe)
    assert rig.begin() is not None


def test_a_probe_that_takes_long_does_not_block_the_next_for_ever() -> None:
    """Another goes after 30 s, then after 60, then after 120: few, however long the time limit is."""
    rig = Rig()
    rig.open()
    rig.now += 1
    began = rig.now
    probes = []
    while rig.now < began + 3600:
        probe = rig.begin()
        if probe is not None:
            probes.append((rig.now - began, probe))
        rig.now += 10
    assert [0, 30, 90, 210, 450, 930, 1530, 2130, 2730, 3330] == [at for at, _ in probes]
    rig.breaker.note(THERE, probes[0][1])
    assert not rig.breaker.is_open(APP)
    for _, probe in probes:
        rig.breaker.note(answer(CallbackResult.TIMEOUT), probe)
        rig.breaker.let_go(probe)


def test_retry_after_puts_the_probe_off() -> None:
    """As long as the endpoint asks for, up to the longest pause."""
    rig = Rig()
    busy = answer(CallbackResult.SERVER_ERROR, 503, retry_after=5.0)
    rig.deliver(busy, LIMIT)
    assert rig.breaker.next_at() == rig.now + 5
    rig.now += 5
    rig.deliver(answer(CallbackResult.SERVER_ERROR, 503, retry_after=86_400.0))
    assert rig.breaker.next_at() == rig.now + LONGEST


def test_jobs_are_put_off_for_minutes_and_longer_the_longer_it_takes() -> None:
    """What is put off costs a look now and then, and not more the more there is of it."""
    rig = Rig()
    rig.open()
    delays = []
    for open_for in (0, 200, 1000, 10_000):
        rig.breaker.let_go(rig.begin() or (0, 0))
        rig.now = 1000.0 + open_for
        rig.begin()  # the probe
        with pytest.raises(PutOff) as put_off:
            rig.breaker.admit(APP, (0, 0))
        delays.append(put_off.value.delay)
    assert [300, 300, 1000, 3600] == delays


def test_looking_for_a_job_to_probe_with() -> None:
    """When a probe may go; again a second later if the job went elsewhere; less often where there is none."""
    rig = Rig()
    rig.open()
    assert [] == rig.breaker.wanting()
    rig.now += 1
    assert [APP] == rig.breaker.wanting()
    assert [] == rig.breaker.wanting()
    rig.breaker.asked(APP, True)
    assert rig.breaker.next_at() == rig.now + 1
    rig.now += 1
    rig.deliver(AWAY)
    assert rig.breaker.next_at() == rig.now + 2
    rig.now += 2
    assert [APP] == rig.breaker.wanting()
    rig.breaker.asked(APP, False)
    assert rig.breaker.next_at() == rig.now + 2


def test_an_endpoint_that_nobody_wants_any_more_is_forgotten() -> None:
    """It does not count as away for ever because its last job was cancelled."""
    rig = Rig()
    rig.open()
    looks = 0
    while rig.breaker.is_open(APP):
        rig.now = rig.breaker.next_at() or 0.0
        for endpoint in rig.breaker.wanting():
            looks += 1
            rig.breaker.asked(endpoint, False)
    assert 600 < rig.now - 1000 < 700
    assert looks < 700
    assert not rig.changes[-1].answered


def test_another_daemon_that_found_it_back_hurries_the_probe() -> None:
    """But not where one is on its way."""
    rig = Rig()
    rig.open()
    assert rig.begin() is None
    rig.breaker.hurry()
    assert [APP] == rig.breaker.wanting()
    assert rig.begin() is not None
    rig.breaker.hurry()
    assert rig.begin() is None


def test_only_so_many_endpoints_are_watched() -> None:
    """Whoever may add jobs cannot fill the memory with endpoints; those that are open are kept."""
    rig = Rig()
    rig.open()
    for number in range(2000):
        rig.deliver(answer(CallbackResult.DNS_ERROR, origin=f"https://{number}.example.com"))
    assert rig.breaker.is_open(APP)
    for number in range(2000):
        rig.deliver(answer(CallbackResult.DNS_ERROR, origin=f"https://{number}.example.com"), LIMIT - 1)
    assert len(rig.breaker.open_circuits()) <= 500
    assert len(rig.breaker._circuits) <= 500


class Machine(RuleBasedStateMachine):
    """Any order of deliveries, answers, losses and time, held against the rules in plain words."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.flying: dict[tuple[int, int], bool] = {}
        """Deliveries on their way: whether they began while the circuit was open."""
        self.failures = 0

    @property
    def probes(self) -> list[tuple[int, int]]:
        return [delivery for delivery, probe in self.flying.items() if probe]

    @rule()
    def begin(self) -> None:
        was_open = self.rig.breaker.is_open(APP)
        delivery = self.rig.begin()
        if not was_open:
            assert delivery is not None
        if delivery is not None:
            self.flying[delivery] = was_open

    @rule(data=st.data(), said=st.sampled_from([THERE, AWAY, AWAY, AWAY, answer(CallbackResult.BLOCKED), None]))
    def end(self, data: st.DataObject, said: Answer | None) -> None:
        if not self.flying:
            return
        delivery = data.draw(st.sampled_from(sorted(self.flying)))
        was_open = self.rig.breaker.is_open(APP)
        probe = self.flying.pop(delivery) and was_open
        if said is not None:
            self.rig.breaker.note(said, delivery)
        self.rig.breaker.let_go(delivery)
        is_open = self.rig.breaker.is_open(APP)
        if was_open:
            # Only the answer to a probe closes it.
            assert is_open or (probe and said is THERE)
        else:
            self.failures = self.failures + 1 if said is AWAY else 0 if said is THERE else self.failures
            assert is_open == (self.failures >= LIMIT)
        if was_open and not is_open:
            # Whoever probed before is a delivery like any other now.
            self.flying = dict.fromkeys(self.flying, False)
        if was_open != is_open:
            self.failures = 0

    @rule(seconds=st.sampled_from([0.1, 1.0, LONGEST, 29.0]))
    def wait(self, seconds: float) -> None:
        self.rig.now += seconds

    @invariant()
    def few_probes(self) -> None:
        """At most one in a while; nothing that is over is remembered."""
        assert len(self.probes) <= 12
        assert set(self.rig.breaker._probes) == set(self.probes)

    @invariant()
    def never_stuck(self) -> None:
        """While it is open, there is a moment from which a probe may go, and it is not far."""
        if self.rig.breaker.is_open(APP):
            at = self.rig.breaker.next_at()
            assert at is not None
            assert at <= self.rig.now + 600

    def teardown(self) -> None:
        """In the end everybody is gone, and the next to come at the right moment gets through."""
        for delivery in self.flying:
            self.rig.breaker.let_go(delivery)
        self.rig.now += LONGEST
        assert self.rig.begin() is not None


TestMachine = Machine.TestCase


def test_asking_about_an_endpoint_that_answers_keeps_nothing() -> None:
    """However many there are."""
    rig = Rig()
    origins: Iterable[str] = (f"https://{number}.example.com" for number in range(100))
    for origin in origins:
        rig.deliver(answer(CallbackResult.OK, 200, origin=origin))
    assert ({}, {}) == (rig.breaker._circuits, rig.breaker._probes)
