"""An endpoint that is away costs few attempts and few connections, holds nobody else up, and is caught up with."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.support.daemon import FAST_BACKOFF, Daemons, Running, add, metric, until_no_jobs
from tests.support.endpoint import Endpoint, Reply
from tests.support.ops_app import Answer, OpsApp, done, send, step
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.support.cli import Cli
    from tests.support.ops_app import Request

LIMIT = 3
"""Failures in a row after which the circuit opens."""
QUICK: dict[str, Any] = {"worker": {"lease": 1, "renew": 0.2}}


def sections(*origins: str, pause: float = 0.2, **queue: Any) -> dict[str, Any]:
    """A configuration in which circuits open soon and probes follow soon."""
    return {
        "callbacks": {"allow": list(origins), "breaker": {"failures": LIMIT, "max_pause": pause}},
        "queues": {"mail": {"concurrency": 5, "backoff": {"base": 1, "factor": 1, "jitter": 0}, **queue}},
    }


async def states(connection: asyncpg.Connection) -> dict[str, int]:
    """How many jobs there are by state; those that are put off by themselves."""
    return dict(
        await connection.fetch(
            "select case when put_off is not null and run_at = put_off_until and state = 'scheduled' then 'put off'"
            " else state end, count(*) from slayq.job group by 1"
        )
    )


async def until_put_off(connection: asyncpg.Connection, number: int, *, at_least: bool = False) -> None:
    """Waits until so many jobs are put off."""

    async def so_many() -> bool:
        found = (await states(connection)).get("put off", 0)
        return found >= number if at_least else found == number

    await wait_until(so_many, 20, f"{number} jobs being put off")


async def test_an_endpoint_that_is_down_costs_few_attempts_and_is_caught_up_with(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection, unused_port: int, cli: Cli
) -> None:
    """Of 40 jobs most never try. Those of another endpoint, in the same queue, flow meanwhile; then all of them do."""
    async with Endpoint(port=unused_port) as app:
        url, origin = app.url, app.origin
    running = await daemons.start(**sections(origin, endpoint.origin, pause=1.0))
    for number in range(40):
        await add(connection, url, data={"n": number}, job_key=f"down-{number}")
    await running.program.wait_for_output('"circuit_opened"')
    await until_put_off(connection, 20, at_least=True)
    for number in range(20):
        await add(connection, endpoint.url, job_key=f"up-{number}")
    await endpoint.wait_for_finished(20)
    assert await tries(running) < 25

    assert 1 == await metric(running, "slayq_endpoints_away")
    assert 1 == await metric(running, 'slayq_circuit_transitions_total{to="open"}')
    (row,) = (await cli.json("endpoints", "list"))["endpoints"]
    assert (origin, "connect_error") == (row["endpoint"], row["result"])
    assert row["put_off"] > 0
    assert row["failures"] >= LIMIT
    assert origin in (await cli.ok("endpoints", "list")).stdout

    async with Endpoint(port=unused_port) as app:
        await running.program.wait_for_output('"circuit_closed"')
        await until_no_jobs(connection)
        # Each attempt was a try, and no try was made beside those.
        assert await tries(running) == sum(callback.retry - 1 for callback in app.received)
        assert 40 == len(app.received)
    assert 0 == await metric(running, "slayq_endpoints_away")
    assert 1 == await metric(running, 'slayq_circuit_transitions_total{to="closed"}')
    assert 30 <= await metric(running, 'slayq_jobs_put_off_total{queue="mail"}')
    assert [] == (await cli.json("endpoints", "list"))["endpoints"]
    assert 1 == len([line for line in running.program.events if line["event"] == "circuit_opened"])


async def tries(running: Running) -> int:
    """Deliveries that found nobody."""
    return int(await metric(running, 'slayq_callback_responses_total{queue="mail",result="connect_error"}'))


async def test_all_that_was_put_off_comes_at_once_when_a_probe_is_answered(
    daemons: Daemons, connection: asyncpg.Connection
) -> None:
    """None of them waits for the time until which it was put off, which is minutes away."""
    async with Endpoint() as app:
        app.handler = lambda _: 503
        running = await daemons.start(**sections(app.origin, pause=1.0))
        for number in range(30):
            await add(connection, app.url, data={"n": number})
        await until_put_off(connection, 20, at_least=True)
        failed = len(app.received)
        soon = await connection.fetchval(
            "select min(run_at) > now() + interval '3 min' from slayq.job"
            " where put_off <> '' and state = 'scheduled' and run_at = put_off_until"
        )
        assert soon
        app.handler = lambda _: 200
        await running.program.wait_for_output('"circuit_closed"')
        await until_no_jobs(connection)
        assert 10 <= sum(callback.retry == 1 for callback in app.received if callback.number > failed)


async def test_one_probe_at_a_time(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """However many slots are free, and however long the probe takes."""
    gates: list[asyncio.Event] = []

    def hold(_: object) -> Reply:
        gates.append(asyncio.Event())
        return Reply(503, hold=gates[-1])

    async with Endpoint() as app:
        app.handler = lambda _: 503
        config = sections(app.origin, pause=0.05, backoff={"base": 600, "factor": 1, "jitter": 0})
        running = await daemons.start(**config)
        for number in range(LIMIT):
            await add(connection, app.url, data={"n": number})
        await running.program.wait_for_output('"circuit_opened"')
        app.handler = hold
        for number in range(20):
            await add(connection, app.url, data={"n": number})
        for probe in range(5):
            await wait_until(lambda probe=probe: len(gates) == probe + 1)
            await until_put_off(connection, 20 - len(gates))
            assert 1 == app.running
            gates[-1].set()
        await wait_until(lambda: len(gates) == 6)
        app.handler = lambda _: 200
        gates[-1].set()
        await app.wait_for_finished(LIMIT + 20)
        assert [1] * len(app.received) == [callback.retry for callback in app.received]


async def test_a_serial_queue_keeps_its_order(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """Its head is put off and stays the head, whatever comes in meanwhile; only heads are put off."""
    hold = asyncio.Event()
    async with Endpoint() as app:
        app.handler = lambda callback: 503 if callback.event == "opens" else Reply(200, hold=hold)
        running = await daemons.start(**sections(app.origin))
        for _ in range(LIMIT):
            await add(connection, app.url, event="opens", max_attempts=1)
        await running.program.wait_for_output('"circuit_opened"')
        for number in range(3):
            for lane in ("a", "b", "c"):
                await add(connection, app.url, data={"lane": lane, "n": number}, queue_name=lane)

        async def waiting(expected: dict[str, int]) -> bool:
            return expected == await states(connection)

        await wait_until(partial(waiting, {"leased": 1, "put off": 2, "blocked": 6}), what="a probe")
        for lane in ("a", "b", "c"):
            await add(connection, app.url, data={"lane": lane, "n": 3}, queue_name=lane)
        await wait_until(partial(waiting, {"leased": 1, "put off": 2, "blocked": 9}), what="all being blocked")
        hold.set()
        await until_no_jobs(connection)
        order = [(callback.data["lane"], callback.data["n"]) for callback in app.received if callback.event != "opens"]
        for lane in ("a", "b", "c"):
            assert [0, 1, 2, 3] == [n for each, n in order if each == lane]


async def test_runs_use_neither_attempts_nor_deliveries(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """A durable run that is put off has failed in nothing."""
    away = True

    async def script(_: Request) -> AsyncIterator[Any]:
        if away:
            yield Answer(status=503)
        else:
            yield done("ok")

    async with OpsApp() as app:
        app.script = script
        await app.register(connection, {"event": "e"})
        running = await daemons.start(**sections(app.origin), retention={"done": "1h"})
        for _ in range(20):
            await send(connection, "e")
        await until_put_off(connection, 10, at_least=True)
        failures, attempts = await connection.fetchrow(
            "select sum(delivery_failures), max(attempts) from slayq.job where state = 'scheduled'"
        )
        assert failures <= len(app.requests)
        assert 0 == attempts
        away = False
        await running.program.wait_for_output('"circuit_closed"')
        await until_no_jobs(connection)
        assert 20 == await connection.fetchval("select count(*) from slayq.done_job")


async def test_a_run_that_begins_to_answer_closes_the_circuit(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """A probe may run for hours: what it says first shows that its app is there."""
    hold = asyncio.Event()
    away = True

    async def script(request: Request) -> AsyncIterator[Any]:
        if away:
            yield Answer(status=503)
            return
        yield step("first")
        if len(open_runs) == 0:
            open_runs.append(request)
            await hold.wait()
        yield done("ok")

    open_runs: list[Request] = []
    async with OpsApp() as app:
        app.script = script
        await app.register(connection, {"event": "e"})
        running = await daemons.start(**sections(app.origin))
        for _ in range(10):
            await send(connection, "e")
        await until_put_off(connection, 3, at_least=True)
        away = False
        await running.program.wait_for_output('"circuit_closed"')
        await wait_until(partial(jobs_left, connection, 1), what="one job being left")
        hold.set()
        await until_no_jobs(connection)


async def jobs_left(connection: asyncpg.Connection, number: int) -> bool:
    """Whether so many jobs are left."""
    return bool(number == await connection.fetchval("select count(*) from slayq.job"))


async def test_stopping_while_a_circuit_is_open(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """It ends at once and holds nothing; the next daemon brings forward what this one has put off."""
    async with Endpoint() as app:
        app.handler = lambda _: 503
        once = {"backoff": {"base": 600, "factor": 1, "jitter": 0}}
        first = await daemons.start(**sections(app.origin, pause=3600, **once))
        for number in range(20):
            await add(connection, app.url, data={"n": number})

        async def all_parked() -> bool:
            found = await states(connection)
            return found.keys() == {"put off", "scheduled"} and sum(found.values()) == 20

        await wait_until(all_parked, 20, "all being put off, or failed")
        first.program.send_signal(signal.SIGTERM)
        assert 0 == await first.program.wait()
        assert {"put off", "scheduled"} == (await states(connection)).keys()
        put_off = (await states(connection))["put off"]
        app.handler = lambda _: 200
        before = len(app.received)
        await daemons.start(**sections(app.origin, **once))
        await app.wait_for_finished(before + put_off)
        assert [1] * put_off == [callback.retry for callback in app.received[before:]]


async def test_a_daemon_that_is_killed_while_a_circuit_is_open(
    daemons: Daemons, connection: asyncpg.Connection
) -> None:
    """Once its row has expired, nobody says any more that the endpoint is away: another one brings its jobs forward."""
    async with Endpoint() as app:
        app.handler = lambda _: 503
        victim = await daemons.start(**sections(app.origin, pause=3600), **QUICK)
        for number in range(20):
            await add(connection, app.url, data={"n": number})
        await until_put_off(connection, 10, at_least=True)
        await wait_until(partial(says_away, connection, app.origin), what="the row saying so")
        victim.program.kill()
        before = (await states(connection))["put off"]
        app.handler = lambda _: 200
        received = len(app.received)
        await daemons.start(**sections(app.origin), **QUICK)
        await app.wait_for_finished(received + before)


async def says_away(connection: asyncpg.Connection, origin: str) -> bool:
    """Whether a worker row says that the endpoint is away."""
    return origin in await connection.fetchval("select string_agg(circuits::text, '') from slayq.worker")


async def test_a_daemon_that_finds_it_back_tells_the_others(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """Each has a breaker of its own. One whose next probe is an hour away probes when another has had an answer."""
    async with Endpoint() as app:
        app.handler = lambda callback: Reply(503, headers={"Retry-After": "3600"} if callback.event == "slow" else {})
        slow = await daemons.start(**sections(app.origin, pause=3600))
        config = sections(app.origin)
        quick = await daemons.start(**{**config, "queues": {"post": config["queues"]["mail"]}})
        for daemon, queue, event in ((slow, "mail", "slow"), (quick, "post", "quick")):
            for _ in range(LIMIT):
                await add(connection, app.url, queue=queue, event=event, max_attempts=1)
            await daemon.program.wait_for_output('"circuit_opened"')
            await add(connection, app.url, queue=queue, event=event)
        await until_put_off(connection, 1, at_least=True)
        app.handler = lambda _: 200
        await until_no_jobs(connection)
        for daemon in (slow, quick):
            await daemon.program.wait_for_output('"circuit_closed"')


async def test_switched_off_every_delivery_is_tried(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """Nothing is put off, as if there were no breaker."""
    async with Endpoint() as app:
        app.handler = lambda callback: 503 if callback.retry < 10 else 200
        running = await daemons.start(
            callbacks={"allow": [app.origin], "breaker": {"failures": False}},
            queues={"mail": {"concurrency": 5, "backoff": FAST_BACKOFF}},
        )
        for number in range(5):
            await add(connection, app.url, data={"n": number})
        await until_no_jobs(connection)
        assert 50 == len(app.received)
        assert 0 == await metric(running, 'slayq_circuit_transitions_total{to="open"}')
