"""slay-config.json as a whole, and the rules that join its parts."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from slayq_server.config.callbacks import CallbacksConfig
from slayq_server.config.cron import CronEntry
from slayq_server.config.problems import Loc
from slayq_server.config.process import (
    GRACE,
    DatabaseConfig,
    GrantsConfig,
    HttpConfig,
    RetentionConfig,
    WorkerConfig,
)
from slayq_server.config.queue import QueueConfig, QueueName
from slayq_server.config.rules import Text, shown, suggestion
from slayq_server.config.section import Section


class Config(Section):
    """All of slay-config.json. Durations are seconds."""

    queues: dict[QueueName, QueueConfig]
    """The queues that this server serves, by name; there must be one at least."""
    cron: tuple[CronEntry, ...] = ()
    """Schedules that the server keeps itself."""
    callbacks: CallbacksConfig = CallbacksConfig()
    """Where callbacks may go, and what they may bring back."""
    retention: RetentionConfig = RetentionConfig()
    """How long finished jobs and dead letters are kept."""
    http: HttpConfig = HttpConfig()
    """The server's own HTTP address: health, metrics, RPC."""
    database: DatabaseConfig = DatabaseConfig()
    """How Postgres is used."""
    grants: GrantsConfig = GrantsConfig()
    """Which database roles may call the SQL functions."""
    worker: WorkerConfig = WorkerConfig()
    """How this process holds the jobs it has leased."""
    grace: Annotated[float, GRACE] = 30.0
    """How long deliveries may still run once the server is told to stop; then their jobs are given back."""
    forbidden_flags: tuple[Annotated[str, Text("a flag", 128)], ...] = ()
    """Flags of jobs that this server leaves alone."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [(name, queue.alias) for name, queue in self.queues.items()]
        entries = [(entry.id, entry.queue) for entry in self.cron]
        found = list(contradictions(names, entries))
        if found:
            details = [
                InitErrorDetails(type=PydanticCustomError("refused", "{what}", {"what": what}), loc=loc, input=None)
                for loc, what in found
            ]
            raise ValidationError.from_exception_data("Config", details, hide_input=True)
        return self


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One pool of the configuration."""

    name: str
    names: tuple[str, ...]
    """The name, then its aliases: all share the pool's concurrency."""
    config: QueueConfig


def pools(config: Config) -> tuple[PoolSpec, ...]:
    """The pools in the order of the file."""
    return tuple(PoolSpec(name, (name, *queue.alias), queue) for name, queue in config.queues.items())


def contradictions(
    queues: Sequence[tuple[str, Sequence[str]]], entries: Sequence[tuple[str | None, str | None]]
) -> Iterator[tuple[Loc, str]]:
    """What is wrong between the parts of a file, and where.

    `queues` has each queue's name and aliases; `entries` id and queue of each schedule, None where there is no telling.
    """
    if not queues:
        yield ("queues",), 'names no queue, so nothing would run: add one, as in {"general": {"concurrency": 10}}'
    yield from _alias_clashes(queues)
    known = [name for queue, aliases in queues for name in (queue, *aliases)]
    seen: dict[str, int] = {}
    for index, (entry_id, queue) in enumerate(entries):
        if entry_id is not None and seen.setdefault(entry_id, index) != index:
            yield ("cron", index, "id"), f"{shown(entry_id)} is the id of cron[{seen[entry_id]}] already"
        if queue is not None and queue not in known:
            yield ("cron", index, "queue"), f"no queue and no alias is named {shown(queue)}{_or_add(queue, known)}"


def contradictions_in(document: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    """The same for a document of which some parts are wrong: from what can be made out."""
    queues, cron = document.get("queues"), document.get("cron")
    if not isinstance(queues, dict):
        return iter(())
    aliases = [_texts(queue.get("alias")) if isinstance(queue, dict) else [] for queue in queues.values()]
    entries = [entry if isinstance(entry, dict) else {} for entry in cron] if isinstance(cron, list) else []
    return contradictions(
        list(zip(queues, aliases, strict=True)),
        [(_text(entry.get("id")), _text(entry.get("queue"))) for entry in entries],
    )


def _alias_clashes(queues: Sequence[tuple[str, Sequence[str]]]) -> Iterator[tuple[Loc, str]]:
    names = {name for name, _ in queues}
    owners: dict[str, str] = {}
    for name, aliases in queues:
        for index, alias in enumerate(aliases):
            why = _clash(alias, name, names, owners)
            if why is not None:
                yield ("queues", name, "alias", index), why
            owners.setdefault(alias, name)


def _clash(alias: str, name: str, names: Container[str], owners: Mapping[str, str]) -> str | None:
    """Why `alias` cannot be one of the queue `name`; `owners` has the aliases before it, with their queues."""
    if alias == name:
        return f"{shown(alias)} is the name of the queue itself: take the alias out"
    if alias in names:
        return f"{shown(alias)} is a queue of its own, so it cannot be an alias of {shown(name)}"
    owner = owners.get(alias)
    if owner == name:
        return f"{shown(alias)} stands twice among the aliases of {shown(name)}: take one out"
    if owner is not None:
        return f"{shown(alias)} is an alias of {shown(owner)} already, so it cannot be one of {shown(name)}"
    return None


def _or_add(queue: str, known: Iterable[str]) -> str:
    return suggestion(queue, known) or ": add it to queues, or name one that is there"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
