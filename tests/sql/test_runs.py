"""Runs of durable functions: leased, their journal written down, suspended, ended, tried again, buried."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.sql.runs import PLACED, RENDER, Raw, RunsDaemon, Segment, leased, make_steps_due, register, send
from tests.sql.support import URL, count

if TYPE_CHECKING:
    import asyncpg

    from tests.sql.support import Daemon

ERROR = {"type": "ValueError", "message": "no", "trace": ""}


pytestmark = pytest.mark.usefixtures("shop")


async def state(connection: asyncpg.Connection, run: object) -> asyncpg.Record:
    """A run's row."""
    row = await connection.fetchrow("select * from slayq.job where run_id = $1", run)
    assert row is not None
    return row


async def test_a_run_as_it_is_leased(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A run that has just been sent: its data as it was, the function's limits, no steps."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    run = await send(connection, PLACED, {"order": 7}, traceparent=trace, priority=4)
    segment = await runs.lease_one()
    assert {"url": URL, "event": PLACED, "data": {"order": 7}} == json.loads(segment.payload)
    assert (1, 3) == (segment.attempts, segment.max_attempts)
    created = datetime.fromisoformat(segment.run.pop("created_at"))
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
    expected = {"id": str(run), "url": URL, "delivery_failures": 0, "traceparent": trace, "seen": 0, "bytes": 0}
    assert {**expected, "steps": []} == segment.run


async def test_steps_are_there_again_in_the_order_of_their_completion(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """What was flushed comes back with the next segment; pending steps come last."""
    await send(connection, PLACED, {"order": 7})
    first = await runs.lease_one()
    assert ["ok"] == await runs.ended(first.step("b", 1).step("a", {"x": None}))
    await runs.flush(first.sleep("nap").step("c").ends("suspended"))
    await make_steps_due(connection)
    await runs.promote()
    second = await runs.lease_one()
    assert ["b", "a", "c", "nap"] == [step["name"] for step in second.run["steps"]]
    assert {"b": ("done", 1), "a": ("done", {"x": None}), "c": ("done", None), "nap": ("done", None)} == second.steps


async def test_done(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A run that is done is gone with its steps; history keeps its output where it is asked for."""
    for keep in (False, True):
        run = await send(connection, PLACED, {"order": 7})
        segment = (await runs.lease_one()).step("a").ends("done", output={"units": 3})
        assert ["settled"] == [row["verdict"] for row in await runs.flush(segment, keep_done=keep)]
        assert (0, 0) == (await count(connection), await count(connection, "step"))
        kept = await connection.fetch("select run_id, output from slayq.done_job")
        assert ([(run, {"units": 3})] if keep else []) == [(row["run_id"], json.loads(row["output"])) for row in kept]


async def test_a_function_that_fails_is_tried_again_and_then_buried(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """Attempts count up, recorded steps stay, the last failure makes a dead letter, and redrive brings it all back."""
    await send(connection, PLACED, {"order": 7})
    first = (await runs.lease_one()).step("a", 1).ends("retried", error="ValueError: no", delay=0.0)
    await runs.flush(first)
    await runs.promote()
    second = await runs.lease_one()
    assert (2, {"a": ("done", 1)}) == (second.attempts, second.steps)
    await runs.flush(second.step("b", 2).ends("dead", error="ValueError: no", reason="attempts-exhausted"))
    letter = await connection.fetchrow("select * from slayq.dead_letter")
    assert letter is not None
    assert ("attempts-exhausted", 2, "ValueError: no") == (letter["reason"], letter["attempts"], letter["last_error"])
    assert [first.id] == await connection.fetchval("select array(select slayq._redrive_1(array[$1::bigint]))", first.id)
    again = await runs.lease_one()
    assert (first.run["id"], 1, {"a": ("done", 1), "b": ("done", 2)}) == (again.run["id"], again.attempts, again.steps)


async def test_a_run_that_is_put_back_tries_the_step_again_that_killed_it(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """Only that: a failure that the function caught stays what it is, with what was done about it."""
    await send(connection, PLACED, {"order": 7})
    segment = (await runs.lease_one()).say("step_failed", "caught", ERROR, attempts=1, final=True).step("mend", 1)
    segment.say("step_failed", "pay", ERROR, attempts=1, final=True)
    await runs.flush(segment.ends("dead", error="StepFailed: pay", reason="no-retry", output=["pay", "mend"]))
    assert 3 == await count(connection, "step")
    await connection.execute("select slayq._redrive_1(array[$1::bigint])", segment.id)
    assert {"caught": "failed", "mend": ("done", 1)} == (await runs.lease_one()).steps


async def test_leases_rise_beyond_death(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A delivery's id is never given twice, and a late flush from before the run died changes nothing."""
    await send(connection, PLACED, {"order": 7})
    before = await runs.lease_one()
    await runs.flush(before.ends("dead", error="ValueError: no", reason="no-retry"))
    await connection.execute("select slayq._redrive_1(array[$1::bigint])", before.id)
    assert before.lease < (await runs.lease_one()).lease
    assert ["stale"] == await runs.ended(before.ends("dead", error="ValueError: no", reason="no-retry"))


async def test_steps_go_with_the_dead_letter(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Invariant F: what is recorded of a run lasts as long as its dead letter."""
    await send(connection, PLACED, {"order": 7})
    await runs.flush((await runs.lease_one()).step("a").ends("dead", error="x", reason="no-retry"))
    assert 1 == await count(connection, "step")
    await connection.execute("delete from slayq.dead_letter")
    assert 0 == await count(connection, "step")


async def test_deliveries_that_fail_have_a_budget_of_their_own(
    connection: asyncpg.Connection, runs: RunsDaemon
) -> None:
    """They use up no attempt of the function, are counted in a row, and forgotten once the app answers."""
    await send(connection, PLACED, {"order": 7})
    for failures in range(3):
        segment = await runs.lease_one()
        assert (1, failures) == (segment.attempts, segment.run["delivery_failures"])
        await runs.flush(segment.ends("undelivered", error="refused", delay=0.0))
        await runs.promote()
    await runs.flush((await runs.lease_one()).sleep("nap").ends("suspended"))
    await make_steps_due(connection)
    await runs.promote()
    assert 0 == (await runs.lease_one()).run["delivery_failures"]


async def test_a_lost_lease_is_a_delivery_that_failed(
    connection: asyncpg.Connection, runs: RunsDaemon, daemon: Daemon
) -> None:
    """Its function pays nothing; a run that kills its worker again and again ends as a dead letter."""
    await send(connection, PLACED, {"order": 7})
    for failures in range(1, 26):
        await connection.execute("update slayq.worker set expires_at = now() + interval '1 hour'")
        segment = await runs.lease_one()
        assert 1 == segment.attempts
        await runs.flush(segment.step(f"step {failures}"))
        await daemon.expire(connection)
        (reaped,), _ = await daemon.store.reap(10)
        assert ("dead" if failures == 25 else "ready") == reaped.fate
    assert "lease-lost" == await connection.fetchval("select reason from slayq.dead_letter")
    assert 25 == await count(connection, "step")


async def test_attempts_are_those_of_a_stage(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A run that suspends has got on: its attempts begin anew, unless a step of it is still failing."""
    await send(connection, PLACED, {"order": 7})
    await runs.flush((await runs.lease_one()).ends("retried", error="x", delay=0.0))
    await runs.promote()
    second = await runs.lease_one()
    assert 2 == second.attempts
    second.say("step_failed", "pay", ERROR, attempts=1, final=False, seconds=60.0)
    (row,) = await runs.flush(second.ends("suspended"))
    assert 59 < row["due_in"] < 61
    await make_steps_due(connection)
    await runs.promote()
    third = await runs.lease_one()
    assert 2 == third.attempts
    pending = third.run["steps"][0]
    assert ("pending", 1, ERROR, 0) == tuple(pending[key] for key in ("state", "attempts", "error", "retry_in_ms"))
    await runs.flush(third.step("pay", 5).sleep("nap").ends("suspended"))
    await make_steps_due(connection)
    await runs.promote()
    fourth = await runs.lease_one()
    assert (1, {"pay": ("done", 5), "nap": ("done", None)}) == (fourth.attempts, fourth.steps)


async def test_a_step_that_has_failed_for_good(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Its failure is its outcome, which no later op changes."""
    await send(connection, PLACED, {"order": 7})
    segment = await runs.lease_one()
    await runs.flush(segment.say("step_failed", "pay", ERROR, attempts=3, final=True))
    await runs.flush(segment.step("pay", 1).ends("retried", error="x", delay=0.0))
    await runs.promote()
    (step,) = (await runs.lease_one()).run["steps"]
    assert ("failed", 3, ERROR) == (step["state"], step["attempts"], step["error"])


async def test_attempts_at_a_step_in_one_flush(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """The last one counts: the app may have tried again while others of its steps were at work."""
    await send(connection, PLACED, {"order": 7})
    segment = (await runs.lease_one()).say("step_failed", "a", ERROR, attempts=1, final=False)
    segment.step("b").step("a", 5).say("step_failed", "c", ERROR, attempts=1, final=False)
    segment.say("step_failed", "c", ERROR, attempts=2, final=False)
    assert ["settled"] == await runs.ended(segment.ends("released"))
    segment = await runs.lease_one()
    assert {"b": ("done", None), "a": ("done", 5), "c": "pending"} == segment.steps
    assert 2 == segment.run["steps"][-1]["attempts"]


async def test_a_large_flush(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """After an outage there is much to write: its time grows with the ops, not with their square."""

    async def seconds(number: int) -> float:
        await connection.execute(
            "select slayq.send($1, json_build_object('order', n)) from generate_series(1, $2::integer) as n",
            PLACED,
            number,
        )
        segments = await runs.lease(number)
        for segment in segments:
            segment.say("send", "tell", [{"event": RENDER, "data": {}}])
            for place in range(40):
                segment.step(f"step {place}", place)
        started = time.monotonic()
        assert {"ok"} == set(await runs.ended(*segments))
        return time.monotonic() - started

    small = max([await seconds(40) for _ in range(3)])
    assert await seconds(400) < 40 * max(
        small, 0.05
    )  # in proportion it is 10 times as much, and by the square 100 times
    number = 3 * 40 + 400
    assert number * 41 == await count(connection, "step")


async def test_a_run_that_has_recorded_too_much(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It is leased, so that it can be buried, without what no app would read; the others with it are as they were."""
    first = await leased(connection, runs)
    await runs.flush(first.step("a", 1).ends("released"))
    await connection.execute(
        """insert into slayq.step (job_id, name, kind, state, number, output)
        select $1, 'large ' || n, 'run', 'done', n, to_json(repeat('x', 1048574))
        from generate_series(1, $2::integer) as n""",
        first.id,
        64,
    )
    segment = await runs.lease_one()
    assert (64 * 1048576 + 1, []) == (segment.run["bytes"], segment.run["steps"])
    await runs.flush(segment.ends("released"))
    await connection.execute("delete from slayq.step where name = 'a'")
    assert 64 == len((await runs.lease_one()).run["steps"])


async def test_nothing_to_wait_for(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A segment may end early to be continued: the run is due at once."""
    await send(connection, PLACED, {"order": 7})
    (row,) = await runs.flush((await runs.lease_one()).step("a", 1).ends("suspended"))
    assert ("settled", "general") == (row["verdict"], row["ready"])
    assert {"a": ("done", 1)} == (await runs.lease_one()).steps


async def test_a_sleep_of_no_time(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It is due at once, and over when the run is leased again."""
    await send(connection, PLACED, {"order": 7})
    (row,) = await runs.flush((await runs.lease_one()).sleep("nap", 0.0).ends("suspended"))
    assert row["due_in"] <= 0
    await runs.promote()
    assert {"nap": ("done", None)} == (await runs.lease_one()).steps


async def test_sleep_until(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A time in the future parks the run until then; the soonest of several counts."""
    run = await send(connection, PLACED, {"order": 7})
    until = datetime.now(UTC) + timedelta(hours=2)
    segment = (await runs.lease_one()).say("sleep", "until", until=until).sleep("longer", 86400.0)
    await runs.flush(segment.ends("suspended"))
    assert until == (await state(connection, run))["run_at"]


async def test_a_stale_flush_changes_nothing(connection: asyncpg.Connection, runs: RunsDaemon, daemon: Daemon) -> None:
    """Invariant B for journals: under a lease that is over neither steps nor an end are written."""
    await send(connection, PLACED, {"order": 7})
    old = await runs.lease_one()
    await daemon.expire(connection)
    await daemon.store.reap(10)
    assert ["stale"] == await runs.ended(old.step("a"))
    await connection.execute("update slayq.worker set expires_at = now() + interval '1 hour'")
    new = await runs.lease_one()
    assert ["stale"] == await runs.ended(old.step("a").ends("done"))
    assert ["ok"] == await runs.ended(new.step("b"))
    assert ["b"] == [row["name"] for row in await connection.fetch("select name from slayq.step")]


async def test_a_locked_run_holds_up_no_other(
    connection: asyncpg.Connection, connect: object, runs: RunsDaemon
) -> None:
    """Invariant E for journals: what belongs to a row that somebody has locked is put off, the rest is written."""
    for order in (1, 2):
        await send(connection, PLACED, {"order": order})
    first, second = await runs.lease(2)
    other = await connect()  # type: ignore[operator]
    async with other.transaction():
        await other.execute("select from slayq.job where id = $1 for update", first.id)
        first_says = first.step("a")
        assert ["locked", "ok"] == await runs.ended(first_says, second.step("b"))
    assert ["ok"] == await runs.ended(first.step("a"))
    assert 2 == await count(connection, "step")


async def test_released(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """A run that is given back at shutdown keeps what was recorded, and its attempt is not counted."""
    await send(connection, PLACED, {"order": 7})
    (row,) = await runs.flush((await runs.lease_one()).step("a", 1).ends("released"))
    assert ("settled", "general") == (row["verdict"], row["ready"])
    again = await runs.lease_one()
    assert (1, 0, {"a": ("done", 1)}) == (again.attempts, again.run["delivery_failures"], again.steps)


@pytest.mark.parametrize("output", ['"a\\u0000b"', '"\\ud800"', "1e999", '{"a":1,"a":2}', '"' + "ü" * 1000 + '"'])
async def test_outputs_come_back_as_they_were(connection: asyncpg.Connection, runs: RunsDaemon, output: str) -> None:
    """Whatever JSON it is, also what Postgres cannot look into."""
    await send(connection, PLACED, {"order": 7})
    await runs.flush((await runs.lease_one()).step("a", Raw(output)).ends("released"))
    row = await connection.fetchval("select slayq._run_1(j)::text from slayq.job j")
    assert f'"output":{output}' in row


async def test_a_run_follows_its_function(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """The app has moved: runs that began before go to its new address; if the function is gone, to the old one."""
    await send(connection, PLACED, {"order": 7})
    moved = "https://new.example.com/slayq"
    await register(connection, {"event": PLACED}, url=moved)
    segment = await runs.lease_one()
    assert moved == segment.run["url"]
    await runs.flush(segment.ends("released"))
    await register(connection, {"event": "shop/other"}, url=moved)
    segment = await runs.lease_one()
    assert (None, URL) == (segment.run["url"], json.loads(segment.payload)["url"])


async def test_many_runs_in_one_flush(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Each gets its own: steps, ends and verdicts are not mixed up."""
    for order in range(6):
        await send(connection, PLACED, {"order": order})
    segments = await runs.lease(6)
    for place, segment in enumerate(segments):
        segment.step("who", place)
    segments[0].ends("done")
    segments[1].sleep("nap").ends("suspended")
    segments[2].ends("retried", error="e", delay=5.0)
    segments[3].ends("dead", error="e", reason="no-retry")
    segments[4].ends("undelivered", error="e", delay=5.0)
    assert [*["settled"] * 5, "ok"] == await runs.ended(*segments)
    written = await connection.fetch("select job_id, output from slayq.step where name = 'who' order by job_id")
    expected = [(segment.id, str(place)) for place, segment in enumerate(segments) if place]
    assert expected == [tuple(row) for row in written]
    states = await connection.fetch("select id, state from slayq.job order by id")
    assert [
        (segments[1].id, "scheduled"),
        (segments[2].id, "scheduled"),
        (segments[4].id, "scheduled"),
        (segments[5].id, "leased"),
    ] == [tuple(row) for row in states]


async def test_a_flush_whose_answer_was_lost(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """It was committed, and is given again: nothing is sent, invoked or awaited twice, and nothing is refused."""
    await send(connection, PLACED, {"order": 7})
    segment = await runs.lease_one()

    def says() -> Segment:
        segment.step("a", 1).say("send", "tell", [{"event": RENDER, "data": {}}]).wait("payment").invoke("invoice")
        return segment.sleep("nap")

    assert ["ok"] == await runs.ended(says())
    before = await connection.fetch("select * from slayq.step order by name")
    assert ["ok"] == await runs.ended(says())
    assert before == await connection.fetch("select * from slayq.step order by name")
    assert 3 == await count(connection)
    assert ["settled"] == await runs.ended(says().ends("suspended"))
    assert ["stale"] == await runs.ended(says().ends("suspended"))


async def test_a_name_of_an_earlier_segment(connection: asyncpg.Connection, runs: RunsDaemon) -> None:
    """Used again for something that would be done twice: refused, and what it names stays as it was."""
    await send(connection, PLACED, {"order": 7})
    await runs.flush((await runs.lease_one()).say("send", "tell", [{"event": RENDER, "data": {}}]).ends("released"))
    segment = (await runs.lease(2))[0]
    (row,) = await runs.flush(segment.invoke("tell"))
    assert ("refused", True) == (row["verdict"], "'tell'" in row["note"])
    assert 2 == await count(connection)
