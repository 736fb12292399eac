"""`slayq-server send` and `slayq-server jobs`."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.db.migrate import migrate
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.conftest import Connect
    from tests.support.cli import Cli

URL = "https://app.example.com/slayq"
TO_MAIL = ("--url", URL, "--queue", "mail")


async def add(connection: asyncpg.Connection, queue: str = "mail", event: str = "e", **members: Any) -> int:
    """A job whose row then has these columns, too."""
    data = members.pop("data", {})
    payload = json.dumps({"url": URL, "event": event, "data": data})
    key = members.pop("job_key", None)
    job_id: int = await connection.fetchval("select (slayq.add_job($1, $2, job_key => $3)).id", queue, payload, key)
    for name, value in members.items():
        await connection.execute(f"update slayq.job set {name} = $2 where id = $1", job_id, value)
    return job_id


async def fail(connection: asyncpg.Connection, job_id: int) -> None:
    """Makes a job one that failed and waits an hour for its second attempt."""
    await connection.execute(
        """update slayq.job set state = 'scheduled', run_at = now() + interval '1 hour', attempts = 1,
        last_error = 'answered 500' where id = $1""",
        job_id,
    )


async def lease(connection: asyncpg.Connection, job_id: int) -> int:
    """Makes a job one that a live worker delivers; the worker's id."""
    worker_id: int = await connection.fetchval(
        """insert into slayq.worker (name, version, queues, expires_at) values ('host:1', '0', '{mail}',
        now() + interval '1 minute') returning id"""
    )
    await connection.execute(
        """update slayq.job set state = 'leased', worker_id = $2, leased_at = now(), lease = 1, attempts = 1
        where id = $1""",
        job_id,
        worker_id,
    )
    return worker_id


async def ids(connection: asyncpg.Connection) -> list[int]:
    """Of all jobs."""
    return [row["id"] for row in await connection.fetch("select id from slayq.job order by id")]


# send


async def test_send_adds_a_job_that_is_due(cli: Cli, connection: asyncpg.Connection) -> None:
    """The least that is needed: an event, where it goes, and the queue."""
    said = (await cli.ok("send", "shop/order", *TO_MAIL)).stdout
    job = await connection.fetchrow("select * from slayq.job")
    assert job is not None
    assert f"Job {job['id']} added: shop/order in queue mail, due now.\n" == said
    expected = {"url": URL, "retry": 0, "event": "shop/order", "data": {}}
    assert (expected, "ready", 0, 25) == (
        json.loads(job["payload"]),
        job["state"],
        job["priority"],
        job["max_attempts"],
    )


async def test_send_takes_every_field(cli: Cli, connection: asyncpg.Connection) -> None:
    """All that the SQL API takes can be said on the command line."""
    options = ("--key", "k", "--serial-queue", "s", "--run-at", "2099-01-31T08:30:00+02:00", "--priority", "-5")
    more = ("--max-attempts", "3", "--flag", "a", "--flag", "b", "--data", '{"n": 1.50, "ä": "€"}')
    document = await cli.json("send", "shop/order", *TO_MAIL, *options, *more)
    job = await connection.fetchrow("select * from slayq.job")
    assert job is not None
    run_at = datetime(2099, 1, 31, 6, 30, tzinfo=UTC)
    assert ("k", "s", run_at, -5, 3, ["a", "b"]) == tuple(
        job[name] for name in ("job_key", "serial_queue", "run_at", "priority", "max_attempts", "flags")
    )
    assert '"data": {"n": 1.50, "ä": "€"}' in job["payload"]  # as it was typed
    assert {
        "job": {
            "id": job["id"],
            "queue": "mail",
            "state": "scheduled",
            "event": "shop/order",
            "key": "k",
            "priority": -5,
            "run_at": "2099-01-31T06:30:00.000Z",
            "max_attempts": 3,
            "revision": 0,
        }
    } == document


async def test_send_with_a_delay(cli: Cli, connection: asyncpg.Connection) -> None:
    """A delay counts from now, by the database's clock."""
    await cli.ok("send", "e", *TO_MAIL, "--delay", "5m")
    query = "select run_at - created_at = interval '5 minutes' and state = 'scheduled' from slayq.job"
    assert await connection.fetchval(query)


async def test_send_again_under_the_same_key(cli: Cli, connection: asyncpg.Connection) -> None:
    """replace changes the job; unsafe_dedupe leaves it alone. Either way there is one."""
    await cli.ok("send", "e", *TO_MAIL, "--key", "k")
    assert "changed" in (await cli.ok("send", "f", *TO_MAIL, "--key", "k")).stdout
    await cli.ok("send", "g", *TO_MAIL, "--key", "k", "--key-mode", "unsafe_dedupe")
    assert [("f", 2)] == [tuple(row) for row in await connection.fetch("select event, revision from slayq.job")]


async def test_send_reads_data_from_a_file_and_from_standard_input(
    cli: Cli, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """@FILE and - take JSON that is too long to type."""
    (tmp_path / "data.json").write_text('{"from": "a file"}')
    await cli.ok("send", "e", *TO_MAIL, "--data", "@data.json")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"from": "a pipe"}')))
    await cli.ok("send", "e", *TO_MAIL, "--data", "-")
    rows = await connection.fetch("select payload -> 'data' ->> 'from' as origin from slayq.job order by id")
    assert ["a file", "a pipe"] == [row["origin"] for row in rows]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--data", "{no"), 2, "--data is not JSON: "),
        (("--data", "NaN"), 2, "--data is not JSON: NaN is no number there"),
        (("--data", "@missing.json"), 2, "missing.json cannot be read: No such file"),
        (("--delay", "5", "--run-at", "2030-01-01T00:00:00Z"), 2, "--run-at or --delay, not both"),
        (("--priority", "40000"), 1, "priority must be from -32768 to 32767, not 40000"),
        (("--priority", "4000000000000"), 1, "Postgres"),
        (("--max-attempts", "0"), 1, "max_attempts must be from 1 to 32767"),
        (("--key", "k" * 513), 1, "the job key must have 1 to 512 characters"),
        (("--key", "a\0b"), 1, "Postgres"),
        (("--url", "ftp://app.example.com"), 1, "is not an http or https address"),
        (("--url", "https://user:pass@app.example.com"), 1, "carries credentials"),
    ],
)
async def test_send_refuses_what_cannot_be_right(
    cli: Cli, connection: asyncpg.Connection, options: tuple[str, ...], code: int, words: str
) -> None:
    """One clear line, and no job."""
    finished = await cli("send", "e", *TO_MAIL, *options)
    assert (code, "") == (finished.code, finished.stdout)
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr
    assert [] == await ids(connection)


async def test_send_takes_very_deep_data(cli: Cli, connection: asyncpg.Connection, tmp_path: Path) -> None:
    """Data of 5,000 levels is JSON, too, and comes out again as it went in."""
    deep = "[" * 5000 + "]" * 5000
    (tmp_path / "deep.json").write_text(deep)
    await cli.ok("send", "e", *TO_MAIL, "--data", "@deep.json")
    (job_id,) = await ids(connection)
    for option in ([], ["--json"]):
        assert deep in (await cli.ok("jobs", "show", str(job_id), *option)).stdout


async def test_send_needs_no_more_than_an_apps_rights(
    cli: Cli, cluster: Any, database_url: str, connection: asyncpg.Connection
) -> None:
    """A role that may only call the SQL API can send, and cannot look at jobs."""
    role = f"app_{database_url.rsplit('_', 1)[-1]}"
    await connection.execute(f"create role {role} login password '{cluster.password}'")
    try:
        await migrate(database_url, app_roles=[role])
        theirs = database_url.replace("//postgres:", f"//{role}:", 1)
        await cli.ok("send", "e", *TO_MAIL, "--database-url", theirs)
        refused = await cli("jobs", "list", "--database-url", theirs)
        assert 78 == refused.code
        assert "the database role lacks a right" in refused.stderr
    finally:
        await connection.execute(f"delete from slayq.grantee; drop owned by {role}; drop role {role}")


# list


async def test_list_filters(cli: Cli, connection: asyncpg.Connection) -> None:
    """Each filter alone, and together; newest first."""
    first = await add(connection, "mail", "a", data={"user": 5})
    second = await add(connection, "mail", "b", job_key="k", data={"user": 5})
    third = await add(connection, "push", "a", data={"user": "6", "on": True})
    await fail(connection, third)
    await lease(connection, second)
    cases: dict[tuple[str, ...], list[int]] = {
        (): [third, second, first],
        ("--queue", "mail"): [second, first],
        ("--queue", "mail", "--queue", "push"): [third, second, first],
        ("--state", "scheduled"): [third],
        ("--state", "scheduled", "--state", "leased"): [third, second],
        ("--event", "a"): [third, first],
        ("--key", "k"): [second],
        ("--event", "a", "--match", "user=5"): [first],
        ("--event", "b", "--match", "user=5"): [second],
        ("--event", "a", "--match", "on=true"): [third],
        ("--event", "a", "--match", "user=7"): [],
        ("--queue", "push", "--state", "ready"): [],
    }
    for options, expected in cases.items():
        assert expected == [job["id"] for job in (await cli.json("jobs", "list", *options))["jobs"]], options


async def test_list_in_pages(cli: Cli, connection: asyncpg.Connection) -> None:
    """--limit says when there is more; --before-id goes on there."""
    jobs = [await add(connection) for _ in range(3)]
    page = await cli.json("jobs", "list", "--limit", "2")
    assert ([jobs[2], jobs[1]], True) == ([job["id"] for job in page["jobs"]], page["more"])
    rest = await cli.json("jobs", "list", "--limit", "2", "--before-id", str(jobs[1]))
    assert ([jobs[0]], False) == ([job["id"] for job in rest["jobs"]], rest["more"])
    told = await cli("jobs", "list", "--limit", "2")
    assert (0, f"There are more: add --before-id {jobs[1]}, or raise --limit.\n") == (told.code, told.stderr)


async def test_list_shows_a_table(cli: Cli, connection: asyncpg.Connection) -> None:
    """A header and a line a job, each cell whole; a line of its own where there is none."""
    assert "No job fits.\n" == (await cli.ok("jobs", "list")).stdout
    job_id = await add(connection, event="shop/order", job_key="k")
    await fail(connection, job_id)
    header, line = (await cli.ok("jobs", "list")).stdout.splitlines()
    assert ["id", "queue", "state", "event", "key", "prio", "attempts"] == header.split()[:7]
    assert [str(job_id), "mail", "scheduled", "shop/order", "k", "0", "1/25"] == line.split()[:7]
    assert line.endswith("answered 500")


# show


async def test_show_has_all_of_a_job(cli: Cli, connection: asyncpg.Connection) -> None:
    """The payload comes out as it was stored, though no Python would print it so."""
    job_id = await add(connection, job_key="k")
    payload = '{"url":"http://a.example","event":"e","data":[1.0, 1e400, 12345678901234567890, "ü\\u2028\\ud800"]}'
    await connection.execute(
        "update slayq.job set payload = $2, patches = $3 where id = $1", job_id, payload, '[["s", 1]]'
    )
    worker_id = await lease(connection, job_id)
    finished = await cli.ok("jobs", "show", "--key", "k", "--json")
    document = finished.json
    assert (job_id, "leased", "host:1", worker_id, 1, [["s", 1]]) == tuple(
        document[name] for name in ("id", "state", "worker", "worker_id", "lease", "patches")
    )
    assert '[1.0, 1e400, 12345678901234567890, "\\u00fc\\u2028\\ud800"]' in finished.stdout
    said = (await cli.ok("jobs", "show", str(job_id))).stdout
    assert f"held by     host:1#{worker_id}" in said
    assert "step results added since" in said


async def test_show_without_the_payload(cli: Cli, connection: asyncpg.Connection) -> None:
    """--no-payload keeps what may be private off the screen."""
    job_id = await add(connection, data={"card": "4111"})
    for option in ([], ["--json"]):
        assert "4111" not in (await cli.ok("jobs", "show", str(job_id), "--no-payload", *option)).stdout


async def test_show_says_what_a_job_waits_for(cli: Cli, connection: asyncpg.Connection) -> None:
    """A parked continuation names its event and match."""
    job_id = await add(connection, job_key="k")
    await fail(connection, job_id)
    await connection.execute("select public.wait_for_worker_event('k', 'paid', 'order', '7', 'payment', now())")
    (wait,) = (await cli.json("jobs", "show", str(job_id)))["waits"]
    del wait["created_at"]
    assert {
        "kind": "event",
        "step": "payment",
        "event": "paid",
        "match_key": "order",
        "match_value": "7",
        "target_key": None,
    } == wait
    assert "event paid order=7" in (await cli.ok("jobs", "show", str(job_id))).stdout


async def test_show_says_where_a_job_has_gone(cli: Cli, connection: asyncpg.Connection) -> None:
    """Unknown, done and dead jobs exit 3, each with a hint of its own."""
    dead = await add(connection)
    await connection.execute("select slayq.permanently_fail_jobs(array[$1::bigint])", dead)
    await connection.execute(
        """insert into slayq.done_job (id, queue, event, attempts, payload, created_at)
        values (77, 'mail', 'e', 1, '{}', now())"""
    )
    hints = {"12345": "there is no job 12345", "77": "job 77 is done", str(dead): f"slayq-server dead show {dead}"}
    for job_id, hint in hints.items():
        finished = await cli("jobs", "show", job_id)
        assert (3, "") == (finished.code, finished.stdout)
        assert hint in finished.stderr
    assert 3 == (await cli("jobs", "show", "--key", "nobody")).code


# retry


async def test_retry_by_id_makes_a_job_due(cli: Cli, connection: asyncpg.Connection) -> None:
    """A failed job waits no longer; its attempts stay as they are."""
    job_id = await add(connection)
    await fail(connection, job_id)
    assert "1 job due now.\n" == (await cli.ok("jobs", "retry", str(job_id))).stdout
    row = await connection.fetchrow("select state, attempts, run_at <= now() as due from slayq.job")
    assert row is not None
    assert ("ready", 1, True) == tuple(row)


async def test_retry_by_filter_takes_only_what_failed(cli: Cli, connection: asyncpg.Connection) -> None:
    """Sleeping jobs are left alone, unless --delayed says otherwise; other queues always."""
    failed, sleeping, elsewhere = [await add(connection, queue) for queue in ("mail", "mail", "push")]
    for job_id in (failed, sleeping, elsewhere):
        await fail(connection, job_id)
    await connection.execute("update slayq.job set attempts = 0 where id = $1", sleeping)

    async def due() -> list[int]:
        return [
            row["id"] for row in await connection.fetch("select id from slayq.job where state = 'ready' order by id")
        ]

    assert {"matched": 1, "retried": 1, "missed": []} == await cli.json("jobs", "retry", "--queue", "mail", "--yes")
    assert [failed] == await due()
    await cli.ok("jobs", "retry", "--queue", "mail", "--delayed", "--yes")
    assert [failed, sleeping] == await due()
    await cli.ok("jobs", "retry", "--all", "--yes")
    assert [failed, sleeping, elsewhere] == await due()


async def test_retry_ends_a_wait(cli: Cli, connection: asyncpg.Connection) -> None:
    """A job that waits for an event goes on as if it had timed out: nothing is left of the wait."""
    job_id = await add(connection, job_key="k")
    await fail(connection, job_id)
    await connection.execute("select public.wait_for_worker_event('k', 'paid', 'order', '7', 'payment', now())")
    await cli.ok("jobs", "retry", str(job_id))
    assert 0 == await connection.fetchval("select count(*) from slayq.wait")


async def test_retry_says_what_it_left_alone(cli: Cli, connection: asyncpg.Connection) -> None:
    """An unknown id exits 3; one that is not waiting exits 1; the others are retried all the same."""
    failed, leased = await add(connection), await add(connection)
    await fail(connection, failed)
    await lease(connection, leased)
    finished = await cli("jobs", "retry", str(leased), "--json")
    why = "it is leased, so there is nothing to hurry"
    assert (1, {"matched": 1, "retried": 0, "missed": [{"id": leased, "why": why}]}) == (finished.code, finished.json)
    finished = await cli("jobs", "retry", "999", str(failed))
    assert (3, "1 job due now.\n", "job 999: not found\n") == (finished.code, finished.stdout, finished.stderr)


# cancel


async def test_cancel_by_id(cli: Cli, connection: asyncpg.Connection) -> None:
    """What nobody delivers is removed; what is being delivered is marked; an unknown id exits 3."""
    ready, leased, stays = [await add(connection) for _ in range(3)]
    await lease(connection, leased)
    finished = await cli("jobs", "cancel", str(ready), str(leased), "999", "--json")
    missed = [{"id": 999, "why": "not found"}]
    assert (3, {"matched": 3, "removed": 1, "marked": 1, "missed": missed}) == (finished.code, finished.json)
    rows = await connection.fetch("select id, cancelled from slayq.job order by id")
    assert [(leased, True), (stays, False)] == [tuple(row) for row in rows]


async def test_cancel_by_match(cli: Cli, connection: asyncpg.Connection) -> None:
    """Only jobs of that event with that value go, in whatever state, and their waits with them."""
    parked = await add(connection, event="trip", data={"user": 5}, job_key="k")
    await fail(connection, parked)
    await connection.execute("select public.wait_for_worker_event('k', 'paid', 'order', '7', 'payment', now())")
    await add(connection, event="trip", data={"user": 5})
    other_user = await add(connection, event="trip", data={"user": 6})
    other_event = await add(connection, event="hike", data={"user": 5})
    document = await cli.json("jobs", "cancel", "--event", "trip", "--match", "user=5", "--yes")
    assert {"matched": 2, "removed": 2, "marked": 0, "missed": []} == document
    assert [other_user, other_event] == await ids(connection)
    assert 0 == await connection.fetchval("select count(*) from slayq.wait")


async def test_a_bulk_action_without_yes_says_how_many(cli: Cli, connection: asyncpg.Connection) -> None:
    """Nobody at a terminal to ask: nothing is done, and the count is said."""
    jobs = [await add(connection) for _ in range(3)]
    finished = await cli("jobs", "cancel", "--all")
    assert 2 == finished.code
    assert "this would cancel 3 jobs; nobody is there to ask, so say --yes" in finished.stderr
    assert jobs == await ids(connection)


async def test_a_bulk_action_on_nothing_is_done_at_once(cli: Cli) -> None:
    """No question, no failure."""
    assert "No job fits.\n" == (await cli.ok("jobs", "cancel", "--all")).stdout
    assert {"matched": 0, "retried": 0, "missed": []} == await cli.json("jobs", "retry", "--all")


async def test_cancel_waits_for_a_row_that_changes_hands(
    cli: Cli, connection: asyncpg.Connection, connect: Connect
) -> None:
    """A job that is leased while the command runs is marked, not overlooked."""
    job_id = await add(connection)
    daemon = await connect()
    transaction = daemon.transaction()
    await transaction.start()
    await lease(daemon, job_id)

    async def waits() -> bool:
        query = "select exists (select from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock')"
        return bool(await connection.fetchval(query, "slayq-server cli"))

    async with asyncio.TaskGroup() as group:
        command = group.create_task(cli("jobs", "cancel", str(job_id), "--json"))
        await wait_until(waits)
        await transaction.commit()
    assert {"matched": 1, "removed": 0, "marked": 1, "missed": []} == command.result().json
