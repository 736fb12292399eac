"""What the configuration means for the engine: pools, schedules, the address guard, secrets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from slayq.errors import InvalidSecret
from slayq.signing import sign_v2
from slayq_server.config.cron import CRON_QUEUE, CRON_TIMEOUT
from slayq_server.engine.address_guard import AddressGuard
from slayq_server.engine.pools import Pool
from slayq_server.errors import ConfigurationError
from slayq_server.model import QueueFacts, ScheduleRow

if TYPE_CHECKING:
    from slayq_server.config import Config, CronEntry
    from slayq_server.settings import Settings

CRON_ID = "slayq:minute"


@dataclass(frozen=True, slots=True)
class Plan:
    """One configuration, in the engine's terms."""

    config: Config
    secrets: tuple[str, ...]
    """Newest first."""
    guard: AddressGuard
    schedules: tuple[ScheduleRow, ...]
    cron_url: str | None
    listen_url: str
    """With a password: never to be shown."""
    metrics_tokens: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, settings: Settings) -> Plan:
        """Derives the plan.

        Raises:
            ConfigurationError: something that only the whole shows to be wrong.
        """
        secrets = tuple(secret.get_secret_value() for secret in settings.secrets)
        try:
            sign_v2(secrets, "", 0, b"")
        except InvalidSecret as error:
            raise ConfigurationError(str(error)) from None
        cron_url = settings.cron_url
        origins = list(config.callbacks.allow)
        if cron_url is not None:
            origins.append(cron_url)
        return cls(
            config=config,
            secrets=secrets,
            guard=AddressGuard(allow=origins, deny=config.callbacks.deny),
            schedules=tuple(_schedules(config, cron_url)),
            cron_url=cron_url,
            listen_url=(config.database.listen_url or settings.database_url).get_secret_value(),
            metrics_tokens=tuple(token.get_secret_value() for token in config.http.tokens),
        )

    @property
    def poll_every(self) -> float | None:
        """Seconds between polls for ready jobs; None where something listens, and each renewal is the safety net."""
        database = self.config.database
        return None if database.listens else database.poll_interval

    def pools(self) -> list[Pool]:
        """A fresh pool for each queue."""
        made = [
            Pool(
                name=name,
                names=(name, *queue.alias),
                limit=queue.concurrency,
                timeout=queue.timeout,
                connect_timeout=queue.connect_timeout,
                backoff=queue.backoff,
                max_attempts=queue.max_attempts,
                strict=queue.strict,
                not_found_is_done=queue.not_found_is_done,
                cluster=queue.scope == "cluster",
            )
            for name, queue in self.config.queues.items()
        ]
        if self.cron_url is not None and not any(CRON_QUEUE in pool.names for pool in made):
            made.append(Pool(name=CRON_QUEUE, names=(CRON_QUEUE,), limit=1, timeout=CRON_TIMEOUT))
        return made

    def queue_facts(self) -> list[QueueFacts]:
        """What the SQL side must know, for each name of each queue."""
        paused = {name for name, queue in self.config.queues.items() if queue.paused}
        return [
            QueueFacts(
                name=name,
                max_attempts=pool.max_attempts,
                base=pool.backoff.base,
                factor=pool.backoff.factor,
                cap=pool.backoff.cap,
                max=pool.backoff.max,
                jitter=pool.backoff.jitter,
                paused=pool.name in paused,
            )
            for pool in self.pools()
            for name in pool.names
        ]

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → the name of its pool."""
        return {alias: pool.name for pool in self.pools() for alias in pool.names[1:]}


def _schedules(config: Config, cron_url: str | None) -> list[ScheduleRow]:
    """The rows as configured; their times are for the scheduler to set, by the database's clock."""
    now = datetime.now(UTC)
    rows = [_configured(entry, cron_url, now) for entry in config.cron]
    if cron_url is not None:
        rows.append(
            ScheduleRow(
                id=CRON_ID,
                cron="* * * * *",
                queue=CRON_QUEUE,
                event="cron",
                url=cron_url,
                data="{}",
                priority=0,
                max_attempts=None,
                job_key="cron",
                kind="tick",
                catch_up="last",
                catch_up_window=60.0,
                next_at=now,
                last_at=None,
                now=now,
            )
        )
    return rows


def _configured(entry: CronEntry, cron_url: str | None, now: datetime) -> ScheduleRow:
    url = entry.url or cron_url
    if url is None:
        raise ConfigurationError(f"cron.{entry.id}.url: set it, or SLAY_Q_CRON_URL for all schedules without one")
    return ScheduleRow(
        id=entry.id,
        cron=entry.cron,
        queue=entry.queue,
        event=entry.event,
        url=url,
        data=json.dumps(entry.data, ensure_ascii=False),
        priority=entry.priority,
        max_attempts=entry.max_attempts,
        job_key=entry.job_key,
        kind="config",
        catch_up=entry.catch_up,
        catch_up_window=entry.catch_up_window,
        next_at=now,
        last_at=None,
        now=now,
    )
