"""What the tests of runs share: an app that is registered, and a daemon that leases runs and flushes their journals."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slayq_server.db.statements import query
from slayq_server.db.store import lease_arguments
from slayq_server.model import LeaseRequest
from tests.sql.support import URL

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from tests.sql.support import Daemon

QUEUE = "general"
PLACED = "shop/placed"
PAID = "shop/paid"
CANCELLED = "shop/cancelled"
RENDER = "shop/render"


def manifest(*functions: dict[str, Any], app: str = "shop", url: str = URL) -> str:
    """The manifest of an app: without functions of the test's own, with one that waits, is cancelled and invokes."""
    default = (
        {
            "event": PLACED,
            "name": "fulfil",
            "retries": 2,
            "cancel_on": [{"event": CANCELLED, "match": "order"}],
            "waits_on": [{"event": PAID, "match": "order"}],
            "invokes": [RENDER],
        },
        {"event": RENDER, "name": "render"},
    )
    return json.dumps({"app": app, "url": url, "functions": functions or default})


async def register(
    connection: asyncpg.Connection, *functions: dict[str, Any], app: str = "shop", url: str = URL
) -> Any:
    """Registers an app; what it is told."""
    return json.loads(await connection.fetchval("select slayq.register($1)", manifest(*functions, app=app, url=url)))


async def send(connection: asyncpg.Connection, event: str, data: object = None, **options: Any) -> UUID | None:
    """Sends an event; the id of its run."""
    named = "".join(f", {name} => ${place}" for place, name in enumerate(options, 3))
    run: UUID | None = await connection.fetchval(
        f"select slayq.send($1, $2{named})", event, json.dumps({} if data is None else data), *options.values()
    )
    return run


@dataclass
class Segment:
    """A run that is leased, and what its app says in this segment."""

    id: int
    lease: int
    attempts: int
    max_attempts: int
    payload: str
    run: dict[str, Any]
    ops: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> dict[str, Any]:
        """The recorded steps by name, each by its state and what came of it."""
        return {
            step["name"]: step["state"] if "output" not in step else (step["state"], step["output"])
            for step in self.run["steps"]
        }

    def say(self, kind: str, name: str, value: object = None, **more: Any) -> Segment:
        """An op."""
        self.ops.append({"kind": kind, "name": name, "value": value, **more})
        return self

    def step(self, name: str, output: object = None) -> Segment:
        """A step that ran."""
        return self.say("step", name, output)

    def sleep(self, name: str, seconds: float = 3600.0) -> Segment:
        """A sleep."""
        return self.say("sleep", name, seconds=seconds)

    def wait(
        self, name: str, value: str = "7", event: str = PAID, key: str = "order", seconds: float | None = 3600.0
    ) -> Segment:
        """A wait for an event."""
        return self.say("wait", name, event=event, key=key, match=value, seconds=seconds)

    def invoke(self, name: str, data: object = None, event: str = RENDER, seconds: float | None = 3600.0) -> Segment:
        """An invocation of another function."""
        return self.say("invoke", name, {} if data is None else data, event=event, seconds=seconds)

    def ends(self, how: str, **more: Any) -> Segment:
        """How the segment ended."""
        self.end = {"how": how, **more}
        return self


class RunsDaemon:
    """A daemon's worker row, and what a daemon does with runs under it."""

    def __init__(self, daemon: Daemon, connection: asyncpg.Connection) -> None:
        self.daemon = daemon
        self.connection = connection

    async def lease(self, free: int = 1) -> list[Segment]:
        """Leases the next runs."""
        rows = await self.connection.fetch(
            query("lease"), *lease_arguments(self.daemon.worker_id, [LeaseRequest((QUEUE,), free)])
        )
        return [
            Segment(
                row["id"], row["lease"], row["attempts"], row["max_attempts"], row["payload"], json.loads(row["run"])
            )
            for row in rows
        ]

    async def lease_one(self) -> Segment:
        """Leases the one run that must be there."""
        (segment,) = await self.lease()
        return segment

    async def flush(self, *segments: Segment, keep_done: bool = False) -> list[asyncpg.Record]:
        """Writes what the segments say down; their rows in the order of the segments. What was said is forgotten."""
        ends = [segment.end for segment in segments]
        ops = [(place, op) for place, segment in enumerate(segments, 1) for op in segment.ops]
        rows = await self.connection.fetch(
            query("flush_runs"),
            self.daemon.worker_id,
            [segment.id for segment in segments],
            [segment.lease for segment in segments],
            [segment.run["seen"] for segment in segments],
            [end.get("how") for end in ends],
            [json.dumps(end.get("output")) for end in ends],
            [end.get("error") for end in ends],
            [end.get("delay") for end in ends],
            [end.get("reason") for end in ends],
            [place for place, _ in ops],
            [op["kind"] for _, op in ops],
            [op["name"] for _, op in ops],
            [op["value"] if isinstance(op["value"], Raw) else json.dumps(op["value"]) for _, op in ops],
            [op.get("event") for _, op in ops],
            [op.get("key") for _, op in ops],
            [op.get("match") for _, op in ops],
            [op.get("seconds") for _, op in ops],
            [op.get("until") for _, op in ops],
            [op.get("attempts") for _, op in ops],
            [op.get("final") for _, op in ops],
            keep_done,
            [],
        )
        for segment in segments:
            segment.ops = []
        by_id = {row["id"]: row for row in rows}
        return [by_id[segment.id] for segment in segments]

    async def ended(self, *segments: Segment) -> list[str]:
        """Flushes, and says just the verdicts."""
        return [row["verdict"] for row in await self.flush(*segments)]

    async def match(self, most: int = 100, after: int = 0) -> asyncpg.Record:
        """Hands events to those who wait."""
        row = await self.connection.fetchrow(query("match_events"), most, after)
        assert row is not None
        return row

    async def promote(self) -> asyncpg.Record:
        """Makes ready what is due."""
        row = await self.connection.fetchrow(query("promote"), 100)
        assert row is not None
        return row


async def leased(connection: asyncpg.Connection, runs: RunsDaemon) -> Segment:
    """A run of order 7 that is being delivered."""
    await send(connection, PLACED, {"order": 7})
    return await runs.lease_one()


class Raw(str):
    """JSON text that goes to Postgres as it is."""


async def make_steps_due(connection: asyncpg.Connection) -> None:
    """Lets the time of everything that is pending come, in place of waiting for it."""
    await connection.execute(
        "update slayq.step set due_at = now() - interval '1 ms' where state = 'pending' and due_at is not null"
    )
    await connection.execute("update slayq.job set run_at = now() - interval '1 ms' where state = 'scheduled'")
