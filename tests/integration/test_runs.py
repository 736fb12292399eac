"""Durable runs, end to end: the real daemon on a real Postgres, and an app that streams ops by hand."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import pytest_asyncio

from slayq_server import settings
from slayq_server.config import load
from slayq_server.daemon import Daemon
from slayq_server.db.store import Store
from tests.support.daemon import FAST_BACKOFF, Daemons
from tests.support.ops_app import (
    CONTENT_TYPE,
    SECRET,
    SUSPEND,
    Abort,
    Answer,
    OpsApp,
    Request,
    done,
    error,
    failed,
    letter_of,
    output_of,
    send,
    step,
)
from tests.support.wait import wait_until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import asyncpg

    from tests.support.daemon import Running

KEPT = {"retention": {"done": "1h"}}


@pytest_asyncio.fixture
async def app() -> AsyncIterator[OpsApp]:
    """The app."""
    async with OpsApp() as running:
        yield running


async def start(daemons: Daemons, app: OpsApp, **sections: Any) -> Running:
    """A daemon that may call the app, and keeps history."""
    return await daemons.start(**{"callbacks": {"allow": [app.origin]}, **KEPT, **sections})


def queue(**options: Any) -> dict[str, Any]:
    """The queue `mail` with further options."""
    return {"queues": {"mail": {"concurrency": 10, "backoff": FAST_BACKOFF, **options}}}


async def recorded(connection: asyncpg.Connection) -> dict[str, str]:
    """The states of all recorded steps, by name."""
    return dict(await connection.fetch("select name, state from slayq.step"))


async def failures(connection: asyncpg.Connection) -> int:
    """Delivery failures in a row of the one run there is."""
    return int(await connection.fetchval("select coalesce(sum(delivery_failures), 0) from slayq.job"))


async def test_ten_steps_are_one_request(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """Signed, with all that the function needs; the run ends with its output, and its steps go with it."""

    async def script(request: Request) -> AsyncIterator[Any]:
        for number in range(10):
            yield step(f"step {number}", {"n": number, "odd": "\u0000\ud800"})
        yield done([1, "\u0000"])

    app.script = script
    await app.register(connection, {"event": "shop/order", "retries": 4})
    await start(daemons, app)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    run = await send(connection, "shop/order", {"order_id": 7.0}, traceparent=trace)
    assert [1, "\u0000"] == await output_of(connection, run)
    (request,) = app.requests
    assert request.signed_by(SECRET)
    assert abs(time.time() - int(request.headers["webhook-timestamp"])) < 60
    assert (trace, "2", "application/json") == tuple(
        request.headers[name] for name in ("traceparent", "x-slayq-protocol", "content-type")
    )
    body = request.body
    assert {"v", "audience", "lease", "run", "steps", "limits"} == body.keys()
    assert (2, app.url, []) == (body["v"], body["audience"], body["steps"])
    assert {"id": run, "event": "shop/order", "attempt": 1, "max_attempts": 5} == {
        key: value for key, value in body["run"].items() if key not in ("data", "created_at")
    }
    assert b'"data":{"order_id": 7.0}' in request.raw
    assert {} == await recorded(connection)


@pytest.mark.parametrize("cut", range(5))
async def test_a_stream_that_is_cut_goes_on_where_it_was(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection, cut: int
) -> None:
    """After each op: what was said is not said again, and the function's attempts are not used up."""
    ran: list[str] = []

    async def script(request: Request) -> AsyncIterator[Any]:
        for number, name in enumerate("abcd"):
            if name not in request.steps:
                ran.append(name)
                yield step(name, number)
            if number == cut and len(app.requests) == 1:
                yield Abort
        yield done({name: entry["output"] for name, entry in request.steps.items()})

    app.script = script
    await app.register(connection, {"event": "e"})
    await start(daemons, app)
    run = await send(connection, "e")
    await output_of(connection, run)
    said = list("abcd")
    assert [1] * len(app.requests) == [request.run["attempt"] for request in app.requests]
    if cut == 4:
        assert (1, said) == (len(app.requests), ran)
        return
    first, second = app.requests
    # The last op before the reset may have been lost on the wire; none before it.
    assert set(said[:cut]) <= second.steps.keys()
    assert ran in (said, sorted([*said, said[cut]]))
    assert first.token != second.token


FAULTS: dict[str, tuple[list[Any], str]] = {
    "truncated": ([], "ended after line 2 without a terminal op"),
    "half a line": ([b'{"op":"do'], "line 3 is invalid JSON"),
    "garbage": ([b"<html>oops</html>\n", done()], "line 3 is invalid JSON"),
    "out of order": ([b'{"op":"hello","lease":"x"}\n', done()], "line 3 is another hello"),
    "after the end": ([done(), step("late")], "line 4 comes after the terminal op"),
    "unknown op": ([{"op": "dance"}, done()], 'line 3 has an unknown op "dance"'),
    "repeated step": ([step("a"), done()], 'line 3 (step "a") names a step that the run has had'),
    "no terminal fields": ([{"op": "done"}], "line 3 has no output"),
    "reset": ([Abort], "the connection broke"),
    "too long": ([b" " * 1_048_577], "line 3 has more than 1048576 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broken_stream_is_a_delivery_failure(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection, fault: str
) -> None:
    """Said clearly; what came before the fault stays, and the run is tried again."""
    said, expected = FAULTS[fault]
    written = asyncio.Event()

    async def script(request: Request) -> AsyncIterator[Any]:
        if len(app.requests) > 1:
            yield done(sorted(request.steps))
            return
        yield step("a", 1)
        await written.wait()
        for entry in said:
            yield entry

    app.script = script
    await app.register(connection, {"event": "e"})
    running = await start(daemons, app)
    run = await send(connection, "e")
    await wait_until(lambda: recorded(connection))
    written.set()
    assert ["a"] == await output_of(connection, run)
    assert [1, 1] == [request.run["attempt"] for request in app.requests]
    (line,) = [entry for entry in running.program.events if entry["event"] == "job_undelivered"]
    assert expected in line["error"]


ANSWERS: dict[str, tuple[int, dict[str, str], str, str]] = {
    "login page": (200, {"Content-Type": "text/html"}, "<html>", "answered 200 OK, and not application/vnd.slayq"),
    "no content": (204, {}, "", "answered 204 No Content, and not"),
    "foreign token": (200, {"Content-Type": CONTENT_TYPE}, '{"op":"hello","lease":"x"}\n', "is for another lease"),
    "empty": (200, {"Content-Type": CONTENT_TYPE}, "", "ended after line 0 without a terminal op"),
    "refusal": (401, {}, '{"error":{"code":"audience","message":"…"}}', "answered 401 Unauthorized (audience)"),
    "broken": (500, {}, "Traceback", "answered 500 Internal Server Error"),
    "redirect": (302, {"Location": "http://169.254.169.254/"}, "", "redirects are not followed"),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_is_no_stream_is_a_delivery_failure(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection, answer: str
) -> None:
    """Such as a proxy's page, or the app's own refusal."""
    status, headers, text, expected = ANSWERS[answer]

    async def script(request: Request) -> AsyncIterator[Any]:
        yield done(len(app.requests)) if len(app.requests) > 1 else Answer(status=status, headers=headers, text=text)

    app.script = script
    await app.register(connection, {"event": "e"})
    running = await start(daemons, app)
    assert 2 == await output_of(connection, await send(connection, "e"))
    (line,) = [entry for entry in running.program.events if entry["event"] == "job_undelivered"]
    assert expected in line["error"]


async def test_delivery_failures_end_in_a_dead_letter(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """After 25 in a row; `not-found` says it more clearly. The function was never attempted."""

    async def script(request: Request) -> AsyncIterator[Any]:
        yield Answer(status=404 if request.event == "missing" else 502)

    app.script = script
    await app.register(connection, {"event": "missing"}, {"event": "broken"})
    callbacks = {"allow": [app.origin], "breaker": {"failures": False}}  # probes would take minutes
    await start(daemons, app, callbacks=callbacks, **queue(backoff={"base": 0.001, "factor": 1, "jitter": 0}))
    runs = [await send(connection, event) for event in ("missing", "broken")]
    letters = [await letter_of(connection, run) for run in runs]
    assert ["not-found", "delivery-failed"] == [letter["reason"] for letter in letters]
    assert [25, 25] == [len(app.of(event)) for event in ("missing", "broken")]
    assert "502" in letters[1]["last_error"]


async def test_an_app_that_falls_silent_is_left(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """Silence, or half a line that never ends; an empty line now and then keeps the connection for any time."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.event == "silent" and len(app.of("silent")) == 1:
            yield step("a")
            await asyncio.Event().wait()
        if request.event == "drip" and len(app.of("drip")) == 1:
            yield step("a")
            while True:
                yield b" "
                await asyncio.sleep(0.05)
        if request.event == "alive":
            yield step("a")
            for _ in range(30):
                yield b"\n"
                await asyncio.sleep(0.1)
        yield done(sorted(request.steps))

    app.script = script
    await app.register(connection, *({"event": event} for event in ("silent", "drip", "alive")))
    running = await start(daemons, app, **queue(timeout=2.5))
    runs = [await send(connection, event) for event in ("silent", "drip", "alive")]
    assert [["a"], ["a"], []] == [await output_of(connection, run) for run in runs]
    lines = [entry["error"] for entry in running.program.events if entry["event"] == "job_undelivered"]
    assert [f"{app.origin.removeprefix('http://')}: no line came within 2.5 s"] * 2 == lines
    assert app.of("silent")[0].abandoned
    assert app.of("drip")[0].abandoned


async def test_pending_steps_of_every_kind(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """Several at once: a sleep, a wait for an event, an invocation; the run goes on as each has its outcome."""

    async def parent(request: Request) -> AsyncIterator[Any]:
        if not request.steps:
            yield {"op": "sleep", "name": "nap", "ms": 300}
            yield {"op": "wait", "name": "paid", "event": "paid", "match": {"key": "id", "value": 7}}
            yield {"op": "invoke", "name": "child", "event": "child", "data": {"n": 1.0}}
            yield {
                "op": "wait",
                "name": "never",
                "event": "paid",
                "match": {"key": "id", "value": 8},
                "timeout_ms": 200,
            }
        pending = [name for name, entry in request.steps.items() if entry["state"] == "pending"]
        if request.steps and not pending:
            yield done({name: [entry["state"], entry.get("output")] for name, entry in request.steps.items()})
        else:
            yield SUSPEND

    async def child(request: Request) -> AsyncIterator[Any]:
        yield done({"got": request.run["data"]})

    app.scripts = {"parent": parent, "child": child}
    await app.register(
        connection,
        {"event": "parent", "waits_on": [{"event": "paid", "match": "id"}], "invokes": ["child"]},
        {"event": "child"},
    )
    await start(daemons, app)
    run = await send(connection, "parent")
    await wait_until(lambda: recorded(connection))
    assert await send(connection, "paid", {"id": 7, "by": "card"}) is None
    outcome = await output_of(connection, run)
    assert {
        "nap": ["done", None],
        "paid": ["done", {"id": 7, "by": "card"}],
        "child": ["done", {"got": {"n": 1.0}}],
        "never": ["timed_out", None],
    } == outcome
    assert {1} == {request.run["attempt"] for request in app.requests}


async def test_failures_of_steps_and_of_the_function(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """A step with retries of its own uses no attempt; one without uses the function's; what was recorded stays."""

    async def script(request: Request) -> AsyncIterator[Any]:
        own, plain = request.steps.get("own"), request.steps.get("plain")
        if own is None or own["state"] == "pending":
            attempts = (own or {}).get("attempts", 0) + 1
            if attempts < 3:
                yield {
                    "op": "step_failed", "name": "own", "error": error(), "attempt": attempts, "retry_after": 0.05,
                    "final": False,
                }  # fmt: skip
                yield SUSPEND
                return
            yield step("own", attempts)
        if plain is None:
            yield {"op": "step_failed", "name": "plain", "error": error("x"), "attempt": 1, "final": False}
            yield failed("x")
            return
        yield step("plain", [request.run["attempt"], plain["state"], plain["attempts"], plain["error"]["message"]])
        if request.event == "thrower":
            yield failed("never", retry=False)
        else:
            yield done(request.run["attempt"])

    app.script = script
    await app.register(connection, {"event": "e", "retries": 2}, {"event": "thrower"})
    await start(daemons, app)
    assert 2 == await output_of(connection, await send(connection, "e"))
    assert [1, 1, 1, 2] == [request.run["attempt"] for request in app.requests]
    letter = await letter_of(connection, await send(connection, "thrower"))
    assert ("no-retry", "ValueError: never") == (letter["reason"], letter["last_error"])


async def test_a_dead_run_that_is_put_back_tries_the_blamed_step_again(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """The one that killed it, and no other."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if len(app.requests) == 1:
            for name in ("caught", "blamed"):
                yield {"op": "step_failed", "name": name, "error": error(), "attempt": 1, "final": True}
            yield step("a")
            yield failed(retry=False, steps=["blamed"])
        else:
            yield done(sorted(request.steps))

    app.script = script
    await app.register(connection, {"event": "e"})
    await start(daemons, app)
    run = await send(connection, "e")
    letter = await letter_of(connection, run)
    await connection.fetch("select slayq._redrive_1(array[$1::bigint])", letter["id"])
    assert ["a", "caught"] == await output_of(connection, run)


async def test_a_functions_attempts_end(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """And whoever invoked it is told."""

    async def parent(request: Request) -> AsyncIterator[Any]:
        if not request.steps:
            yield {"op": "invoke", "name": "child", "event": "child", "data": {}}
            yield SUSPEND
        else:
            yield done(request.steps["child"])

    async def child(request: Request) -> AsyncIterator[Any]:
        yield failed("gone wrong")

    app.scripts = {"parent": parent, "child": child}
    await app.register(connection, {"event": "parent"}, {"event": "child", "retries": 2})
    await start(daemons, app)
    told = await output_of(connection, await send(connection, "parent"))
    assert ("failed", "InvocationFailed") == (told["state"], told["error"]["type"])
    assert "gone wrong" in told["error"]["message"]
    assert [1, 2, 3] == [request.run["attempt"] for request in app.of("child")]


async def test_what_cannot_be_carried_out_fails_the_function(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """A wait that is not declared, an event nobody knows: what stood before it is recorded, and the error says why."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.run["attempt"] == 2:
            yield done(sorted(request.steps))
            return
        yield step("a")
        if request.event == "waits":
            yield {"op": "wait", "name": "w", "event": "paid", "match": {"key": "id", "value": 1}}
        else:
            yield {"op": "send", "name": "s", "events": [{"event": "nobody", "data": {}}]}
        yield step("b")
        yield SUSPEND

    app.script = script
    await app.register(connection, {"event": "waits"}, {"event": "sends"})
    running = await start(daemons, app)
    for event, expected in (("waits", "does not declare"), ("sends", "nobody")):
        assert ["a"] == await output_of(connection, await send(connection, event))
        line = [entry for entry in running.program.events if entry["event"] == "op_refused"][-1]
        assert expected in line["error"]


async def test_events_of_a_step_are_sent_once(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """In the transaction that records the step: its outcome is the ids of the runs that they made."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.event == "child":
            yield done(request.run["data"])
            return
        if "s" not in request.steps:
            yield {"op": "send", "name": "s", "events": [{"event": "child", "data": {"n": n}} for n in range(3)]}
            yield Abort
        yield done(request.steps["s"]["output"])

    app.script = script
    await app.register(connection, {"event": "parent"}, {"event": "child"})
    await start(daemons, app)
    runs = await output_of(connection, await send(connection, "parent"))
    assert [{"n": 0}, {"n": 1}, {"n": 2}] == [await output_of(connection, run) for run in runs[-3:]]
    assert 3 == len(app.of("child"))


@pytest.mark.parametrize("poll_only", [False, True])
async def test_a_cancelled_run_is_closed_before_a_heartbeat_says_so(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection, poll_only: bool
) -> None:
    """In the middle of a long step; nothing of it comes back, and the app is told by the closed connection."""

    async def script(request: Request) -> AsyncIterator[Any]:
        yield step("a")
        await asyncio.sleep(60)
        yield done()

    app.script = script
    await app.register(connection, {"event": "e"})
    running = await start(daemons, app, database={"poll_only": poll_only, "poll_interval": 0.2})
    run = await send(connection, "e")
    await wait_until(lambda: recorded(connection))
    assert await connection.fetchval("select slayq.cancel($1)", run)
    await wait_until(lambda: app.requests[0].abandoned, 4.0, "the connection being closed")
    await wait_until(lambda: gone(connection), 4.0, "the run being gone")
    assert not await connection.fetchval("select slayq.cancel($1)", run)
    assert 1 == len(app.requests)
    assert [] == [entry for entry in running.program.events if entry["level"] == "error"]


async def test_a_callee_that_is_cancelled_by_an_event_is_told_to_its_invoker(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """While it is being delivered; the event's own run is not cancelled."""

    async def parent(request: Request) -> AsyncIterator[Any]:
        if not request.steps:
            yield {"op": "invoke", "name": "child", "event": "child", "data": {"id": 7}}
            yield SUSPEND
        else:
            yield done(request.steps["child"]["error"])

    async def child(request: Request) -> AsyncIterator[Any]:
        yield step("a")
        await asyncio.sleep(60)

    app.scripts = {"parent": parent, "child": child}
    cancel_on = [{"event": "withdrawn", "match": "id"}]
    await app.register(
        connection,
        {"event": "parent"},
        {"event": "child", "cancel_on": cancel_on},
        {"event": "withdrawn", "cancel_on": cancel_on},
    )
    await start(daemons, app, worker={"lease": 120, "renew": 5})
    run = await send(connection, "parent")
    await wait_until(lambda: app.of("child"))
    own = await send(connection, "withdrawn", {"id": 7})
    told = await output_of(connection, run)
    assert ("InvocationFailed", True) == (told["type"], "was cancelled" in told["message"])
    assert app.of("child")[0].abandoned
    assert await output_of(connection, own) is None


async def gone(connection: asyncpg.Connection) -> bool:
    """Whether nothing is left of any run."""
    return not await connection.fetchval(
        "select exists (select from slayq.job) or exists (select from slayq.step) "
        "or exists (select from slayq.dead_letter)"
    )


async def test_a_drain_releases_what_outlives_the_grace(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """The attempt is not counted; what was recorded stays, and the next daemon goes on from there."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.steps:
            yield done([request.run["attempt"], sorted(request.steps)])
            return
        yield step("a")
        await asyncio.sleep(60)

    app.script = script
    await app.register(connection, {"event": "e"})
    first = await start(daemons, app, grace=0.2)
    run = await send(connection, "e")
    await wait_until(lambda: recorded(connection))
    first.program.send_signal(signal.SIGTERM)
    assert 0 == await first.program.wait()
    row = await connection.fetchrow("select state, attempts, delivery_failures from slayq.job")
    assert ("ready", 0, 0) == tuple(row)
    await start(daemons, app)
    assert [1, ["a"]] == await output_of(connection, run)


async def test_what_becomes_ready_in_a_drain_is_told_to_the_other_daemons(
    daemons: Daemons,
    app: OpsApp,
    connection: asyncpg.Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that drains leases nothing more, whatever slots it has free; and does not go before the word has gone.

    It runs in this process, with a slow way to tell others.
    """
    tell, told = Store.notify, asyncio.Event()

    async def slowly(store: Store, words: Sequence[str]) -> None:
        await asyncio.sleep(0.3)
        await tell(store, words)
        told.set()

    monkeypatch.setattr(Store, "notify", slowly)
    path = tmp_path / "first.json"
    path.write_text(json.dumps({**queue(), **KEPT, "callbacks": {"allow": [app.origin]}, "http": {"port": 0}}))
    made = settings.load(None, database_url=database_url, secret=SECRET)
    first = Daemon(load(path), made, notifier=Mock())
    running = asyncio.create_task(first.run())
    draining = asyncio.Event()

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.steps:
            yield done()
            return
        await draining.wait()
        yield step("a")
        yield SUSPEND

    app.script = script
    await wait_until(lambda: first.health().ready, 20.0, "the first daemon being ready")
    await app.register(connection, {"event": "e"})
    run = await send(connection, "e")
    await wait_until(lambda: app.requests)
    await start(daemons, app)
    first.stop()
    await asyncio.sleep(1.5)  # the other one has looked round, and sits idle until its heartbeat, 5 s after its start
    draining.set()
    await running
    assert told.is_set()
    await output_of(connection, run)


async def test_a_daemon_that_is_killed_loses_nothing_recorded(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """Another one takes the run over as the dead one's time is up."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if request.steps:
            yield done(sorted(request.steps))
            return
        yield step("a")
        await asyncio.sleep(60)

    app.script = script
    await app.register(connection, {"event": "e"})
    worker = {"worker": {"lease": 1.5, "renew": 0.3}}
    first = await start(daemons, app, **worker)
    run = await send(connection, "e")
    await wait_until(lambda: recorded(connection))
    first.program.send_signal(signal.SIGKILL)
    await first.program.wait()
    await start(daemons, app, **worker)
    assert ["a"] == await output_of(connection, run)


async def test_jobs_and_runs_share_a_queue(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """One limit for both."""
    running = 0
    most = 0

    async def script(request: Request) -> AsyncIterator[Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        yield step("a")
        await asyncio.sleep(0.02)
        running -= 1
        yield done()

    app.script = script
    await app.register(connection, {"event": "e"})
    await start(daemons, app, **queue(concurrency=3))
    runs = [await send(connection, "e") for _ in range(20)]
    for run in runs:
        await output_of(connection, run)
    assert most <= 3


async def test_urls_of_functions_keep_to_the_address_rules(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection
) -> None:
    """This machine only if it is listed, however it was registered."""
    await app.register(connection, {"event": "e"})
    await daemons.start(callbacks={"allow": ["https://elsewhere.example"]})
    letter = await letter_of(connection, await send(connection, "e"))
    assert "blocked" == letter["reason"]
    assert "callbacks.allow" in letter["last_error"]
    assert [] == app.requests


async def test_a_functions_schedule_fires(daemons: Daemons, app: OpsApp, connection: asyncpg.Connection) -> None:
    """It is planned by whichever daemon sees it first; a tick makes a run of the function."""
    await start(daemons, app, worker={"lease": 1.5, "renew": 0.3})
    await app.register(
        connection,
        {"event": "nightly", "cron": "TZ=Asia/Singapore 0 3 * * *"},
        {"event": "odd", "cron": "99 * * * *"},
    )
    planned = (
        "select extract(hour from next_at at time zone 'Asia/Singapore')::int "
        "from slayq.schedule where event = 'nightly' and planned"
    )
    assert 3 == await wait_until(lambda: connection.fetchval(planned))
    await connection.execute("update slayq.schedule set next_at = now() where event = 'nightly'")
    (request,) = await app.wait_for(1, 20.0)
    assert ("nightly", {}) == (request.event, request.run["data"])
    assert not await connection.fetchval("select planned from slayq.schedule where event = 'odd'")


async def test_a_daemon_that_is_cut_off_closes_its_streams(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection, database_url: str
) -> None:
    """Before the run goes to another daemon. What it could not write down any more is lost, and nothing else."""

    async def script(request: Request) -> AsyncIterator[Any]:
        if len(app.requests) > 1:
            yield done(sorted(request.steps))
            return
        yield step("a")
        await cut.wait()
        yield step("b")
        await asyncio.sleep(60)

    cut = asyncio.Event()
    app.script = script
    await app.register(connection, {"event": "e"})
    worker = {"worker": {"lease": 1.5, "renew": 0.3}}
    async with Wire(database_url) as wire:
        first = await start(daemons, app, env={"SLAY_Q_DATABASE_URL": wire.url}, **worker)
        run = await send(connection, "e")
        await wait_until(lambda: recorded(connection))
        wire.silence()
        cut.set()
        await wait_until(lambda: app.requests[0].abandoned, what="the connection being closed")
        assert 1 == len(app.requests)
        await start(daemons, app, **worker)
        assert ["a"] == await output_of(connection, run)
        first.program.send_signal(signal.SIGKILL)
        await first.program.wait()


async def test_an_outage_of_postgres_delays_a_run_and_no_more(
    daemons: Daemons, app: OpsApp, connection: asyncpg.Connection, database_url: str
) -> None:
    """What is said meanwhile is kept, and written down as soon as it is back."""

    async def script(request: Request) -> AsyncIterator[Any]:
        yield step("a")
        await silent.wait()
        for number in range(50):
            yield step(f"b{number}", number)
        said.set()
        yield done(len(app.requests))

    silent, said = asyncio.Event(), asyncio.Event()
    app.script = script
    await app.register(connection, {"event": "e"})
    async with Wire(database_url) as wire:
        await start(daemons, app, env={"SLAY_Q_DATABASE_URL": wire.url}, worker={"lease": 30, "renew": 5}, grace=1)
        run = await send(connection, "e")
        await wait_until(lambda: recorded(connection))
        wire.silence()
        silent.set()
        await said.wait()
        assert ["a"] == list(await recorded(connection))
        wire.restore()
        assert 1 == await output_of(connection, run)
