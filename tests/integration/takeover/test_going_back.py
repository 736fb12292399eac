"""docs/from-slay-q.md, "Going back": the SQL of that page."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from slayq_server.db.takeover import TakenOver
from tests.integration.takeover.original import letters, our_jobs
from tests.integration.takeover.test_moving import CALL, LATER, take_over
from tests.support.endpoint import Reply
from tests.support.wait import WAITS, wait_until

if TYPE_CHECKING:
    from tests.conftest import Connect
    from tests.integration.takeover.original import Original
    from tests.support.cli import Cli
    from tests.support.daemon import Daemons
    from tests.support.endpoint import Endpoint

PAGE = (Path(__file__).parents[3] / "docs" / "from-slay-q.md").read_text(encoding="utf-8")
(GO_BACK,) = re.findall(r"```sql\n(begin;.*?commit;)\n```", PAGE, re.DOTALL)
FUNCTIONS = "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace order by 1"


async def test_going_back_and_coming_again(
    old: Original, old_server: Any, cli: Cli, connection: asyncpg.Connection, database_url: str
) -> None:
    """All that is pending goes to and fro as it is, with its waits; the original's functions and server work again."""
    theirs = await connection.fetch(FUNCTIONS)
    await old.add(job_key="k", run_at=LATER, cache={"first": 1}, priority=3, flags=["f"], queue_name="lane")
    await connection.execute("select wait_for_worker_event('k', 'e', 'k', 'v', 's')")
    retrying = await old.add(max_attempts=4)
    await old.set(retrying, attempts=2, last_error="x", run_at=LATER)
    before = await old.jobs()

    await cli.ok("migrate", "--forward-graphile")
    await connection.execute("select wait_for_invocation('k', 'callee', 's2')")
    await connection.execute('select add_worker_job(\'new\', \'{"url": "http://127.0.0.1:9/", "event": "e"}\')')
    await connection.execute(GO_BACK)

    assert await connection.fetch(FUNCTIONS) == theirs
    jobs = await old.jobs()
    assert [{**job, "id": None, "key": None} for job in jobs[:2]] == [
        {**job, "id": None, "key": None} for job in before
    ]
    assert [{**job, "id": None} for job in jobs[2:4]] == [{**job, "id": None} for job in before]
    assert (jobs[4]["queue"], len(jobs)) == ("new", 5)
    assert await connection.fetchval("select count(*) from slayq._private_waiting_on") == 1
    assert await connection.fetchval("select count(*) from slayq._private_invoker") == 1
    assert await our_jobs(connection) == []

    server = old_server("new")
    await server.wait_for_output(f"running {jobs[4]['id']} attempt 1")
    server.kill()
    await connection.execute("delete from graphile_worker._private_jobs where id = $1", jobs[4]["id"])
    assert await take_over(database_url, force=True) == TakenOver(later=2, retrying=1, waits=1, invocations=1)
    assert [{**job, "id": None} for job in await our_jobs(connection)] == [{**job, "id": None} for job in before]
    await connection.execute('select add_worker_job(\'again\', \'{"url": "http://127.0.0.1:9/", "event": "e"}\')')
    assert len(await our_jobs(connection)) == 3
    assert await connection.fetch(FUNCTIONS) != theirs


async def test_steps_that_were_finished_here_go_back(old: Original, cli: Cli, connection: asyncpg.Connection) -> None:
    """What events have added to a function's steps since its payload was stored is in the payload there."""
    for key, cache in (("k", {"cache": {"a": 1}}), ("bare", {})):
        await old.add(job_key=key, run_at=LATER, **cache)
        await connection.execute("select wait_for_worker_event($1, 'e', 'k', 'v', 'b')", key)
    await cli.ok("migrate")
    await connection.execute("select trigger_waiting_workers('e', 'k', 'v')")
    await connection.execute(GO_BACK)
    caches = [json.loads(job["payload"]).get("cache") for job in (await old.jobs())[2:]]
    assert caches == [{"a": 1, "b": True}, {"b": True}]


async def test_jobs_that_are_added_meanwhile(
    old: Original, cli: Cli, connection: asyncpg.Connection, connect: Connect
) -> None:
    """One in a transaction that is open is waited for and goes back; one added while we work stays, unharmed."""
    await cli.ok("migrate")
    before, meanwhile, going = await connect(), await connect(), await connect()
    await before.execute(f"begin; {CALL}")
    going_back = asyncio.ensure_future(going.execute(GO_BACK))
    await wait_until(
        lambda: connection.fetchval(WAITS, going.get_server_pid()), what="the SQL waiting for the open one"
    )
    calling = asyncio.ensure_future(meanwhile.execute(CALL))
    await wait_until(lambda: connection.fetchval(WAITS, meanwhile.get_server_pid()), what="the call in line")
    await before.execute("commit")
    await going_back
    await calling
    assert (1, 1) == (len(await old.jobs()), len(await our_jobs(connection)))


async def test_not_while_a_daemon_runs(
    old: Original, daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """It says so and changes nothing; when the daemon has stopped, what it gave back goes back."""
    await old.add(url=endpoint.url)
    endpoint.handler = lambda _: Reply(500)
    daemon = await daemons.start(queues={"mail": {"concurrency": 1, "backoff": {"base": 1000}}})
    await endpoint.wait_for_finished(1)
    with pytest.raises(asyncpg.RaiseError, match="slayq-server is running: stop it first"):
        await connection.execute(GO_BACK)
    await connection.execute("rollback")
    daemon.program.terminate()
    assert await daemon.program.wait() == 0
    await connection.execute(GO_BACK)
    assert [job["attempts"] for job in (await old.jobs())[1:]] == [1]
    assert await letters(connection) == []
