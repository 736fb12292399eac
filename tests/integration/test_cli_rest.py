"""`slayq-server queues`, `workers`, `cron`, `migrate`, `check` and `healthcheck`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from slayq_server.config import json_schema
from slayq_server.db import migrate as migrations
from tests.support.endpoint import Endpoint, Reply

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg
    import pytest

    from tests.conftest import Connect
    from tests.support.cli import Cli
    from tests.support.daemon import Daemons

PAYLOAD = '{"url": "http://a.example", "event": "e"}'


async def register_worker(connection: asyncpg.Connection, name: str, seconds: int) -> int:
    """A worker row that is good for so many seconds from now (negative: it is dead)."""
    worker_id: int = await connection.fetchval(
        """insert into slayq.worker (name, version, queues, expires_at)
        values ($1, '1.0', '{mail,push}', now() + make_interval(secs => $2)) returning id""",
        name,
        seconds,
    )
    return worker_id


# queues and workers


async def test_queues_list(cli: Cli, connection: asyncpg.Connection) -> None:
    """Counts by state, dead letters, who serves a queue, and what nobody serves."""
    assert "No queue is known" in (await cli.ok("queues", "list")).stdout
    live = await register_worker(connection, "a", 60)
    await register_worker(connection, "b", -1)
    for queue in ("mail", "mail", "lost"):
        await connection.execute("select slayq.add_job($1, $2)", queue, PAYLOAD)
    await connection.execute("select slayq.add_job('mail', $1, run_at => now() + interval '1 hour')", PAYLOAD)
    await connection.execute("select slayq.permanently_fail_jobs(array[1::bigint])")
    document = await cli.json("queues", "list")
    mail = next(queue for queue in document["queues"] if queue["name"] == "mail")
    assert 0 <= mail.pop("oldest_ready_seconds") < 60
    assert {
        "name": "mail",
        "paused": False,
        "ready": 1,
        "scheduled": 1,
        "blocked": 0,
        "leased": 0,
        "dead": 1,
        "workers": [f"a#{live}"],
    } == mail
    assert ["lost", "mail", "push"] == [queue["name"] for queue in document["queues"]]
    lines = (await cli.ok("queues", "list")).stdout.splitlines()
    assert lines[1].startswith("lost")
    assert lines[1].endswith("nobody")


async def test_pause_and_resume(cli: Cli, connection: asyncpg.Connection) -> None:
    """The database knows at once; doing it twice is no error; an unknown queue exits 3."""
    await connection.execute("select slayq.add_job('mail', $1)", PAYLOAD)
    paused = "select paused from slayq.queue where name = 'mail'"
    document = await cli.json("queues", "pause", "mail")
    assert {"paused": True, "queues": ["mail"], "changed": ["mail"]} == document
    assert await connection.fetchval(paused)
    assert "Queue mail was paused already.\n" == (await cli.ok("queues", "pause", "mail")).stdout
    assert "Queue mail resumed.\n" == (await cli.ok("queues", "resume", "mail")).stdout
    assert not await connection.fetchval(paused)
    finished = await cli("queues", "pause", "mail", "mial")
    assert (3, "") == (finished.code, finished.stdout)
    assert "there is no queue mial" in finished.stderr
    assert not await connection.fetchval(paused)


async def test_a_paused_queue_is_not_delivered_until_it_is_resumed(
    cli: Cli, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """A running daemon leaves a paused queue alone, and goes on soon after it is resumed."""
    await daemons.start(queues={"mail": {"concurrency": 1}, "push": {"concurrency": 1}}, worker={"renew": 0.2})
    await cli.ok("queues", "pause", "mail")
    for queue, event in (("mail", "paused"), ("push", "served")):
        await cli.ok("send", event, "--queue", queue, "--url", endpoint.url)
    (first,) = await endpoint.wait_for_finished(1)
    assert "served" == first.event
    await cli.ok("queues", "resume", "mail")
    _, second = await endpoint.wait_for_finished(2)
    assert "paused" == second.event


async def test_daemons_are_told_of_a_pause_and_of_its_end(
    cli: Cli, connection: asyncpg.Connection, connect: Connect
) -> None:
    """Each time something changes, so that none waits for its next heartbeat."""
    await connection.execute("insert into slayq.queue (name) values ('mail')")
    await register_worker(connection, "a", 60)
    await connection.execute("update slayq.worker set wants = '{mail,@queues}'")
    heard: list[Any] = []
    listener = await connect()
    await listener.add_listener("slayq", lambda *message: heard.append(message[-1]))
    for command in ("resume", "pause", "pause", "resume"):
        await cli.ok("queues", command, "mail")
    await listener.execute("select")  # a round trip: what was sent before has come
    assert ["@queues", "@queues"] == heard


async def test_workers_list(cli: Cli, connection: asyncpg.Connection) -> None:
    """Live and dead ones, newest first, with what they hold."""
    assert "No daemon has used this database" in (await cli.ok("workers", "list")).stdout
    dead = await register_worker(connection, "a", -1)
    live = await register_worker(connection, "b", 60)
    await connection.execute("select slayq.add_job('mail', $1)", PAYLOAD)
    await connection.execute("update slayq.job set state = 'leased', worker_id = $1", live)
    rows = (await cli.json("workers", "list"))["workers"]
    assert [(live, True, 1, ["mail", "push"]), (dead, False, 0, ["mail", "push"])] == [
        (row["id"], row["live"], row["leased"], row["queues"]) for row in rows
    ]
    assert [live] == [row["id"] for row in (await cli.json("workers", "list", "--live"))["workers"]]
    assert "mail, push" in (await cli.ok("workers", "list")).stdout


# cron


async def add_schedule(connection: asyncpg.Connection, schedule_id: str, kind: str = "config") -> None:
    """A schedule that fires in an hour."""
    await connection.execute(
        """insert into slayq.schedule
        (id, cron, queue, event, url, data, priority, max_attempts, job_key, kind, next_at)
        values ($1, '0 * * * *', 'mail', 'report', 'http://a.example', '{"n": 1.0}', 3, 7, 'daily', $2,
        now() + interval '1 hour')""",
        schedule_id,
        kind,
    )


async def test_cron_list(cli: Cli, connection: asyncpg.Connection) -> None:
    """All schedules by id, with their ticks."""
    assert "No schedule is known" in (await cli.ok("cron", "list")).stdout
    await add_schedule(connection, "nightly")
    (schedule,) = (await cli.json("cron", "list"))["schedules"]
    assert ("nightly", "0 * * * *", "mail", "report", None) == tuple(
        schedule[name] for name in ("id", "cron", "queue", "event", "last_at")
    )
    assert (await cli.ok("cron", "list")).stdout.splitlines()[1].startswith("nightly  0 * * * *  mail")


async def test_cron_trigger(cli: Cli, connection: asyncpg.Connection) -> None:
    """The tick's job is added now, as the schedule says it, and the next tick stays; an unknown id exits 3."""
    await add_schedule(connection, "nightly")
    document = await cli.json("cron", "trigger", "nightly")
    job = await connection.fetchrow("select * from slayq.job")
    assert job is not None
    assert {"schedule": "nightly", "job_id": job["id"]} == document
    assert ("ready", "mail", "report", 3, 7, "daily") == tuple(
        job[name] for name in ("state", "queue", "event", "priority", "max_attempts", "job_key")
    )
    assert {"url": "http://a.example", "retry": 0, "event": "report", "data": {"n": 1.0}} == json.loads(job["payload"])
    assert '{"n": 1.0}' in job["payload"]
    assert await connection.fetchval("select next_at > now() + interval '59 minutes' from slayq.schedule")
    finished = await cli("cron", "trigger", "weekly")
    assert (3, "") == (finished.code, finished.stdout)


async def test_cron_of_functions(cli: Cli, connection: asyncpg.Connection) -> None:
    """Those that apps have registered: not planned yet, or with a line that cannot be read; triggered, they run."""
    functions = [{"event": "good", "cron": "0 3 * * *", "queue": "mail"}, {"event": "odd", "cron": "99 * * * *"}]
    manifest = {"app": "shop", "url": "http://a.example", "functions": functions}
    await connection.execute("select slayq.register($1)", json.dumps(manifest))
    good, odd = (await cli.json("cron", "list"))["schedules"]
    assert ("function:good", None, None) == (good["id"], good["next_at"], good["problem"])
    assert ("function:odd", None) == (odd["id"], odd["next_at"])
    assert odd["problem"]
    assert "never: " in (await cli.ok("cron", "list")).stdout
    document = await cli.json("cron", "trigger", "function:good")
    assert document["run"] == str(await connection.fetchval("select run_id from slayq.job where event = 'good'"))
    assert "Run " in (await cli.ok("cron", "trigger", "function:good")).stdout


async def test_cron_trigger_of_a_minute_tick_that_is_being_delivered(cli: Cli, connection: asyncpg.Connection) -> None:
    """Of the v1 tick there is never more than one: exit 1, and nothing is added."""
    await add_schedule(connection, "slayq:minute", kind="tick")
    await cli.ok("cron", "trigger", "slayq:minute")
    assert "cron" == await connection.fetchval("select job_key from slayq.job")
    worker_id = await register_worker(connection, "a", 60)
    await connection.execute("update slayq.job set state = 'leased', worker_id = $1", worker_id)
    finished = await cli("cron", "trigger", "slayq:minute")
    assert 1 == finished.code
    assert "is being delivered" in finished.stderr
    assert 1 == await connection.fetchval("select count(*) from slayq.job")


async def test_cron_next_needs_no_database(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks in UTC, after a given time, across a change of the zone's clock."""
    monkeypatch.delenv("SLAY_Q_DATABASE_URL")
    line = "TZ=Europe/London 30 1 * * *"
    document = await cli.json("cron", "next", line, "-n", "3", "--after", "2026-03-27T12:00:00Z")
    ticks = ["2026-03-28T01:30:00.000Z", "2026-03-29T01:00:00.000Z", "2026-03-30T00:30:00.000Z"]
    assert {"cron": line, "ticks": ticks} == document
    said = (await cli.ok("cron", "next", "0 0 29 2 *", "-n", "1", "--after", "2026-03-01T00:00:00Z")).stdout
    assert "2028-02-29T00:00:00Z\n" == said
    assert 5 == len((await cli.ok("cron", "next", "@hourly")).stdout.splitlines())


# migrate


async def test_migrate(cli: Cli, empty_database_url: str) -> None:
    """An empty database gets the schema; a second run has nothing to do."""
    names = [migration.name for migration in migrations.load()]
    document = await cli.json("migrate", "--database-url", empty_database_url)
    assert {"applied": names, "schema": len(names)} == document
    said = (await cli.ok("migrate", "--database-url", empty_database_url)).stdout
    assert f"The schema is at {len(names)} already.\n" == said


async def test_migrate_prints_sql(cli: Cli, empty_database_url: str, connect: Connect) -> None:
    """--sql touches no database; what it prints makes the same schema."""
    text = (await cli.ok("migrate", "--sql", "--app-role", "postgres")).stdout
    assert {"sql": text} == await cli.json("migrate", "--sql", "--app-role", "postgres")
    connection = await connect(empty_database_url)
    await connection.execute(text)
    assert {"applied": [], "schema": len(migrations.load())} == await cli.json(
        "migrate", "--database-url", empty_database_url
    )
    assert ("postgres", "app") == tuple(await connection.fetchrow("select * from slayq.grantee") or ())


async def test_migrate_grants_roles(cli: Cli, connection: asyncpg.Connection, tmp_path: Path) -> None:
    """Roles of the command line and of the configuration are granted; one that does not exist exits 78."""
    (tmp_path / "config.json").write_text(
        json.dumps({"queues": {"mail": {"concurrency": 1}}, "grants": {"roles": ["pg_monitor"]}})
    )
    await cli.ok("migrate", "config.json", "--server-role", "pg_read_all_stats")
    rows = await connection.fetch("select role_name, kind from slayq.grantee order by kind")
    assert [("pg_monitor", "app"), ("pg_read_all_stats", "server")] == [tuple(row) for row in rows]
    finished = await cli("migrate", "--app-role", "no such role")
    assert 78 == finished.code
    assert "there is no database role no such role" in finished.stderr


async def test_migrate_refuses_a_newer_schema(cli: Cli, connection: asyncpg.Connection) -> None:
    """A database that a later release has migrated exits 78."""
    await connection.execute(
        "insert into slayq.migration values (9999, '9999_later', 'x', 9999, '99.0')",
    )
    finished = await cli("migrate")
    assert 78 == finished.code
    assert "newer than this server" in finished.stderr


# check and healthcheck


async def test_check(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A good file: what it asks for; without a database or a secret."""
    monkeypatch.delenv("SLAY_Q_DATABASE_URL")
    (tmp_path / "good.json").write_text(
        json.dumps(
            {
                "queues": {"messaging": {"concurrency": 6, "alias": ["dispatch", "ready"]}},
                "cron": [{"id": "nightly", "cron": "@daily", "event": "e", "queue": "messaging"}],
            }
        )
    )
    assert {
        "config": "good.json",
        "ok": True,
        "problems": [],
        "queues": [{"name": "messaging", "alias": ["dispatch", "ready"], "concurrency": 6}],
        "cron": [{"id": "nightly", "cron": "@daily", "queue": "messaging"}],
    } == await cli.json("check", "good.json")
    said = (await cli.ok("check", "good.json")).stdout
    assert "good.json is good." in said
    assert "dispatch, ready" in said
    assert "nightly" in said


async def test_check_tells_all_problems(cli: Cli, tmp_path: Path) -> None:
    """One document with every problem, and exit 78."""
    (tmp_path / "bad.json").write_text('{"queues": {"a": {"concurrency": 0}, "b": {"concurency": 1}}}')
    finished = await cli("check", "bad.json", "--json")
    assert (78, False) == (finished.code, finished.json["ok"])
    problems = "\n".join(finished.json["problems"])
    assert "queues.a.concurrency" in problems
    assert "queues.b.concurency" in problems


async def test_check_prints_the_schema(cli: Cli) -> None:
    """The JSON Schema of the file, for editors."""
    assert json_schema() == (await cli.ok("check", "--schema")).json


async def test_healthcheck_of_a_daemon(cli: Cli, daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 0 for a healthy daemon: by URL, by the environment, by the configuration."""
    running = await daemons.start()
    assert f"{running.url}/healthz is healthy.\n" == (await cli.ok("healthcheck", "--url", running.url)).stdout
    config = daemons.write("port.json", http={"bind": "0.0.0.0", "port": running.port})
    assert "is healthy" in (await cli.ok("healthcheck", "--config", str(config))).stdout
    monkeypatch.setenv("SLAY_Q_HTTP_PORT", str(running.port))
    document = await cli.json("healthcheck")
    assert (True, 200, None, "ok") == (
        document["healthy"],
        document["status"],
        document["problem"],
        document["report"]["status"],
    )


async def test_healthcheck_of_what_is_not_healthy(cli: Cli, endpoint: Endpoint) -> None:
    """Any other answer exits 1 and says which check failed."""
    endpoint.handler = lambda _: Reply(503, json.dumps({"checks": {"database": False, "schema": True}}))
    finished = await cli("healthcheck", "--url", f"{endpoint.origin}/healthz", "--json")
    assert (1, 503) == (finished.code, finished.json["status"])
    assert "it answers 503 (not so: database)" in finished.stderr


async def test_healthcheck_of_nobody(cli: Cli, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens: exit 1, in one line, without a proxy in between."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SLAY_Q_HTTP_PORT", str(unused_port))
    finished = await cli("healthcheck")
    assert (1, "") == (finished.code, finished.stdout)
    assert f"error: http://127.0.0.1:{unused_port}/healthz is not healthy: no answer" in finished.stderr
    assert 1 == finished.stderr.count("\n")


async def test_healthcheck_gives_up_in_time(cli: Cli, endpoint: Endpoint) -> None:
    """A daemon that takes the connection and never answers is not healthy."""
    endpoint.handler = lambda _: Reply(200, hold=asyncio.Event())
    finished = await cli("healthcheck", "--url", endpoint.origin, "--timeout", "0.2")
    assert 1 == finished.code
    assert "no answer: timed out" in finished.stderr
