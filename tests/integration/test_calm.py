"""A daemon in trouble stays calm: it says what is wrong once, waits, and goes on by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.daemon import Daemons, add, until_no_jobs

if TYPE_CHECKING:
    import asyncpg

    from tests.support.endpoint import Endpoint
    from tests.support.process import Program

QUIETLY = {"SLAY_Q_LOG_LEVEL": "info"}


def lines_of(program: Program, event: str) -> list[dict[str, Any]]:
    """The daemon's lines of one name."""
    return [line for line in program.events if line["event"] == event]


async def test_an_endpoint_that_fails_a_thousand_times_is_no_log_storm(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """The first failure is logged, then ever fewer with a count; the recovery once. Every dead letter has its line."""
    endpoint.handler = lambda callback: 404 if callback.data == "bad" else 500
    running = await daemons.start(env=QUIETLY)
    for number in range(50):
        await add(connection, endpoint.url, data={"n": number}, max_attempts=1000)
    await endpoint.wait_for(1000, timeout=30)
    for _ in range(3):
        await add(connection, endpoint.url, data="bad", priority=-1)
    await running.program.wait_for_output('"job_dead"')
    endpoint.handler = lambda callback: 404 if callback.data == "bad" else 200
    await until_no_jobs(connection)
    await running.program.wait_for_output('"endpoint_answers_again"')
    failures = lines_of(running.program, "job_retried")
    assert "left_out" not in failures[0]
    assert len(failures) < 30
    recoveries = lines_of(running.program, "endpoint_answers_again")
    assert {endpoint.origin.removeprefix("http://")} == {line["endpoint"] for line in recoveries}
    told = len(failures) + sum(line.get("left_out", 0) for line in [*failures, *recoveries])
    refused = sum(1 for callback in endpoint.received if callback.data != "bad") - 50
    # A failure that is on its way as the first success comes is told of with the next one.
    assert told in range(refused - 9, refused + 1)
    assert 3 == len(lines_of(running.program, "job_dead"))
