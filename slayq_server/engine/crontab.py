"""Cron lines as Debian's cron reads them, in a time zone of their own. Pure: no clock, no database.

A line has five fields, `minute hour day-of-month month day-of-week`, or is a nickname such as `@daily`. `TZ=Area/City `
before it names the zone (UTC otherwise). Where days of the month and days of the week are both restricted, a day that
is in either of them matches; as in Debian a day field counts as unrestricted when its text begins with `*`, so `*/2`
does too, and then a day must be in both.

**When the zone's clock jumps.** A line is one of two sorts, told apart as in Debian's cron by the text of its fields:

- *By the clock*: the minute field or the hour field begins with `*` (`*`, `*/15`, and so `0 */2 * * *` and `@hourly`).
  It fires whenever the clock on the wall shows a matching minute: in both passes of a time that is repeated, never for
  a time that is skipped.
- *Fixed*: all others (`30 2 * * *`, `0-59/15 2 * * *`). Each matching minute of the calendar fires once: at its first
  pass where it is repeated, and at the instant of the jump where it is skipped. Whether it matches is decided by the
  date and time that were skipped.

Ticks are instants, so several skipped minutes of one line, and the minute on which the clock lands, are one tick.
Debian's cron does this for jumps below three hours and drops what a longer one skips; here the length of a jump does
not matter (Pacific/Apia skipped the whole of 2011-12-30: a daily line fires once, at that jump).

croniter steps through the calendar, on naive local time and with all values written out. It is not asked about zones
(given one, it fires fixed lines twice on the day of a repeated hour) nor to read fields (`0 0-0 * * *` is every hour to
it).
"""

from __future__ import annotations

import difflib
import re
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from croniter import croniter

MAX_TEXT: Final = 256
"""Characters of a cron line, its zone included."""
MAX_ITEMS: Final = 64
"""Items of one field's list: all 60 minutes may be written out."""
YEARS: Final = range(1900, 9900)
"""Years of the instants that ticks are looked for after. The calendar's ends are left out, so that no offset and no
search for the next 29 February runs off them."""

_MINUTE: Final = timedelta(minutes=1)
_SECOND: Final = timedelta(seconds=1)
_SMALLEST: Final = timedelta(microseconds=1)


class CronError(ValueError):
    """A cron line that cannot be used; the message names the field, what is wrong and what to write."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Upper-case names of the values, from `low` on."""

    @property
    def usage(self) -> str:
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.low} to {self.high}{names}"


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day-of-month", 1, 31),
    _Field("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    _Field("day-of-week", 0, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)
_LAYOUT: Final = " ".join(spec.name for spec in _FIELDS)

_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_EXTRAS: Final = (
    (re.compile(r"\?"), "'?' is not cron: write '*'"),
    (
        re.compile(r"#"),
        "'#' (the nth such day of a month) is not supported: write days, for instance 8-14, and let the job look",
    ),
    (re.compile(r"~"), "'~' (a random value) is not supported: write the value itself"),
    (re.compile(r"^[HR]($|\W)"), "'H' and 'R' (hashed and random values) are not supported: write the value itself"),
    (
        re.compile(r"^(L|LW|L-\d+|\d+L|[A-Z]{3}L)$"),
        "'L' (the last day) is not supported: write 28-31 and let the job look whether tomorrow is the 1st",
    ),
    (re.compile(r"^\d+W$"), "'W' (the nearest weekday) is not supported: write days, or MON-FRI as day-of-week"),
)
"""What other crons know and this one does not: tried on an item in upper case."""

_LONGEST_MONTHS: Final = {month: 29 if month == 2 else monthrange(2000, month)[1] for month in range(1, 13)}

_PREFIX: Final = re.compile(r"^(?:CRON_)?TZ=(?P<zone>\S*)(?P<rest>.*)$", re.IGNORECASE)
_ZONE_NAME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$")
_NOT_ZONES: Final = re.compile(r"^(posix|right)/|^(localtime|posixrules|Factory)$")
"""Found among the zone files of many machines, but they mean another thing on each, or count leap seconds."""


@dataclass(frozen=True, slots=True)
class Crontab:
    """When a schedule fires. Made by `Crontab.parse`; equal where text and zone are."""

    text: str
    """As it was written, with single spaces."""
    zone: ZoneInfo
    calendar: croniter = field(compare=False, repr=False)
    """Steps through naive local time. It keeps its place, so one `Crontab` is not for two threads at once."""
    by_clock: bool = field(compare=False)
    """What a jump of the zone's clock means: see the module's text."""

    @classmethod
    def parse(cls, text: str) -> Crontab:
        """The schedule of a cron line. Raises `CronError`, also for a line whose date never comes."""
        zone, line = _split(text)
        texts = _field_texts(line)
        minutes, hours, days, months, weekdays = map(_values, _FIELDS, texts)
        weekdays = frozenset(day % 7 for day in weekdays)
        either_day = not texts[2].startswith("*") and not texts[4].startswith("*")
        # Every day of the calendar, 29 February too, comes round on every day of the week, so only these two can clash.
        if not either_day and not any(day <= _LONGEST_MONTHS[month] for month in months for day in days):
            raise CronError(
                f"day-of-month: day {texts[2]} never comes in month {texts[3]}; write a day that the month has"
            )
        return cls(
            text=" ".join(text.split()),
            zone=zone,
            calendar=_calendar(minutes, hours, days, months, weekdays, either_day=either_day),
            by_clock=texts[0].startswith("*") or texts[1].startswith("*"),
        )

    def __str__(self) -> str:
        return self.text

    def next_after(self, instant: datetime) -> datetime:
        """The first tick after `instant` (aware, of any zone), never `instant` itself; aware, in UTC.

        Raises ValueError for a naive instant and for one outside `YEARS`.
        """
        moment = _in_utc(instant)
        wall = moment.astimezone(self.zone).replace(tzinfo=None, fold=0)
        following = _whole_minute(wall + _SMALLEST)
        before, behind = self._offsets(wall)
        if before == behind:
            return self._tick(following)

        # The clock shows this time twice: at `change` it goes back, from `end` to `start`.
        change = self._change(_instant(wall, before), _instant(wall, behind))
        start, end = _wall(change, behind), _wall(change, before)
        if not self.by_clock:
            return self._tick(following if moment < change else _whole_minute(end))
        if moment < change:
            shown = self._matching(following)
            if shown < end:
                return _instant(shown, before)
            following = _whole_minute(start)
        shown = self._matching(following)
        return _instant(shown, behind) if shown < end else self._tick(shown)

    def ticks_between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The ticks after `after` and up to and with `until`, oldest first, `limit` of them at most."""
        last = _in_utc(until)
        ticks: list[datetime] = []
        tick = _in_utc(after)
        while len(ticks) < limit and (tick := self.next_after(tick)) <= last:
            ticks.append(tick)
        return ticks

    def last_between(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick after `after` and up to and with `until`, if there is one. Quick however many there are."""
        limit = _in_utc(until)
        tick = self.next_after(after)
        if tick > limit:
            return None
        # Halve what lies between `tick` and `limit`: behind `limit`, as it moves, no tick is wanted or there is none.
        while self.next_after(tick) <= limit:
            middle = tick + (limit - tick) / 2
            found = self.next_after(middle)
            if found <= limit:
                tick = found
            else:
                limit = middle
        return tick

    def _tick(self, wall: datetime) -> datetime:
        """The tick of the first matching minute from `wall` on, where `wall` is in no second pass."""
        while True:
            wall = self._matching(wall)
            before, behind = self._offsets(wall)
            if before >= behind:
                return _instant(wall, before)
            jump = self._change(_instant(wall, behind), _instant(wall, before))
            if not self.by_clock:
                return jump
            wall = _whole_minute(_wall(jump, behind))

    def _matching(self, wall: datetime) -> datetime:
        """The first matching minute of the calendar from `wall` (a whole minute) on, whatever the zone makes of it."""
        self.calendar.set_current(wall - _MINUTE, force=True)
        found: datetime = self.calendar.get_next(datetime)
        return found

    def _offsets(self, wall: datetime) -> tuple[timedelta, timedelta]:
        """The zone's offsets from UTC before and behind the jump that `wall` is in.

        Equal: there is no jump, the clock shows `wall` once. First larger: `wall` is repeated. First smaller: skipped.
        """
        return _offset(wall.replace(tzinfo=self.zone, fold=0)), _offset(wall.replace(tzinfo=self.zone, fold=1))

    def _change(self, low: datetime, high: datetime) -> datetime:
        """The instant after `low`, up to `high`, from which the offset is not that of `low`: a whole second.

        The two are at most a day apart, and no zone of the tz database changes its offset twice within six days.
        """
        offset = _offset(low.astimezone(self.zone))
        low, high = low.replace(microsecond=0), high.replace(microsecond=0)
        while high - low > _SECOND:
            middle = low + (high - low) // _SECOND // 2 * _SECOND
            if _offset(middle.astimezone(self.zone)) == offset:
                low = middle
            else:
                high = middle
        return high


def _calendar(
    minutes: frozenset[int],
    hours: frozenset[int],
    days: frozenset[int],
    months: frozenset[int],
    weekdays: frozenset[int],
    *,
    either_day: bool,
) -> croniter:
    if either_day and (len(days) == 31 or len(weekdays) == 7):
        days, weekdays = frozenset(), frozenset()  # one of them has every day, so any day matches
    fields = ((minutes, 60), (hours, 24), (days, 31), (months, 12), (weekdays, 7))
    line = " ".join(
        "*" if len(values) in (0, every) else ",".join(map(str, sorted(values))) for values, every in fields
    )
    return croniter(line, datetime(2000, 1, 1), day_or=either_day)  # noqa: DTZ001 - local time


def _in_utc(instant: datetime) -> datetime:
    if instant.utcoffset() is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; pass an aware datetime")
    if instant.year not in YEARS:
        raise ValueError(f"{instant.isoformat()} is outside the years {YEARS.start} to {YEARS.stop - 1}")
    return instant.astimezone(UTC)


def _offset(local: datetime) -> timedelta:
    offset = local.utcoffset()
    assert offset is not None
    return offset


def _instant(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=UTC)


def _wall(instant: datetime, offset: timedelta) -> datetime:
    return instant.replace(tzinfo=None) + offset


def _whole_minute(wall: datetime) -> datetime:
    """`wall`, or the next whole minute."""
    minute = wall.replace(second=0, microsecond=0)
    return minute if minute == wall else minute + _MINUTE


def _split(text: str) -> tuple[ZoneInfo, str]:
    """The zone that a line names, and the rest of the line."""
    if len(text) > MAX_TEXT:
        raise CronError(f"the line has {len(text)} characters; write at most {MAX_TEXT}")
    if not all(character.isprintable() or character == "\t" for character in text):
        raise CronError(f"{text!r} holds a line break or an invisible character; write one line of plain text")
    line = text.strip()
    prefix = _PREFIX.match(line)
    if prefix is None:
        return ZoneInfo("UTC"), line
    return _zone(prefix["zone"]), prefix["rest"].strip()


def _zone(name: str) -> ZoneInfo:
    if _ZONE_NAME.match(name) and not _NOT_ZONES.match(name):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError, ValueError):
            pass  # a folder such as `America`, or a file that is no zone: as unknown as one that is not there
    known = {zone.casefold(): zone for zone in sorted(available_timezones()) if not _NOT_ZONES.match(zone)}
    cities = {folded.rpartition("/")[2]: zone for folded, zone in known.items()}
    wanted = name.casefold()
    matches = (
        [wanted]
        if wanted in known
        else difflib.get_close_matches(wanted, known, cutoff=0.7)
        + difflib.get_close_matches(wanted.rpartition("/")[2], cities, cutoff=0.7)
    )
    near = list(dict.fromkeys((known | cities)[match] for match in matches))[:3]
    advice = f"did you mean {' or '.join(near)}?" if near else "write a name of the tz database, such as Europe/Berlin"
    raise CronError(f"time zone: there is no {name!r}; {advice}")


def _field_texts(line: str) -> list[str]:
    """The five fields of a line, a nickname written out."""
    if line.startswith("@"):
        return _NICKNAMES[_nickname(line)].split()
    texts = line.split()
    if len(texts) == len(_FIELDS):
        return texts
    if len(texts) > len(_FIELDS) and re.match(r"[A-Za-z]+/[A-Za-z]", texts[0]):
        raise CronError(f"time zone: {texts[0]!r} is not a field; write TZ={texts[0]} in front")
    more = "; seconds and years are not supported" if len(texts) in (6, 7) else ""
    raise CronError(f"number of fields: the line has {len(texts)}{more}; write five: {_LAYOUT}")


def _nickname(line: str) -> str:
    name = line.lower()
    if name in _NICKNAMES:
        return name
    if name == "@reboot":
        raise CronError(
            "'@reboot' is not supported: a schedule belongs to the cluster, which does not start; write times"
        )
    raise CronError(f"there is no nickname {line!r}; write one of {' '.join(_NICKNAMES)} or five fields: {_LAYOUT}")


def _values(spec: _Field, text: str) -> frozenset[int]:
    items = text.split(",")
    if len(items) > MAX_ITEMS:
        raise CronError(f"{spec.name}: the list has {len(items)} items; write at most {MAX_ITEMS}")
    return frozenset(value for item in items for value in _item(spec, item))


def _item(spec: _Field, item: str) -> range:
    """The values of `*`, `5`, `MON`, `1-5`, `*/2` or `1-5/2`."""
    if not item:
        raise CronError(f"{spec.name}: an item of the list is empty; write a value on each side of a comma")
    for pattern, problem in _EXTRAS:
        if pattern.search(item.upper()):
            raise CronError(f"{spec.name}: {item!r}: {problem}")
    span, slash, step = item.partition("/")
    if span == "*":
        return range(spec.low, spec.high + 1, _step(spec, item, step) if slash else 1)
    first, dash, last = span.partition("-")
    low = _value(spec, item, first)
    if not dash:
        if slash:
            raise CronError(f"{spec.name}: {item!r} has a step but no range; write {first}-{spec.high}/{step}")
        return range(low, low + 1)
    high = _value(spec, item, last)
    if low > high:
        top = min(spec.high, spec.low + len(spec.names) - 1) if spec.names else spec.high
        raise CronError(f"{spec.name}: {item!r} runs backwards; write {low}-{top},{spec.low}-{high}")
    return range(low, high + 1, _step(spec, item, step) if slash else 1)


def _value(spec: _Field, item: str, text: str) -> int:
    name = text.upper()
    if name in spec.names:
        return spec.low + spec.names.index(name)
    if not re.fullmatch(r"[0-9]+", text):
        raise CronError(f"{spec.name}: {item!r}: {text!r} is not a value; write {spec.usage}")
    # Compared as text first: int() is slow on, and then refuses, very long numbers.
    digits = text.lstrip("0") or "0"
    if len(digits) > 2 or not spec.low <= int(digits) <= spec.high:
        raise CronError(f"{spec.name}: {item!r}: {text} is out of range; write {spec.usage}")
    return int(digits)


def _step(spec: _Field, item: str, text: str) -> int:
    digits = text.lstrip("0")
    if not re.fullmatch(r"[0-9]+", text) or not digits:
        raise CronError(f"{spec.name}: {item!r}: the step {text!r} is not a number from 1; write for instance */2")
    if len(digits) > 2 or int(digits) > spec.high:
        raise CronError(
            f"{spec.name}: {item!r}: a step of {digits} is past the field's end; write {spec.low} to match once"
        )
    return int(digits)
