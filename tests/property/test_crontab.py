"""Cron lines against oracles of another make: a minute-by-minute cron daemon, a plain calendar, and simple laws.

Lines are built from items whose values are known by how they were built, so nothing here reads a cron line.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from slayq_server.engine.crontab import CronError, Crontab

# No deadline: the oracles walk through minutes and days. Some lines and zones are drawn and not used.
THOROUGH = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
BY_THE_MINUTE = settings(THOROUGH, max_examples=80)
"""Fewer, because the daemon that they are held against wakes for each minute."""
MINUTE = timedelta(minutes=1)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
ZONES = sorted(zone for zone in available_timezones() if zone[0].isupper() and zone != "Factory")

# Where and when the clock jumped: by a quarter of an hour, half of one, one, two, three, seven and a day.
JUMPS = [
    ("America/New_York", 2026, 3, 8),
    ("America/New_York", 2026, 11, 1),
    ("Europe/London", 2026, 3, 29),
    ("Europe/London", 2026, 10, 25),
    ("Europe/Dublin", 2026, 3, 29),
    ("Europe/Dublin", 2026, 10, 25),
    ("Australia/Lord_Howe", 2026, 4, 5),
    ("Australia/Lord_Howe", 2026, 10, 4),
    ("America/Havana", 2026, 3, 8),
    ("America/Havana", 2026, 11, 1),
    ("America/Sao_Paulo", 2018, 2, 18),
    ("America/Sao_Paulo", 2018, 11, 4),
    ("Asia/Beirut", 2026, 3, 29),
    ("Asia/Beirut", 2026, 10, 25),
    ("Asia/Pyongyang", 2015, 8, 15),
    ("Asia/Pyongyang", 2018, 5, 5),
    ("Asia/Kathmandu", 1986, 1, 1),
    ("America/Caracas", 2007, 12, 9),
    ("Antarctica/Troll", 2026, 3, 29),
    ("Antarctica/Troll", 2026, 10, 25),
    ("Antarctica/Casey", 2010, 3, 5),
    ("Antarctica/Vostok", 1994, 2, 1),
    ("Antarctica/Vostok", 1994, 11, 1),
    ("Pacific/Apia", 2011, 12, 30),
    ("Pacific/Kwajalein", 1993, 8, 21),
    ("Africa/Casablanca", 2026, 3, 22),
    ("America/Sao_Paulo", 2026, 11, 1),
]


@dataclass(frozen=True)
class Line:
    """A cron line, and the values of its fields."""

    texts: tuple[str, ...]
    values: tuple[frozenset[int], ...]

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def has_day(self, wall: datetime) -> bool:
        _, _, days, months, weekdays = self.values
        in_days = wall.day in days
        in_weekdays = wall.isoweekday() % 7 in weekdays
        starred = self.texts[2][0] == "*" or self.texts[4][0] == "*"
        return wall.month in months and (in_days and in_weekdays if starred else in_days or in_weekdays)

    def has(self, wall: datetime) -> bool:
        return wall.minute in self.values[0] and wall.hour in self.values[1] and self.has_day(wall)


def spelled(value: int, names: list[str], low: int, draw: st.DrawFn) -> str:
    if low <= value < low + len(names) and draw(st.booleans()):
        name = names[value - low]
        return draw(st.sampled_from([name, name.lower(), name.title()]))
    return draw(st.sampled_from([str(value), f"{value:02}"]))


@st.composite
def items(draw: st.DrawFn, low: int, high: int, names: list[str], likely: list[int]) -> tuple[str, frozenset[int]]:
    """One item of a field from `low` to `high`, its ends among the `likely` values."""
    kind = draw(st.sampled_from(["value", "value", "range", "stepped range", "star", "stepped star"]))
    step = draw(st.integers(1, high)) if kind.startswith("stepped") else 1
    tail = f"/{step}" if kind.startswith("stepped") else ""
    if kind.endswith("star"):
        return f"*{tail}", frozenset(value for value in range(low, high + 1) if (value - low) % step == 0)
    first = draw(st.sampled_from(likely))
    if kind == "value":
        return spelled(first, names, low, draw), frozenset({first})
    last = draw(st.sampled_from([value for value in likely if value >= first]))
    text = f"{spelled(first, names, low, draw)}-{spelled(last, names, low, draw)}{tail}"
    return text, frozenset(value for value in range(first, last + 1) if (value - first) % step == 0)


@st.composite
def fields(
    draw: st.DrawFn,
    low: int,
    high: int,
    names: list[str] | None = None,
    likely: list[int] | None = None,
    stars: int = 3,
) -> tuple[str, frozenset[int]]:
    """One field; `*` alone in `stars` of `stars` + 1 cases, so that not every line is a rare one."""
    if draw(st.integers(0, stars)):
        return "*", frozenset(range(low, high + 1))
    parts = draw(st.lists(items(low, high, names or [], likely or list(range(low, high + 1))), min_size=1, max_size=3))
    return ",".join(text for text, _ in parts), frozenset(value for _, values in parts for value in values)


@st.composite
def lines(draw: st.DrawFn, hours: list[int] | None = None) -> Line:
    """Any line, also of days that never come. With `hours`, those are likely and so is each day."""
    rare_days = 3 if hours is None else 6
    weekday_text, weekdays = draw(fields(0, 7, WEEKDAYS, stars=rare_days))
    parts = [
        draw(fields(0, 59, stars=draw(st.sampled_from([0, 0, 2])))),
        draw(fields(0, 23, likely=hours, stars=draw(st.sampled_from([0, 0, 2])))),
        draw(fields(1, 31, stars=rare_days)),
        draw(fields(1, 12, MONTHS, stars=3)) if hours is None else ("*", frozenset(range(1, 13))),
        (weekday_text, frozenset(day % 7 for day in weekdays)),
    ]
    return Line(tuple(text for text, _ in parts), tuple(values for _, values in parts))


NIGHT_LINES = lines(hours=[0, 1, 2, 3, 4, 22, 23])
MOMENTS = st.datetimes(datetime(1900, 1, 2), datetime(9899, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


@cache
def calendar() -> frozenset[tuple[int, int, int]]:
    """The (month, day, day of week) that a whole round of the calendar has."""
    days = (date(2000, 1, 1) + timedelta(days=number) for number in range(146_097))
    return frozenset((day.month, day.day, day.isoweekday() % 7) for day in days)


def ever_comes(line: Line) -> bool:
    _, _, days, months, weekdays = line.values
    if line.texts[2][0] != "*" and line.texts[4][0] != "*":
        return True
    return any(month in months and day in days and weekday in weekdays for month, day, weekday in calendar())


def parsed(line: Line, zone: str = "UTC") -> Crontab:
    assume(ever_comes(line))
    return Crontab.parse(f"TZ={zone} {line.text}")


@cache
def clock(zone: str, start: datetime, days: int) -> list[tuple[datetime, datetime]]:
    """Each minute from `start` on: the instant, and what the zone's clock shows."""
    info = ZoneInfo(zone)
    instants = [start + MINUTE * number for number in range(days * 24 * 60)]
    return [(instant, instant.astimezone(info).replace(tzinfo=None)) for instant in instants]


def daemon(line: Line, minutes: list[tuple[datetime, datetime]]) -> list[datetime]:
    """A cron daemon that wakes up each minute, with the rule of Debian's for jumps, but for jumps of any length.

    It keeps the latest time that its clock has shown. A line that begins its minute or hour with a star looks at the
    clock alone. Any other looks at every minute between that latest time and now, and at none while the clock, having
    gone back, has not come to it again.
    """
    wild = line.texts[0][0] == "*" or line.texts[1][0] == "*"
    fired: list[datetime] = []
    latest = minutes[0][1]
    for instant, shown in minutes[1:]:
        if wild:
            due = line.has(shown)
        else:
            passed = int((shown - latest) / MINUTE)
            due = any(line.has(latest + MINUTE * number) for number in range(1, passed + 1))
        if due:
            fired.append(instant)
        latest = max(latest, shown)
    return fired


def agrees_with_daemon(line: Line, zone: str, middle: datetime, seconds: list[float]) -> None:
    """Compares four days around `middle`; the daemon starts two days earlier, so that it has seen the clock."""
    minutes = clock(zone, middle - timedelta(days=4), 6)
    crontab = parsed(line, zone)
    begin, end = minutes[2 * 24 * 60][0], minutes[-1][0]
    expected = [tick for tick in daemon(line, minutes) if tick > begin]
    assert expected == crontab.ticks_between(begin, end, len(minutes))
    jump = next(
        (after for (after, shown), (_, last) in zip(minutes[1:], minutes, strict=False) if shown - last != MINUTE),
        middle,
    )
    for moment in [jump + timedelta(seconds=number) for number in seconds]:
        following = [tick for tick in expected if tick > moment]
        tick = crontab.next_after(moment)
        assert following[0] == tick if following else tick > end


SECONDS = st.lists(
    st.integers(-3600, 3 * 3600) | st.integers(-24 * 3600, 24 * 3600) | st.floats(-24 * 3600, 24 * 3600), max_size=20
)
"""Where to look from, counted from the jump."""


@settings(BY_THE_MINUTE)
@given(line=NIGHT_LINES, jump=st.sampled_from(JUMPS), seconds=SECONDS)
def test_known_jumps(line: Line, jump: tuple[str, int, int, int], seconds: list[float]) -> None:
    """Around well-known jumps of many sizes, ticks are those of a daemon that wakes each minute."""
    zone, year, month, day = jump
    agrees_with_daemon(line, zone, datetime(year, month, day, tzinfo=UTC), seconds)


@cache
def jumps(zone: str, year: int) -> list[datetime]:
    """The UTC days of a year in which a zone's offset changes, where all offsets are whole minutes."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(366)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() or timedelta() for day in days]
    if any(offset % MINUTE for offset in offsets):
        return []
    return [day for day, (before, after) in zip(days, pairwise(offsets), strict=False) if before != after]


@settings(BY_THE_MINUTE)
@given(line=NIGHT_LINES, zone=st.sampled_from(ZONES), year=st.integers(1973, 2060), seconds=SECONDS, data=st.data())
def test_all_zones(line: Line, zone: str, year: int, seconds: list[float], data: st.DataObject) -> None:
    """Around any jump of any zone, ticks are those of a daemon that wakes each minute."""
    days = jumps(zone, year)
    assume(days)
    agrees_with_daemon(line, zone, data.draw(st.sampled_from(days)), seconds)


@settings(THOROUGH)
@given(line=lines(), moment=MOMENTS)
@example(
    line=Line(("0", "0", "29", "2", "*/7"), tuple(map(frozenset, ([0], [0], [29], [2], [0])))),
    moment=datetime(2088, 3, 1, tzinfo=UTC),
)
def test_calendar(line: Line, moment: datetime) -> None:
    """The next tick is on the first matching day, at its first matching time; a day that never comes is refused."""
    if not ever_comes(line):
        with pytest.raises(CronError, match=r"^day-of-month: day .* never comes in month "):
            Crontab.parse(line.text)
        return
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    times = [timedelta(hours=hour, minutes=minute) for hour in line.values[1] for minute in line.values[0]]
    while not (line.has_day(day) and day + max(times) > moment):
        day += timedelta(days=1)
    expected = min(day + time for time in times if day + time > moment)
    assert expected == Crontab.parse(line.text).next_after(moment)


@settings(THOROUGH)
@given(line=lines(), zone=st.sampled_from(ZONES), moment=MOMENTS, share=st.floats(0, 1, exclude_max=True))
def test_next_is_the_next(line: Line, zone: str, moment: datetime, share: float) -> None:
    """In any zone and century: ticks rise, and a tick is the next one from each instant before it."""
    crontab = parsed(line, zone)
    tick = crontab.next_after(moment)
    assert tick > moment
    assert tick.utcoffset() == timedelta()
    between = moment + (tick - moment) * share
    assume(between < tick)
    assert tick == crontab.next_after(between)
    assert tick == crontab.next_after(tick - timedelta(microseconds=1))
    assert tick < crontab.next_after(tick)


@settings(BY_THE_MINUTE)
@given(line=NIGHT_LINES, jump=st.sampled_from(JUMPS), seconds=st.integers(0, 5 * 24 * 3600), limit=st.integers(0, 60))
def test_ticks_between(line: Line, jump: tuple[str, int, int, int], seconds: int, limit: int) -> None:
    """The ticks between two instants are those that `next_after` gives one by one; the last of them is found alone."""
    zone, year, month, day = jump
    crontab = parsed(line, zone)
    after = datetime(year, month, day, tzinfo=UTC) - timedelta(days=2)
    until = after + timedelta(seconds=seconds)
    ticks: list[datetime] = []
    tick = crontab.next_after(after)
    while tick <= until:
        ticks.append(tick)
        tick = crontab.next_after(tick)
    assert ticks[:limit] == crontab.ticks_between(after, until, limit)
    assert (ticks[-1] if ticks else None) == crontab.last_between(after, until)


@settings(THOROUGH)
@given(text=st.text(alphabet="0123456789*/,-@?#LWHR~TZ= \tMONJAN\n٣²/", max_size=40))
def test_any_text(text: str) -> None:
    """Whatever the text, it is a schedule with a next tick or a CronError."""
    try:
        crontab = Crontab.parse(text)
    except CronError:
        return
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert crontab.next_after(start) > start
