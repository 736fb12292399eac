"""`slayq-server dead`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import asyncpg

    from tests.support.cli import Cli


async def bury(
    connection: asyncpg.Connection, queue: str = "mail", event: str = "e", key: str | None = None, days: int = 0
) -> int:
    """A dead letter that died so many days ago."""
    payload = json.dumps({"url": "http://a.example", "event": event, "data": {"card": "4111"}})
    job_id: int = await connection.fetchval("select (slayq.add_job($1, $2, job_key => $3)).id", queue, payload, key)
    await connection.execute("select slayq.permanently_fail_jobs(array[$1::bigint], 'gave up')", job_id)
    await connection.execute(
        "update slayq.dead_letter set died_at = now() - make_interval(days => $2) where id = $1", job_id, days
    )
    return job_id


async def letters(connection: asyncpg.Connection) -> list[int]:
    """The ids of all dead letters."""
    return [row["id"] for row in await connection.fetch("select id from slayq.dead_letter order by id")]


async def jobs(connection: asyncpg.Connection) -> list[int]:
    """The ids of all live jobs."""
    return [row["id"] for row in await connection.fetch("select id from slayq.job order by id")]


async def test_list_filters(cli: Cli, connection: asyncpg.Connection) -> None:
    """Each filter alone; newest first."""
    first = await bury(connection, "mail", "a", days=3)
    second = await bury(connection, "push", "b", key="k")
    await connection.execute("update slayq.dead_letter set reason = 'no-retry' where id = $1", second)
    yesterday = await connection.fetchval(
        "select to_char(now() at time zone 'utc' - interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
    )
    cases: dict[tuple[str, ...], list[int]] = {
        (): [second, first],
        ("--queue", "mail"): [first],
        ("--reason", "no-retry"): [second],
        ("--reason", "no-retry", "--reason", "failed-by-operator"): [second, first],
        ("--event", "a"): [first],
        ("--key", "k"): [second],
        ("--died-before", yesterday): [first],
        ("--before-id", str(second)): [first],
    }
    for options, expected in cases.items():
        assert expected == [letter["id"] for letter in (await cli.json("dead", "list", *options))["dead"]], options


async def test_list_shows_a_table_and_says_that_there_is_more(cli: Cli, connection: asyncpg.Connection) -> None:
    """A line a letter; a hint for the next page; a line of its own where there is none."""
    assert "No dead letter fits.\n" == (await cli.ok("dead", "list")).stdout
    older, newer = await bury(connection), await bury(connection)
    told = await cli("dead", "list", "--limit", "1")
    assert [str(newer), "mail", "e", "failed-by-operator", "25/25"] == told.stdout.splitlines()[1].split()[:5]
    assert f"There are more: add --before-id {newer}, or raise --limit.\n" == told.stderr
    assert older < newer


async def test_show(cli: Cli, connection: asyncpg.Connection) -> None:
    """All there is of it, the payload only if wanted."""
    letter = await bury(connection, key="k")
    document = await cli.json("dead", "show", str(letter))
    assert (letter, "failed-by-operator", "gave up", {"card": "4111"}) == (
        document["id"],
        document["reason"],
        document["last_error"],
        document["payload"]["data"],
    )
    assert "4111" in (await cli.ok("dead", "show", str(letter))).stdout
    for option in ([], ["--json"]):
        assert "4111" not in (await cli.ok("dead", "show", str(letter), "--no-payload", *option)).stdout


async def test_show_what_is_not_there(cli: Cli, connection: asyncpg.Connection) -> None:
    """Exit 3, with a hint for a job that lives."""
    live = await connection.fetchval(
        """select (slayq.add_job('mail', '{"url": "http://a.example", "event": "e"}')).id"""
    )
    for letter, hint in {"999": "there is no dead letter 999", str(live): f"slayq-server jobs show {live}"}.items():
        finished = await cli("dead", "show", letter)
        assert (3, "") == (finished.code, finished.stdout)
        assert hint in finished.stderr


async def test_redrive_by_id(cli: Cli, connection: asyncpg.Connection) -> None:
    """The letter is a job again, under its id, due, at attempt 1; an unknown id exits 3."""
    letter, stays = await bury(connection), await bury(connection)
    finished = await cli("dead", "redrive", str(letter), "999")
    assert (3, "1 dead letter put back.\n") == (finished.code, finished.stdout)
    assert "dead letter 999: not found\n" == finished.stderr
    assert ([letter], [stays]) == (await jobs(connection), await letters(connection))
    assert ("ready", 0) == tuple(await connection.fetchrow("select state, attempts from slayq.job") or ())


async def test_redrive_leaves_a_letter_whose_key_is_taken(cli: Cli, connection: asyncpg.Connection) -> None:
    """By id or by filter: it stays, that is said, and the exit code is 1; the others are put back."""
    taken, free = await bury(connection, key="k"), await bury(connection)
    await connection.execute(
        """select slayq.add_job('mail', '{"url": "http://a.example", "event": "e"}', job_key => 'k')"""
    )
    missed = [{"id": taken, "why": "a live job has its key: it stays a dead letter"}]
    finished = await cli("dead", "redrive", "--all", "--yes", "--json")
    assert (1, {"matched": 2, "redriven": 1, "missed": missed}) == (finished.code, finished.json)
    assert [taken] == await letters(connection)
    assert free in await jobs(connection)
    finished = await cli("dead", "redrive", str(taken), "--json")
    assert (1, {"matched": 1, "redriven": 0, "missed": missed}) == (finished.code, finished.json)


async def test_redrive_in_batches_keeps_the_order(cli: Cli, connection: asyncpg.Connection) -> None:
    """More than one batch: all come back, the oldest first in line."""
    ids = [await bury(connection) for _ in range(2)]
    await connection.execute(
        """insert into slayq.dead_letter select 1000 + n, queue, reason, priority, attempts, max_attempts, null, null,
        event, null, null, payload, null, last_error, run_at, created_at, died_at
        from slayq.dead_letter, generate_series(1, 1100) n where id = $1""",
        ids[0],
    )
    document = await cli.json("dead", "redrive", "--queue", "mail", "--yes")
    assert {"matched": 1102, "redriven": 1102, "missed": []} == document
    rows = await connection.fetch("select id from slayq.job order by priority, run_at, id")
    assert sorted(row["id"] for row in rows) == [row["id"] for row in rows]


async def test_purge(cli: Cli, connection: asyncpg.Connection) -> None:
    """By id, by filter, and only what fits; without --yes nothing."""
    old, new, other = await bury(connection, days=40), await bury(connection), await bury(connection, "push")
    refused = await cli("dead", "purge", "--all")
    assert 2 == refused.code
    assert "this would purge 3 dead letters" in refused.stderr
    assert "1 dead letter removed.\n" == (await cli.ok("dead", "purge", "--queue", "push", "--yes")).stdout
    assert [old, new] == await letters(connection)
    document = (await cli("dead", "purge", str(old), str(other), "--json")).json
    assert {"matched": 2, "purged": 1, "missed": [{"id": other, "why": "not found"}]} == document
    assert [new] == await letters(connection)


@pytest.mark.parametrize("command", ["redrive", "purge"])
async def test_a_live_job_is_no_dead_letter(cli: Cli, connection: asyncpg.Connection, command: str) -> None:
    """The commands say so, and leave it alone."""
    live = await connection.fetchval(
        """select (slayq.add_job('mail', '{"url": "http://a.example", "event": "e"}')).id"""
    )
    finished = await cli("dead", command, str(live))
    assert (1, f"dead letter {live}: it is ready\n") == (finished.code, finished.stderr)
    assert [live] == await jobs(connection)
