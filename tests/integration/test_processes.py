"""`--processes N`: several daemons behind one port, under one supervisor. Real processes, killed for real."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from slayq_server import child
from slayq_server.child import Reaper
from tests.support.daemon import FAST_BACKOFF, Daemons, Running, add, until_no_jobs
from tests.support.endpoint import Endpoint, Received, Reply
from tests.support.rpc import call
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.support.process import Program

QUEUES = {"mail": {"concurrency": 3, "backoff": FAST_BACKOFF}, "serial": {"concurrency": 1, "backoff": FAST_BACKOFF}}
SHORT = {"lease": 2, "renew": 0.5}
"""A worker whose jobs go back soon after it was killed."""
START = 60.0
"""Seconds within which processes start on a machine that does much else."""


async def start(daemons: Daemons, *arguments: str, **sections: Any) -> Running:
    """A server of two processes, both ready."""
    running = await daemons.start("--processes", "2", *arguments, **{"queues": QUEUES, **sections})
    await running.program.wait_until_answers(f"{running.url}/readyz", timeout=START)
    return running


def pids(program: Program) -> dict[int, int]:
    """The process ids that the log names, by number: the newest."""
    return {line["process"]: line["pid"] for line in program.events if line["event"] == "process_started"}


async def get(running: Running, path: str) -> tuple[int, str]:
    """Status and body."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(running.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def metric(running: Running, name: str, **labels: str) -> dict[str, float]:
    """A metric's value in each process, added up over what the labels leave open."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families((await get(running, "/metrics"))[1]):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                process = sample.labels["process"]
                found[process] = found.get(process, 0.0) + sample.value
    return found


async def until_gone(*pids: int) -> None:
    """Waits until none of these processes is there; one that nobody has collected yet is not."""

    def gone() -> bool:
        for pid in pids:
            try:
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    return False
            except psutil.NoSuchProcess:
                continue
        return True

    await wait_until(gone, 30.0, f"the end of {pids}")


def queue_of(callback: Received) -> str:
    """The tests put the queue into the event's name."""
    return callback.event.partition("/")[0]


async def fill(connection: asyncpg.Connection, endpoint: Endpoint, number: int) -> None:
    """Adds so many jobs to each queue."""
    for n in range(number):
        for queue in QUEUES:
            await add(connection, endpoint.url, queue=queue, event=f"{queue}/{n}")


async def test_limits_hold_and_metrics_add_up(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Of all processes together: three at once and one at once, no more and no less; each job once, and counted."""
    hold = asyncio.Event()
    running_now: dict[str, int] = dict.fromkeys(QUEUES, 0)
    most: dict[str, int] = dict(running_now)

    async def handler(callback: Received) -> Reply | int:
        queue = queue_of(callback)
        running_now[queue] += 1
        most[queue] = max(most[queue], running_now[queue])
        await hold.wait()
        await asyncio.sleep(0)
        running_now[queue] -= 1
        return 200

    endpoint.handler = handler
    await fill(connection, endpoint, 30)
    running = await start(daemons)
    await wait_until(lambda: running_now == {"mail": 3, "serial": 1}, what="every slot being used")
    hold.set()
    await until_no_jobs(connection, 30.0)
    assert {"mail": 3, "serial": 1} == most
    assert 60 == len(endpoint.received) == len({callback.event for callback in endpoint.received})

    completed = {queue: await metric(running, "slayq_job_attempts_total", queue=queue) for queue in QUEUES}
    assert {"mail": 30.0, "serial": 30.0} == {queue: sum(each.values()) for queue, each in completed.items()}
    assert all(count > 0 for count in completed["mail"].values()), "both processes took part"
    limits = {queue: await metric(running, "slayq_queue_concurrency_limit", queue=queue) for queue in QUEUES}
    assert {"mail": 3.0, "serial": 1.0} == {queue: sum(each.values()) for queue, each in limits.items()}
    assert {"1": 1.0, "2": 1.0} == await metric(running, "slayq_process_up")


async def test_apps_need_not_know_how_many_there_are(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Calls are taken by any process, also for the queue that only one of them serves; each is carried out once."""
    running = await start(daemons)
    events = [f"serial/{n}" for n in range(20)]
    payloads = [{"url": endpoint.url, "retry": 0, "event": event, "data": {}} for event in events]
    calls = [{"identifier": "serial", "job_key": each["event"], "payload": each} for each in payloads]
    said = await asyncio.gather(*(call(running.url, "add-worker-job", each) for each in calls))
    assert all(each.ok for each in said), said[0]
    await until_no_jobs(connection, 30.0)
    assert sorted(events) == sorted(each.event for each in endpoint.received)
    assert 1 == endpoint.most_at_once
    assert 20.0 == sum((await metric(running, "slayq_rpc_requests_total", task="add-worker-job", code="200")).values())


async def test_a_process_that_is_killed_is_started_again_and_its_jobs_are_not_lost(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """Meanwhile the port answers, says who is missing, and a broken file on the disk is no matter."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(hold=hold)
    running = await start(daemons, worker=SHORT)
    await fill(connection, endpoint, 4)
    await endpoint.wait_for(4)
    # Whoever starts now is given what is in force, whatever the file has come to be.
    (daemons.folder / "slay-config-0.json").write_text("{")
    before = pids(running.program)
    os.kill(before[1], signal.SIGKILL)
    status, body = await get(running, "/readyz")
    assert (503, False) == (status, json.loads(body)["checks"]["processes"])
    assert 200 == (await get(running, "/healthz"))[0]
    hold.set()
    await until_no_jobs(connection, 60.0)
    assert {f"{queue}/{n}" for queue in QUEUES for n in range(4)} == {each.event for each in endpoint.finished}
    await running.program.wait_until_answers(f"{running.url}/readyz", timeout=START)
    after = pids(running.program)
    assert (before[2], True) == (after[2], before[1] != after[1])
    assert {"1": 1.0, "2": 0.0} == await metric(running, "slayq_process_restarts_total")
    (ended,) = [line for line in running.program.events if line["event"] == "process_ended"]
    assert (1, "SIGKILL") == (ended["process"], ended["signal"])
    assert 3.0 == sum((await metric(running, "slayq_queue_concurrency_limit", queue="mail")).values())


async def test_sigterm_drains_all(daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection) -> None:
    """What runs may end, in each process; the rest stays; exit code 0. The log is one stream of whole lines."""
    hold = asyncio.Event()
    endpoint.handler = lambda _: Reply(hold=hold)
    running = await start(daemons)
    await fill(connection, endpoint, 4)
    await endpoint.wait_for(4)
    running.program.terminate()
    await running.program.wait_until_answers(f"{running.url}/readyz", 503)
    hold.set()
    assert 0 == await running.program.wait(30.0)
    assert 4 == len(endpoint.finished)
    assert {"ready": 4} == dict(await connection.fetch("select state, count(*) from slayq.job group by state"))
    assert not await connection.fetchval("select exists (select from slayq.worker where expires_at > now())")
    await until_gone(*pids(running.program).values())
    lines = [json.loads(line) for line in running.program.stderr.splitlines()]
    assert {None, 1, 2} == {line.get("process") for line in lines if line["event"] == "stopped"}


async def test_a_second_signal_hurries_all(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """The grace is over at once: all is given back."""
    endpoint.handler = lambda _: Reply(hold=asyncio.Event())
    running = await start(daemons, grace=3600)
    await fill(connection, endpoint, 3)
    await endpoint.wait_for(4)
    running.program.send_signal(signal.SIGINT)
    await wait_until(lambda: 2 == sum(line["event"] == "draining" for line in running.program.events))
    running.program.terminate()
    assert 0 == await running.program.wait(30.0)
    assert {"ready": 6} == dict(await connection.fetch("select state, count(*) from slayq.job group by state"))


async def test_when_the_supervisor_is_killed_no_process_is_left(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """They give back what they hold and end by themselves, and the port is free."""
    endpoint.handler = lambda _: Reply(hold=asyncio.Event())
    running = await start(daemons, grace=3600)
    await fill(connection, endpoint, 1)
    await endpoint.wait_for(2)
    left = pids(running.program).values()
    assert 2 == len(left)
    running.program.kill()
    await until_gone(*left)
    assert {"ready": 2} == dict(await connection.fetch("select state, count(*) from slayq.job group by state"))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", running.port))


async def test_a_reload_reaches_all_and_a_bad_file_none(
    daemons: Daemons, endpoint: Endpoint, connection: asyncpg.Connection
) -> None:
    """New limits are divided anew; what is wrong, in the file or only as a whole, changes nothing and is told."""
    running = await start(daemons)
    path = daemons.folder / "slay-config-0.json"

    async def reload(text: str, ok: float) -> dict[str, float]:
        path.write_text(text)
        running.program.send_signal(signal.SIGHUP)

        async def told() -> bool:
            return {"1": ok, "2": ok} == await metric(running, "slayq_config_last_reload_successful")

        await wait_until(told, 20.0, "both having heard of it")
        return await metric(running, "slayq_queue_concurrency_limit", queue="mail")

    before = await metric(running, "slayq_queue_concurrency_limit", queue="mail")
    assert before == await reload("{", 0.0)
    assert {"1": 4.0, "2": 3.0} == dict(
        zip("12", sorted((await reload(with_limit(daemons, 7), 1.0)).values(), reverse=True), strict=True)
    )
    await reload("{", 0.0)  # so that what comes next is news
    assert {"1": 1.0, "2": 1.0} == await reload(with_limit(daemons, 2), 1.0)


def with_limit(daemons: Daemons, limit: int) -> str:
    """The configuration with another limit for mail."""
    return json.dumps(daemons.config(queues={**QUEUES, "mail": {"concurrency": limit}}))


async def test_the_service_manager_hears_of_one_server(daemons: Daemons, tmp_path: Path) -> None:
    """That it is ready, once; that it lives; that it stops: from the supervisor alone, which is the main process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.settimeout(START)
        running = await start(daemons, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        running.program.terminate()
        assert 0 == await running.program.wait(30.0)
        heard: list[bytes] = []
        senders: set[int] = set()
        while b"STOPPING=1" not in heard:
            said, ancillary, _, _ = manager.recvmsg(100, 100)
            heard.append(said)
            senders.add(int.from_bytes(ancillary[0][2][:4], sys.byteorder))
    assert {running.program.pid} == senders
    assert 1 == heard.count(b"READY=1")
    assert b"WATCHDOG=1" in heard


async def test_a_port_that_is_taken_is_told_at_once(daemons: Daemons) -> None:
    """Also by another server of several processes: it is shared within one server, and with no other."""
    running = await start(daemons)
    program = daemons.launch("--processes", "2", http={"port": running.port})
    assert 78 == await program.wait(START)
    assert "is in use" in program.stderr
    assert {} == pids(program)


async def test_what_no_restart_mends_ends_the_server(daemons: Daemons, connection: asyncpg.Connection) -> None:
    """A schema of a newer release: every process says so, once, and the exit code is theirs."""
    await connection.execute("insert into slayq.migration values (9999, 'newer', '', 9999, '9.9.9')")
    program = daemons.launch("--processes", "2", queues=QUEUES)
    assert 78 == await program.wait(START)
    assert "end as soon as they have started" in program.stderr
    failed = [line for line in program.events if line["event"] == "process_failed"]
    assert {1, 2} >= {line["process"] for line in failed} != set()
    started = [line["process"] for line in program.events if line["event"] == "process_started"]
    assert {1, 2} == set(started)
    assert len(started) < 6  # one may try again for as long as the other has not failed yet


@pytest.fixture
def broken_driver(tmp_path: Path) -> str:
    """A folder with a module that ends every process that imports it, which the supervisor does not."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "asyncpg.py").write_text("raise SystemExit(3)\n")
    return str(folder)


async def test_processes_that_die_over_and_over_are_given_up(daemons: Daemons, broken_driver: str) -> None:
    """Not before several tries, with growing pauses, and with their exit code."""
    program = daemons.launch("--processes", "2", env={"PYTHONPATH": broken_driver}, queues=QUEUES)
    assert 3 == await program.wait(START)
    ended = [line for line in program.events if line["event"] == "process_ended" and line["process"] == 1]
    assert [0.5, 1.0] == [line["restart_seconds"] for line in ended][:2]
    assert "end as soon as they have started, the last one with exit code 3" in program.stderr
    assert "Traceback" not in program.stderr


class Waiter(Reaper):
    """Collects the one process that it is asked for: pytest has others."""

    def ended(self, pid: int) -> asyncio.Future[int]:
        def wait() -> int:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        return asyncio.ensure_future(asyncio.to_thread(wait))


async def test_a_process_whose_event_loop_stands_still_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that answers, and not before several questions were left without an answer."""
    monkeypatch.setattr(child, "_PING_EVERY", 0.02)
    monkeypatch.setattr(child, "_ANSWERS_WITHIN", 0.2)
    asked, frozen = asyncio.Event(), asyncio.Event()

    async def answer(what: str, data: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    lifeline, ours = os.pipe()
    process = child.Child(
        reaper=Waiter(), lifeline=lifeline, sockets=(), answer=answer, on_frozen=frozen.set, out=io.BytesIO()
    )
    running = asyncio.create_task(process.run())
    try:
        async with asyncio.timeout(START):
            await asked.wait()
            for _ in range(20):
                await process.channel.ask("ping", timeout=10)
            assert not frozen.is_set()
            process.signal(signal.SIGSTOP)
            assert -signal.SIGKILL == await running
        assert frozen.is_set()
    finally:
        process.signal(signal.SIGKILL)
        os.close(lifeline)
        os.close(ours)


async def test_one_process_is_none_of_this(daemons: Daemons) -> None:
    """Without --processes there is no supervisor, and no label."""
    running = await daemons.start(queues=QUEUES)
    assert [] == psutil.Process(running.program.pid).children()
    assert "process" not in (await get(running, "/metrics"))[1]
    assert all("process" not in line for line in running.program.events)
