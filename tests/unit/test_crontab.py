"""Cron lines: what they mean, when they fire on the days the clock jumps, and what is said of a bad one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from slayq_server.engine.crontab import MAX_TEXT, YEARS, CronError, Crontab


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local_ticks(zone: str, line: str, first_day: str, last_day: str) -> list[str]:
    """All ticks of the local days, as the zone's clock shows them (`day hour:minute offset`)."""
    info = ZoneInfo(zone)
    start = datetime.fromisoformat(first_day).replace(tzinfo=info)
    end = (datetime.fromisoformat(last_day) + timedelta(days=1)).replace(tzinfo=info)
    instant = timedelta(microseconds=1)
    ticks = Crontab.parse(f"TZ={zone} {line}").ticks_between(start - instant, end.astimezone(UTC) - instant, 1000)
    return [tick.astimezone(info).strftime("%d %H:%M %z") for tick in ticks]


def next_ticks(line: str, after: str, number: int = 1) -> list[str]:
    ticks = Crontab.parse(line).ticks_between(utc(after), utc("9000-01-01"), number)
    return [tick.strftime("%Y-%m-%d %H:%M") for tick in ticks]


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("* * * * *", "2026-01-01T00:00", ["2026-01-01 00:01", "2026-01-01 00:02"]),
        ("* * * * *", "2026-12-31T23:59:59.999999", ["2027-01-01 00:00", "2027-01-01 00:01"]),
        ("*/25 * * * *", "2026-01-01T00:00", ["2026-01-01 00:25", "2026-01-01 00:50", "2026-01-01 01:00"]),
        ("5-20/7 9-10 * * *", "2026-01-01T09:06", ["2026-01-01 09:12", "2026-01-01 09:19", "2026-01-01 10:05"]),
        ("0,30,10-12 4 * * *", "2026-01-01T04:00", ["2026-01-01 04:10", "2026-01-01 04:11", "2026-01-01 04:12"]),
        ("0 0 31 * *", "2026-01-31T00:00", ["2026-03-31 00:00", "2026-05-31 00:00", "2026-07-31 00:00"]),
        ("0 12 * feb,Nov *", "2026-02-28T12:00", ["2026-11-01 12:00"]),
        ("0 9 * * mon-FRI", "2026-01-01T09:00", ["2026-01-02 09:00", "2026-01-05 09:00"]),
        ("0 9 * * 7", "2026-01-01T00:00", ["2026-01-04 09:00", "2026-01-11 09:00"]),
        ("0 9 * * Sun", "2026-01-01T00:00", ["2026-01-04 09:00", "2026-01-11 09:00"]),
        ("0 9 * * 5-7", "2026-01-01T00:00", ["2026-01-02 09:00", "2026-01-03 09:00", "2026-01-04 09:00"]),
        ("0 9 * * 0-7/3", "2026-01-01T00:00", ["2026-01-03 09:00", "2026-01-04 09:00", "2026-01-07 09:00"]),
        ("  0\t9  *  * *  ", "2026-01-01T00:00", ["2026-01-01 09:00"]),
        ("0 0-0 * * *", "2026-01-01T00:00", ["2026-01-02 00:00"]),
        ("00 09 01 01 *", "2026-01-01T09:00", ["2027-01-01 09:00"]),
        ("@hourly", "2026-01-01T00:00", ["2026-01-01 01:00"]),
        ("@daily", "2026-01-01T00:00", ["2026-01-02 00:00"]),
        ("@midnight", "2026-01-01T00:00", ["2026-01-02 00:00"]),
        ("@Weekly", "2026-01-01T00:00", ["2026-01-04 00:00"]),
        ("@monthly", "2026-01-01T00:00", ["2026-02-01 00:00"]),
        ("@yearly", "2026-01-01T00:00", ["2027-01-01 00:00"]),
        ("@ANNUALLY", "2026-01-01T00:00", ["2027-01-01 00:00"]),
        ("TZ=Asia/Singapore 0 3 * * *", "2026-01-01T00:00", ["2026-01-01 19:00"]),
        ("CRON_TZ=Asia/Kolkata @daily", "2026-01-01T00:00", ["2026-01-01 18:30"]),
        ("TZ=Etc/GMT+3 0 0 * * *", "2026-01-01T00:00", ["2026-01-01 03:00"]),
    ],
)
def test_syntax(line: str, after: str, expected: list[str]) -> None:
    """Values, names, ranges, steps, lists, nicknames and zones mean what they mean in Debian's cron."""
    assert expected == next_ticks(line, after, len(expected))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0 13 * FRI", ["2026-02-06", "2026-02-13", "2026-02-20", "2026-02-27", "2026-03-06", "2026-03-13"]),
        ("0 0 13 * *", ["2026-02-13", "2026-03-13"]),
        ("0 0 * * FRI", ["2026-02-06", "2026-02-13"]),
        ("0 0 */13 * FRI", ["2026-02-27", "2026-03-27", "2026-05-01"]),
        ("0 0 13 * */5", ["2026-02-13", "2026-03-13", "2026-09-13"]),
        ("0 0 1-31 * FRI", ["2026-02-02", "2026-02-03"]),
        ("0 0 30 2 MON", ["2026-02-02", "2026-02-09", "2026-02-16", "2026-02-23", "2027-02-01"]),
    ],
)
def test_days(line: str, expected: list[str]) -> None:
    """Two restricted day fields: a day in either matches. With one that begins with `*`: a day must be in both."""
    assert [f"{day} 00:00" for day in expected] == next_ticks(line, "2026-02-01", len(expected))


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 2 *", "2096-02-29", ["2104-02-29 00:00", "2108-02-29 00:00"]),
        ("0 0 29 2 */7", "2088-02-29", ["2128-02-29 00:00", "2156-02-29 00:00"]),
        ("TZ=Pacific/Auckland 0 0 29 2 *", "2096-02-28T11:00", ["2104-02-28 11:00"]),
    ],
)
def test_leap_days(line: str, after: str, expected: list[str]) -> None:
    """29 February is found over the eight years around 2100, and forty years away where it must be a Sunday."""
    assert expected == next_ticks(line, after, len(expected))


JUMPS: dict[str, list[tuple[str, str, str, list[str]]]] = {
    # A skipped hour: 2026-03-08, 02:00 is 03:00.
    "America/New_York": [
        ("30 2 * * *", "2026-03-07", "2026-03-09", ["07 02:30 -0500", "08 03:00 -0400", "09 02:30 -0400"]),
        ("0,30 2 * * *", "2026-03-08", "2026-03-08", ["08 03:00 -0400"]),
        ("0,30 2,3 * * *", "2026-03-08", "2026-03-08", ["08 03:00 -0400", "08 03:30 -0400"]),
        ("0-59/15 2 * * *", "2026-03-08", "2026-03-08", ["08 03:00 -0400"]),
        ("*/15 2 * * *", "2026-03-08", "2026-03-08", []),
        ("*/30 1-3 * * *", "2026-03-08", "2026-03-08",
         ["08 01:00 -0500", "08 01:30 -0500", "08 03:00 -0400", "08 03:30 -0400"]),
        ("0 */2 * * *", "2026-03-08", "2026-03-08",
         ["08 00:00 -0500", *(f"08 {hour:02}:00 -0400" for hour in range(4, 24, 2))]),
        ("@hourly", "2026-03-08", "2026-03-08",
         ["08 00:00 -0500", "08 01:00 -0500", *(f"08 {hour:02}:00 -0400" for hour in range(3, 24))]),
        ("30 2 * * SUN", "2026-03-07", "2026-03-09", ["08 03:00 -0400"]),
        ("30 2 * * MON", "2026-03-07", "2026-03-09", ["09 02:30 -0400"]),
        ("30 2 8 3 *", "2026-03-01", "2026-03-31", ["08 03:00 -0400"]),
        ("59 1 * * *", "2026-03-08", "2026-03-08", ["08 01:59 -0500"]),
        # A repeated hour: 2026-11-01, 02:00 is 01:00.
        ("30 1 * * *", "2026-10-31", "2026-11-02", ["31 01:30 -0400", "01 01:30 -0400", "02 01:30 -0500"]),
        ("0 1,2 * * *", "2026-11-01", "2026-11-01", ["01 01:00 -0400", "01 02:00 -0500"]),
        ("*/30 1 * * *", "2026-11-01", "2026-11-01",
         ["01 01:00 -0400", "01 01:30 -0400", "01 01:00 -0500", "01 01:30 -0500"]),
        ("15 * * * *", "2026-11-01", "2026-11-01",
         ["01 00:15 -0400", "01 01:15 -0400", *(f"01 {hour:02}:15 -0500" for hour in range(1, 24))]),
        ("0 */2 * * *", "2026-11-01", "2026-11-01",
         ["01 00:00 -0400", *(f"01 {hour:02}:00 -0500" for hour in range(2, 24, 2))]),
        ("*/30 1 * 12 *", "2026-11-01", "2026-12-01", ["01 01:00 -0500", "01 01:30 -0500"]),
    ],
    # London: 2026-03-29, 01:00 is 02:00; 2026-10-25, 02:00 is 01:00.
    "Europe/London": [
        ("30 1 * * *", "2026-03-28", "2026-03-30", ["28 01:30 +0000", "29 02:00 +0100", "30 01:30 +0100"]),
        ("30 1 * * *", "2026-10-24", "2026-10-26", ["24 01:30 +0100", "25 01:30 +0100", "26 01:30 +0000"]),
        ("30 * 25 10 *", "2026-10-25", "2026-10-25",
         ["25 00:30 +0100", "25 01:30 +0100", *(f"25 {hour:02}:30 +0000" for hour in range(1, 24))]),
    ],
    # Dublin: winter time is the one that is saved; the clock does the same.
    "Europe/Dublin": [
        ("30 1 * * *", "2026-03-28", "2026-03-30", ["28 01:30 +0000", "29 02:00 +0100", "30 01:30 +0100"]),
        ("30 1 * * *", "2026-10-24", "2026-10-26", ["24 01:30 +0100", "25 01:30 +0100", "26 01:30 +0000"]),
    ],
    # Lord Howe moves by half an hour: 2026-10-04, 02:00 is 02:30; 2026-04-05, 02:00 is 01:30.
    "Australia/Lord_Howe": [
        ("15 2 * * *", "2026-10-03", "2026-10-05", ["03 02:15 +1030", "04 02:30 +1100", "05 02:15 +1100"]),
        ("45 2 * * *", "2026-10-04", "2026-10-04", ["04 02:45 +1100"]),
        ("0 * 4 10 *", "2026-10-04", "2026-10-04",
         ["04 00:00 +1030", "04 01:00 +1030", *(f"04 {hour:02}:00 +1100" for hour in range(3, 24))]),
        ("45 1 * * *", "2026-04-04", "2026-04-06", ["04 01:45 +1100", "05 01:45 +1100", "06 01:45 +1030"]),
        ("15 1 * * *", "2026-04-05", "2026-04-05", ["05 01:15 +1100"]),
        ("*/15 1 * * *", "2026-04-05", "2026-04-05",
         ["05 01:00 +1100", "05 01:15 +1100", "05 01:30 +1100", "05 01:45 +1100", "05 01:30 +1030", "05 01:45 +1030"]),
    ],
    # Sao Paulo has had one offset since 2019; before, midnight was skipped, and the hour before it repeated.
    "America/Sao_Paulo": [
        ("30 0 * * *", "2026-11-01", "2026-11-03", ["01 00:30 -0300", "02 00:30 -0300", "03 00:30 -0300"]),
        ("30 23 * * *", "2026-02-21", "2026-02-22", ["21 23:30 -0300", "22 23:30 -0300"]),
        ("@daily", "2018-11-03", "2018-11-05", ["03 00:00 -0300", "04 01:00 -0200", "05 00:00 -0200"]),
        ("30 23 * * *", "2018-02-16", "2018-02-18", ["16 23:30 -0200", "17 23:30 -0200", "18 23:30 -0300"]),
        ("@daily", "2018-02-17", "2018-02-19", ["17 00:00 -0200", "18 00:00 -0300", "19 00:00 -0300"]),
    ],
    # Havana: 2026-03-08, 00:00 is 01:00; 2026-11-01, 01:00 is 00:00.
    "America/Havana": [
        ("@daily", "2026-03-07", "2026-03-09", ["07 00:00 -0500", "08 01:00 -0400", "09 00:00 -0400"]),
        ("30 0 * * SUN", "2026-03-07", "2026-03-15", ["08 01:00 -0400", "15 00:30 -0400"]),
        ("@daily", "2026-10-31", "2026-11-02", ["31 00:00 -0400", "01 00:00 -0400", "02 00:00 -0500"]),
        ("30 0 * * *", "2026-10-31", "2026-11-02", ["31 00:30 -0400", "01 00:30 -0400", "02 00:30 -0500"]),
        ("0 */12 * * *", "2026-11-01", "2026-11-01", ["01 00:00 -0400", "01 00:00 -0500", "01 12:00 -0500"]),
    ],
    # Beirut: 2026-03-29, 00:00 is 01:00; 2026-10-25, 00:00 is 23:00 of the day before.
    "Asia/Beirut": [
        ("15,45 0 * * *", "2026-03-29", "2026-03-29", ["29 01:00 +0300"]),
        ("0 0,23 * * *", "2026-10-24", "2026-10-25",
         ["24 00:00 +0300", "24 23:00 +0300", "25 00:00 +0200", "25 23:00 +0200"]),
    ],
    # Standard time changed: Pyongyang 2015-08-15 by -30 min at 00:00, and 2018-05-04 by +30 min at 23:30.
    "Asia/Pyongyang": [
        ("45 23 * * *", "2015-08-13", "2015-08-15", ["13 23:45 +0900", "14 23:45 +0900", "15 23:45 +0830"]),
        ("45 23 * * *", "2018-05-03", "2018-05-05", ["03 23:45 +0830", "05 00:00 +0900", "05 23:45 +0900"]),
        ("45 23 * * FRI", "2018-05-01", "2018-05-08", ["05 00:00 +0900"]),
        ("45 * 4 5 *", "2018-05-04", "2018-05-05", [f"04 {hour:02}:45 +0830" for hour in range(23)]),
    ],
    # A whole day skipped: Apia had no 2011-12-30. A fixed line's tick of that day is at the jump.
    "Pacific/Apia": [
        ("0 9 * * *", "2011-12-29", "2012-01-01",
         ["29 09:00 -1000", "31 00:00 +1400", "31 09:00 +1400", "01 09:00 +1400"]),
        ("0 9,17 30 12 *", "2011-12-01", "2012-01-31", ["31 00:00 +1400"]),
        ("@daily", "2011-12-29", "2012-01-01", ["29 00:00 -1000", "31 00:00 +1400", "01 00:00 +1400"]),
        ("0 */8 * * *", "2011-12-29", "2011-12-31",
         [*(f"29 {hour:02}:00 -1000" for hour in (0, 8, 16)), *(f"31 {hour:02}:00 +1400" for hour in (0, 8, 16))]),
    ],
    # Two hours at once, and an offset in seconds: Monrovia's 1972-01-07 00:00:00 was 00:44:30.
    "Antarctica/Troll": [
        ("30 1,2 * * *", "2026-03-29", "2026-03-29", ["29 03:00 +0200"]),
        ("30 1,2 * * *", "2026-10-25", "2026-10-25", ["25 01:30 +0200", "25 02:30 +0200"]),
    ],
    "Africa/Monrovia": [
        ("*/15 0,1 7 1 *", "1972-01-06", "1972-01-07",
         ["07 00:45 +0000", *(f"07 01:{minute:02} +0000" for minute in (0, 15, 30, 45))]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "line", "first_day", "last_day", "expected"),
    [(zone, *case) for zone, cases in JUMPS.items() for case in cases],
)
def test_daylight_saving(zone: str, line: str, first_day: str, last_day: str, expected: list[str]) -> None:
    """On days the clock jumps: fixed lines fire once (skipped: at the jump; repeated: first), others by the clock."""
    assert expected == local_ticks(zone, line, first_day, last_day)


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("30 1 * * *", "2026-11-01T05:29:59", "2026-11-01T05:30"),
        ("30 1 * * *", "2026-11-01T05:30", "2026-11-02T06:30"),
        ("30 1 * * *", "2026-11-01T06:00", "2026-11-02T06:30"),
        ("30 1 * * *", "2026-11-01T06:10", "2026-11-02T06:30"),
        ("30 1 * * *", "2026-11-01T06:59:59", "2026-11-02T06:30"),
        ("0 2 * * *", "2026-11-01T06:59:59", "2026-11-01T07:00"),
        ("0 2 * * *", "2026-11-01T06:30:00.5", "2026-11-01T07:00"),
        ("*/30 1-2 * * *", "2026-11-01T05:30:00.5", "2026-11-01T06:00"),
        ("*/30 1-2 * * *", "2026-11-01T06:30:00.5", "2026-11-01T07:00"),
        ("*/30 1 * * *", "2026-11-01T05:30", "2026-11-01T06:00"),
        ("*/30 1 * * *", "2026-11-01T06:00", "2026-11-01T06:30"),
        ("*/30 1 * * *", "2026-11-01T06:30", "2026-11-02T06:00"),
        ("*/30 1 1 7 *", "2026-11-01T06:10", "2027-07-01T05:00"),
        ("30 2 * * *", "2026-03-08T06:59:59.999999", "2026-03-08T07:00"),
        ("30 2 * * *", "2026-03-08T07:00", "2026-03-09T06:30"),
    ],
)
def test_from_within_a_jump(line: str, after: str, expected: str) -> None:
    """In New York, from instants before, in and behind both passes of the repeated hour, and at the skipped one."""
    assert utc(expected) == Crontab.parse(f"TZ=America/New_York {line}").next_after(utc(after))


def test_skipped_time_with_odd_seconds() -> None:
    """A fixed line that is skipped fires at the very second of the jump, where that is no whole minute."""
    tick = Crontab.parse("TZ=Africa/Monrovia 30 0 7 1 *").next_after(utc("1972-01-06"))
    assert utc("1972-01-07T00:44:30") == tick


@pytest.mark.parametrize(
    ("line", "by_clock"),
    [
        ("* * * * *", True),
        ("*/5 2 * * *", True),
        ("5 */2 * * *", True),
        ("*,5 2 * * *", True),
        ("@hourly", True),
        ("5 2 * * *", False),
        ("5 0-23 * * *", False),
        ("0-59 2 * * *", False),
        ("5,* 2 * * *", False),
        ("5 2 */2 */3 */4", False),
        ("@daily", False),
    ],
)
def test_wildcard(line: str, by_clock: bool) -> None:
    """A line goes by the clock where its minute or hour field begins with `*`, as in Debian's cron."""
    assert by_clock == Crontab.parse(line).by_clock


BAD = [
    ("61 * * * *", "minute: '61': 61 is out of range; write 0 to 59"),
    ("* 24 * * *", "hour: '24': 24 is out of range; write 0 to 23"),
    ("* * 0 * *", "day-of-month: '0': 0 is out of range; write 1 to 31"),
    ("* * * 13 *", "month: '13': 13 is out of range; write 1 to 12 or JAN to DEC"),
    ("* * * * 8", "day-of-week: '8': 8 is out of range; write 0 to 7 or SUN to SAT"),
    ("* * * * MONDAY", "day-of-week: 'MONDAY': 'MONDAY' is not a value; write 0 to 7 or SUN to SAT"),
    ("MON * * * *", "minute: 'MON': 'MON' is not a value; write 0 to 59"),
    ("-1 * * * *", "minute: '-1': '' is not a value; write 0 to 59"),
    ("1- * * * *", "minute: '1-': '' is not a value"),
    ("1-2-3 * * * *", "minute: '1-2-3': '2-3' is not a value"),
    ("*5 * * * *", "minute: '*5': '*5' is not a value"),
    ("+5 * * * *", "minute: '+5': '+5' is not a value"),
    ("1.5 * * * *", "minute: '1.5': '1.5' is not a value"),
    ("٣ * * * *", "minute: '٣': '٣' is not a value"),
    ("²  * * * *", "minute: '²': '²' is not a value"),
    (f"{'9' * 200} * * * *", "is out of range; write 0 to 59"),
    ("1,,2 * * * *", "minute: an item of the list is empty; write a value on each side of a comma"),
    (f"{','.join(['1'] * 65)} * * * *", "minute: the list has 65 items; write at most 64"),
    ("5/15 * * * *", "minute: '5/15' has a step but no range; write 5-59/15"),
    ("*/0 * * * *", "minute: '*/0': the step '0' is not a number from 1; write for instance */2"),
    ("*/ * * * *", "minute: '*/': the step '' is not a number from 1"),
    ("*/-2 * * * *", "minute: '*/-2': the step '-2' is not a number from 1"),
    ("*/2/3 * * * *", "minute: '*/2/3': the step '2/3' is not a number from 1"),
    ("*/90 * * * *", "minute: '*/90': a step of 90 is past the field's end; write 0 to match once"),
    ("* 22-4 * * *", "hour: '22-4' runs backwards; write 22-23,0-4"),
    ("* * * NOV-FEB *", "month: 'NOV-FEB' runs backwards; write 11-12,1-2"),
    ("* * * * SAT-SUN", "day-of-week: 'SAT-SUN' runs backwards; write 6-6,0-0"),
    ("* * * *", "number of fields: the line has 4; write five: minute hour day-of-month month day-of-week"),
    ("", "number of fields: the line has 0; write five"),
    ("0 0 3 * * *", "number of fields: the line has 6; seconds and years are not supported; write five"),
    ("0 0 3 * * * 2027", "number of fields: the line has 7; seconds and years are not supported; write five"),
    ("Asia/Singapore 0 3 * * *", "time zone: 'Asia/Singapore' is not a field; write TZ=Asia/Singapore in front"),
    ("@reboot", "'@reboot' is not supported: a schedule belongs to the cluster, which does not start; write times"),
    ("@every 5m", "there is no nickname '@every 5m'; write one of @yearly"),
    ("* * L * *", "day-of-month: 'L': 'L' (the last day) is not supported: write 28-31"),
    ("* * L-3 * *", "day-of-month: 'L-3': 'L' (the last day) is not supported"),
    ("* * 15W * *", "day-of-month: '15W': 'W' (the nearest weekday) is not supported"),
    ("* * LW * *", "day-of-month: 'LW': 'L' (the last day) is not supported"),
    ("* * * * 5L", "day-of-week: '5L': 'L' (the last day) is not supported"),
    ("* * * * friL", "day-of-week: 'friL': 'L' (the last day) is not supported"),
    ("* * * * MON#2", "day-of-week: 'MON#2': '#' (the nth such day of a month) is not supported"),
    ("* * ? * *", "day-of-month: '?': '?' is not cron: write '*'"),
    ("H/5 * * * *", "minute: 'H/5': 'H' and 'R' (hashed and random values) are not supported"),
    ("h(0-9) * * * *", "minute: 'h(0-9)': 'H' and 'R' (hashed and random values) are not supported"),
    ("R * * * *", "minute: 'R': 'H' and 'R' (hashed and random values) are not supported"),
    ("0~9 * * * *", "minute: '0~9': '~' (a random value) is not supported"),
    ("0 0 30 2 *", "day-of-month: day 30 never comes in month 2; write a day that the month has"),
    ("0 0 31 2,4 *", "day-of-month: day 31 never comes in month 2,4"),
    ("0 0 30 2 */2", "day-of-month: day 30 never comes in month 2"),
    ("TZ=america/new_york @daily", "time zone: there is no 'america/new_york'; did you mean America/New_York?"),
    ("TZ=NewYork @daily", "time zone: there is no 'NewYork'; did you mean America/New_York?"),
    ("TZ=Europe/Belin @daily", "time zone: there is no 'Europe/Belin'; did you mean Europe/Berlin or "),
    ("TZ=PST @daily", "time zone: there is no 'PST'; write a name of the tz database, such as Europe/Berlin"),
    ("TZ= @daily", "time zone: there is no ''; write a name"),
    ("TZ=America @daily", "time zone: there is no 'America'; did you mean "),
    ("TZ=../Europe/Berlin @daily", "time zone: there is no '../Europe/Berlin'"),
    ("TZ=/etc/passwd @daily", "time zone: there is no '/etc/passwd'"),
    ("TZ=right/UTC @daily", "time zone: there is no 'right/UTC'"),
    ("TZ=localtime @daily", "time zone: there is no 'localtime'"),
    ("TZ=UTC", "number of fields: the line has 0; write five"),
    ("*" * (MAX_TEXT + 1), "the line has 257 characters; write at most 256"),
    ("0\n0 * * *", "holds a line break or an invisible character; write one line of plain text"),
    ("0\u00a00 * * *", "holds a line break or an invisible character"),
    ("0 0 * * \0", "holds a line break or an invisible character"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=lambda value: repr(value)[:40])
def test_bad_lines(line: str, message: str) -> None:
    """A bad line is refused in words that name the field, what is wrong and what to write."""
    with pytest.raises(CronError) as refused:
        Crontab.parse(line)
    assert message in str(refused.value)


def test_longest_list() -> None:
    """All sixty minutes may be written out."""
    line = f"{','.join(map(str, range(60)))} 1 * * *"
    ticks = Crontab.parse(line).ticks_between(utc("2026-01-01T00:59"), utc("2026-01-02T00:00"), 100)
    assert list(range(60)) == [tick.minute for tick in ticks]


def test_instants() -> None:
    """Instants of any zone are taken, and ticks are aware, in UTC."""
    after = datetime(2026, 1, 1, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    tick = Crontab.parse("30 * * * *").next_after(after)
    assert (utc("2026-01-01T06:30"), UTC) == (tick, tick.tzinfo)


def test_naive_instants() -> None:
    """An instant without a zone is refused."""
    crontab = Crontab.parse("@daily")
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="has no time zone; pass an aware datetime"):
        crontab.next_after(naive)
    with pytest.raises(ValueError, match="has no time zone; pass an aware datetime"):
        crontab.ticks_between(utc("2026-01-01"), naive, 1)


@pytest.mark.parametrize("instant", [datetime.max, datetime.min, datetime(YEARS.start - 1, 12, 31)])  # noqa: DTZ001, DTZ901
def test_ends_of_the_calendar(instant: datetime) -> None:
    """Instants outside the supported years are refused, not run into."""
    with pytest.raises(ValueError, match="is outside the years 1900 to 9899"):
        Crontab.parse("@daily").next_after(instant.replace(tzinfo=UTC))


def test_ticks_between() -> None:
    """The ticks after the first instant, up to and with the second, no more than the limit, the oldest first."""
    crontab = Crontab.parse("0 * * * *")
    hours = [utc(f"2026-01-01T{hour:02}:00") for hour in range(4)]
    assert hours[1:] == crontab.ticks_between(hours[0], hours[3], 10)
    assert hours[1:3] == crontab.ticks_between(hours[0], hours[3], 2)
    assert crontab.ticks_between(hours[0], hours[3], 0) == []
    assert crontab.ticks_between(hours[0], hours[1] - timedelta(microseconds=1), 10) == []
    assert crontab.ticks_between(hours[3], hours[0], 10) == []


def test_last_between() -> None:
    """The last tick of a time away is found, also of years of minutes, and none where there was none."""
    minutes = Crontab.parse("* * * * *")
    assert utc("2026-01-01T00:00") == minutes.last_between(utc("1950-01-01"), utc("2026-01-01T00:00:59"))
    assert utc("2026-01-01T00:00") == minutes.last_between(utc("2025-12-31T23:59"), utc("2026-01-01T00:00"))
    assert minutes.last_between(utc("2026-01-01"), utc("2026-01-01T00:00:59")) is None
    assert minutes.last_between(utc("2026-01-02"), utc("2026-01-01")) is None


def test_text() -> None:
    """A schedule prints as it was written, and is equal to one of the same text."""
    assert str(Crontab.parse(" TZ=Asia/Tokyo  0 3 *\t* * ")) == "TZ=Asia/Tokyo 0 3 * * *"
    assert Crontab.parse("0 3 * * *") == Crontab.parse("0  3 * * *")
    assert Crontab.parse("0 3 * * *") != Crontab.parse("TZ=Asia/Tokyo 0 3 * * *")
