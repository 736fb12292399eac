"""A schedule that the server keeps itself: when, and which job."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from slayq_server.config.addresses import http_url
from slayq_server.config.queue import DAY
from slayq_server.config.rules import Choice, JsonObject, Maybe, Refused, Seconds, Text, Whole, shown
from slayq_server.config.section import Event, QueueRef, Section
from slayq_server.engine.crontab import Crontab

CRON_QUEUE = "cron"
"""The queue of the v1 minute tick; made up with a concurrency of 1 where the configuration has none of that name."""
CRON_TIMEOUT = 60.0
_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,128}", re.ASCII)
_TICK_KEY = "cron"
_FUNCTION = "function:"
_ID_WANTED = 'an id of letters, digits and _ . : / - such as "nightly-report"'


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise Refused(f"must be {_ID_WANTED}, not {shown(text)}")
    if text.startswith(_FUNCTION):
        raise Refused(f'must not begin with "{_FUNCTION}": those are the schedules of functions, which apps register')
    return text


def _crontab(text: str) -> str:
    try:
        Crontab.parse(text)
    except ValueError as error:
        why = str(error)
    else:
        return text
    raise Refused(f"is no cron line: {why}")


def _job_key(text: str) -> str:
    if text == _TICK_KEY:
        raise Refused('must not be "cron": that is the key of the minute tick to SLAY_Q_CRON_URL')
    return text


HTTP_URL = Text('an http or https URL such as "https://app.example.com/slayq"', 2048, http_url)


class CronEntry(Section):
    """One schedule."""

    id: Annotated[str, Text(_ID_WANTED, 128, _id)]
    """What the schedule is known by: one with the same id goes on where it was, a new one starts now."""
    cron: Annotated[str, Text('a cron line such as "30 2 * * *" or "TZ=Europe/Paris 0 9 * * MON"', 256, _crontab)]
    """When: five fields, or a word such as @daily; UTC unless TZ=… comes first."""
    event: Event
    """The event that the callback names."""
    url: Annotated[str | None, Maybe(HTTP_URL)] = None
    """Where the callback goes; SLAY_Q_CRON_URL where it is not set."""
    queue: QueueRef
    """The queue (or an alias of one) that the job is put into."""
    data: Annotated[dict[str, Any], JsonObject()] = Field(default_factory=dict)
    """The callback's data: any JSON object."""
    priority: Annotated[int, Whole(-32_768, 32_767)] = 0
    """Lower runs first."""
    max_attempts: Annotated[int | None, Maybe(Whole(1, 32_767))] = None
    """How often the job is delivered before it becomes a dead letter; the queue's where it is not set."""
    job_key: Annotated[str | None, Maybe(Text("a job key of 1 to 512 characters", 512, _job_key))] = None
    """With it, a tick whose predecessor still waits replaces that one."""
    catch_up: Annotated[Literal["none", "last", "all"], Choice(("none", "last", "all"))] = "last"
    """Which of the ticks missed while no server ran are made up for: none, the last one, or all in the window."""
    catch_up_window: Annotated[float, Seconds(1, 31 * DAY)] = 3_600.0
    """How far back "all" goes."""
