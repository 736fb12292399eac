"""RPC over HTTP: every row of the error table, the limits, and what a slow or hostile client can do.

The tasks are served in this process over the test's own database, so that each row is a test of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import structlog
from structlog.testing import capture_logs

from slayq.protocol import Task
from slayq_server.db.pool import Pool
from slayq_server.db.rpc import AppCalls
from slayq_server.http.health import HealthState
from slayq_server.http.rpc import Rpc
from slayq_server.http.server import HttpServer
from slayq_server.http.signed import BODY_LIMIT, Bodies
from slayq_server.metrics import Metrics
from slayq_server.protocol.rpc_v1 import AddJob, TriggerEvent
from tests.support.endpoint import SECRET
from tests.support.rpc import HEADER, call, post, sign
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from slayq_server.errors import DatabaseUnavailable
    from slayq_server.protocol.rpc_v1 import Call
    from tests.conftest import Connect

PAGE = (Path(__file__).parents[2] / "docs" / "rpc.md").read_text(encoding="utf-8")
URL = "https://app.example.com/slayq"
ADD = {"identifier": "mail", "job_key": "k", "payload": {"url": URL, "event": "shop/order", "data": {}}}
DEADLINE = 10.0
SECRETS = [SECRET, "an older secret"]


@dataclass
class Served:
    """The tasks, served."""

    base: str
    port: int
    pool: Pool
    calls: AppCalls
    metrics: Metrics
    errors: list[DatabaseUnavailable]
    """What was reported of the database."""


@asynccontextmanager
async def serving(pool: Pool, body_timeout: float = DEADLINE) -> AsyncIterator[Served]:
    metrics = Metrics(["mail"], [], "0", 1)
    calls = AppCalls(pool, at_once=2, turn_timeout=0.2, lock_timeout=0.1)
    errors: list[DatabaseUnavailable] = []

    async def carry_out(asked: Call) -> None:
        await calls.carry_out(asked, [])

    rpc = Rpc(carry_out, SECRETS, metrics, bodies=Bodies(body_timeout), on_error=errors.append)
    health = HealthState(
        database=True, database_down_for=0.0, schema=True, worker=True, leasing=True, draining=False, detail={}
    )
    server = HttpServer("127.0.0.1", 0, health=lambda: health, metrics=metrics, routes=rpc.routes)
    await server.start()
    try:
        yield Served(f"http://127.0.0.1:{server.port}", server.port, pool, calls, metrics, errors)
    finally:
        await server.close()


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """The test's own database."""
    opened = Pool(database_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def served(pool: Pool) -> AsyncIterator[Served]:
    """The tasks, served over the test's own database."""
    async with serving(pool) as running:
        yield running


async def no_jobs(connection: asyncpg.Connection) -> bool:
    return not await connection.fetchval("select exists (select from slayq.job)")


def refused(metrics: Metrics, reason: str) -> bool:
    """Whether exactly one request was refused for its signature, for this reason."""
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("slayq_auth_failures_total{")]
    counts = {line.partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    return {series for series, count in counts.items() if count} == {
        f'slayq_auth_failures_total{{reason="{reason}",surface="rpc"}}'
    }


# Signatures

BODY = json.dumps(ADD).encode()
GOOD = sign(BODY)
SIGNATURES: dict[str, tuple[str | None, str]] = {
    "missing": (None, "missing"),
    "empty": ("", "invalid"),
    "wrong": ("0" * 128, "invalid"),
    "upper case": (GOOD.upper(), "invalid"),
    "truncated": (GOOD[:127], "invalid"),
    "half": (GOOD[:64], "invalid"),
    "too long": (GOOD + "0", "invalid"),
    "with a prefix": (f"sha512={GOOD}", "invalid"),
    "of another body": (sign(BODY + b" "), "invalid"),
    "of an empty body": (sign(b""), "invalid"),
    "under another secret": (sign(BODY, "another"), "invalid"),
    "not ASCII": ("ö" * 128, "invalid"),
}


@pytest.mark.parametrize("name", SIGNATURES)
async def test_a_signature_that_does_not_fit(served: Served, connection: asyncpg.Connection, name: str) -> None:
    """401, whatever is wrong with it; nothing is done, and it is counted by reason."""
    signature, reason = SIGNATURES[name]
    said = await post(served.base, Task.ADD_WORKER_JOB, BODY, {} if signature is None else {HEADER: signature})
    assert 401 == said.status
    assert said.error.startswith(f"the signature {'is missing' if reason == 'missing' else 'does not fit the body'}: ")
    assert SECRET not in said.error
    assert await no_jobs(connection)
    assert refused(served.metrics, reason)


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b"{}", b""])
async def test_the_signature_comes_first(served: Served, body: bytes) -> None:
    """What else is wrong with a body is told only to who can sign it."""
    assert 401 == (await call(served.base, Task.ADD_WORKER_JOB, body, secret="another")).status
    assert 400 == (await call(served.base, Task.ADD_WORKER_JOB, body)).status


@pytest.mark.parametrize("secret", SECRETS)
async def test_any_secret_is_accepted(served: Served, secret: str) -> None:
    """While secrets are rotated, apps may sign with the newer or the older one."""
    assert (await call(served.base, Task.ADD_WORKER_JOB, ADD, secret=secret)).ok


async def test_the_signature_is_of_the_raw_bytes(served: Served, connection: asyncpg.Connection) -> None:
    """Spaces, escapes and numbers as they are: a body is not written anew before it is checked."""
    body = b' { "identifier" : "\\u006dail","job_key":"k","payload":{"url":"%s","event":"e","n":1.0}} \n' % URL.encode()
    assert (await call(served.base, Task.ADD_WORKER_JOB, body)).ok
    assert (
        b'{"url":"%s","event":"e","n":1.0}' % URL.encode()
        == (await connection.fetchval("select payload from slayq.job where queue = 'mail'")).encode()
    )


# Bodies

REFUSED: dict[str, tuple[Task, Any, str]] = {
    "not JSON": (Task.ADD_WORKER_JOB, b"nonsense", "the body is invalid JSON at character 0: expected a value"),
    "not an object": (Task.ADD_WORKER_JOB, [ADD], "the body must be a JSON object"),
    "not UTF-8": (Task.ADD_WORKER_JOB, b"\xff", "the body is not UTF-8"),
    "gzip": (
        Task.ADD_WORKER_JOB,
        gzip.compress(BODY),
        "the body is not UTF-8: send JSON in UTF-8, as it is, without a",
    ),
    "a missing field": (Task.ADD_WORKER_JOB, {**ADD, "payload": ...}, "payload: is missing"),
    "a mistyped field": (
        Task.ADD_WORKER_JOB,
        {**ADD, "max_attempts": "5"},
        "max_attempts: must be a whole number, not",
    ),
    "no date": (Task.ADD_WORKER_JOB, {**ADD, "run_at": "soon"}, "run_at: is not an ISO 8601 time"),
    "the year 10000": (Task.ADD_WORKER_JOB, {**ADD, "run_at": "+010000-01-01T00:00:00.000Z"}, "run_at: must be a time"),
    "SQ001": (Task.ADD_WORKER_JOB, {**ADD, "payload": {"event": "e"}}, "the payload has no usable url. Set"),
    "SQ001 for null": (Task.ADD_WORKER_JOB, {**ADD, "payload": None}, "the payload must be a JSON object, not null."),
    "SQ002": (
        Task.ADD_WORKER_JOB,
        {**ADD, "payload": {"url": URL, "event": "e", "data": "x" * 4194304}},
        "the payload has 4194",
    ),
    "SQ003": (Task.ADD_WORKER_JOB, {**ADD, "job_key": "k" * 513}, "the job key must have 1 to 512 characters"),
    "SQ004": (Task.ADD_WORKER_JOB, {**ADD, "job_key_mode": "always"}, "job_key_mode must be replace, "),
    "SQ005": (Task.ADD_WORKER_JOB, {**ADD, "priority": 32768}, "priority must be from -32768 to 32767"),
    "SQ006": (Task.ADD_WORKER_JOB, {**ADD, "identifier": ""}, "the queue name (identifier) must have 1 to 128"),
    "SQ007": (Task.ADD_WORKER_JOB, {**ADD, "payload": {"url": URL, "event": "e" * 513}}, "the event name has 513"),
    "deeper than Postgres reads": (
        Task.TRIGGER_WAITING_INVOKER,
        b'{"jobKey":"k","result":%s1%s}' % (b"[" * 10**6, b"]" * 10**6),
        "the JSON is nested more deeply than Postgres can read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_body_that_does_not_fit(served: Served, connection: asyncpg.Connection, name: str) -> None:
    """400 with a reason that says what is wrong; nothing is done, and it is no fault of the database's."""
    task, body, reason = REFUSED[name]
    if isinstance(body, dict):
        body = {key: value for key, value in body.items() if value is not ...}
    said = await call(served.base, task, body)
    assert 400 == said.status, said
    assert said.error.startswith(reason), said.error
    assert await no_jobs(connection)
    assert [] == served.errors


async def test_of_duplicate_keys_the_last_one_counts(served: Served, connection: asyncpg.Connection) -> None:
    """As JSON.parse has it."""
    body = BODY[:-1] + b',"identifier":"other","job_key":"last"}'
    assert (await call(served.base, Task.ADD_WORKER_JOB, body)).ok
    assert ("other", "last") == tuple(await connection.fetchrow("select queue, job_key from slayq.job"))


async def test_a_compressed_body_is_not_unpacked(served: Served) -> None:
    """Whatever Content-Encoding says: what is signed is what is read, so a small body cannot become a large one."""
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {HEADER: sign(bomb), "Content-Encoding": "gzip"}
    said = await post(served.base, Task.ADD_WORKER_JOB, io.BytesIO(bomb), headers)
    assert (400, True) == (said.status, said.error.startswith("the body is not UTF-8"))


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"]
)
async def test_any_content_type_will_do(served: Served, content_type: str) -> None:
    """The body is JSON in UTF-8, whatever a client calls it."""
    headers = {HEADER: sign(BODY), "Content-Type": content_type}
    assert (await post(served.base, Task.ADD_WORKER_JOB, BODY, headers)).ok


# Limits


def padded(size: int) -> bytes:
    """A good body of exactly so many bytes."""
    return BODY + b" " * (size - len(BODY))


async def test_a_payload_at_the_limit(served: Served, connection: asyncpg.Connection) -> None:
    """The largest payload that the SQL functions take comes through, with all that stands beside it."""
    head, tail = f'{{"url":"{URL}","event":"e","data":"', '"}'
    payload = head + "x" * (4194304 - len(head) - len(tail)) + tail
    body = f'{{"identifier":"{"q" * 128}","job_key":"{"k" * 512}","payload":{payload}}}'.encode()
    said = await call(served.base, Task.ADD_WORKER_JOB, body)
    assert said.ok, said
    assert 4194304 == await connection.fetchval("select octet_length(payload::text) from slayq.job")


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000]


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_a_body_at_the_limit_and_beyond(served: Served, chunked: bool) -> None:
    """As many bytes as the limit says are read; one more is 413, whether the length was told or not."""

    async def send(body: bytes) -> int:
        data = chunks(body) if chunked else io.BytesIO(body)
        return (await post(served.base, Task.ADD_WORKER_JOB, data, {HEADER: sign(body)})).status

    assert [200, 413] == [await send(padded(BODY_LIMIT)), await send(padded(BODY_LIMIT + 1))]


async def raw(served: Served, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request)
    await writer.drain()
    return reader, writer


def head(length: int, signature: str | None = GOOD, more: str = "") -> bytes:
    """A request's head that promises so many bytes."""
    signed = "" if signature is None else f"{HEADER}: {signature}\r\n"
    return f"POST /add-worker-job HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{signed}{more}\r\n".encode()


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(DEADLINE):
        return int((await reader.readline()).split(b" ")[1])


async def test_a_body_that_is_said_to_be_too_large_is_not_waited_for(served: Served) -> None:
    """413 as soon as the head is there."""
    reader, writer = await raw(served, head(BODY_LIMIT + 1))
    assert 413 == await status_of(reader)
    writer.close()


async def test_an_unsigned_body_is_not_waited_for(served: Served) -> None:
    """401 as soon as the head is there."""
    reader, writer = await raw(served, head(1000, signature=None))
    assert 401 == await status_of(reader)
    writer.close()


@pytest.mark.parametrize("sent", [b"", BODY[:20]], ids=["nothing", "a part"])
async def test_a_body_that_does_not_come(pool: Pool, sent: bytes) -> None:
    """408 after the time limit, and the connection is closed."""
    async with serving(pool, body_timeout=0.1) as served:
        reader, writer = await raw(served, head(len(BODY)) + sent)
        assert 408 == await status_of(reader)
        async with asyncio.timeout(DEADLINE):
            await reader.read()  # to the end: the server hangs up
        writer.close()


async def test_a_body_that_trickles(pool: Pool) -> None:
    """A byte now and then does not stretch the time limit."""
    async with serving(pool, body_timeout=0.2) as served:
        reader, writer = await raw(served, head(10_000))
        answer = asyncio.ensure_future(status_of(reader))
        async with asyncio.timeout(DEADLINE):
            while not answer.done():
                with contextlib.suppress(ConnectionError):
                    writer.write(b" ")
                    await writer.drain()
                await asyncio.wait([answer], timeout=0.01)
        assert 408 == await answer
        writer.close()


async def test_large_bodies_at_once_are_bounded(served: Served) -> None:
    """Sixteen are held; one more is sent away for a while, but small ones come through. They go, and there is room."""
    part = b" " * 100_000
    holding = [await raw(served, head(200_000) + part) for _ in range(16)]
    large = padded(200_000)

    async def large_status() -> int:
        return (await call(served.base, Task.ADD_WORKER_JOB, large)).status

    async def full() -> bool:
        return 503 == await large_status()

    await wait_until(full)
    said = await call(served.base, Task.ADD_WORKER_JOB, large)
    assert (503, "1") == (said.status, said.headers["Retry-After"])
    assert (await call(served.base, Task.ADD_WORKER_JOB, ADD)).ok
    for _, writer in holding:
        writer.transport.abort()

    async def room() -> bool:
        return 200 == await large_status()

    await wait_until(room)


@pytest.mark.parametrize("broken", [b"ZZ\r\nnot a length\r\n", b"5\r\nab"], ids=["bad chunk", "cut off"])
async def test_a_body_that_breaks_off(served: Served, monkeypatch: pytest.MonkeyPatch, broken: bytes) -> None:
    """Chunks that are none, or a client that goes in the middle: no fault of ours, and nothing is logged as one."""
    monkeypatch.setattr("slayq_server.http.server._log", structlog.stdlib.get_logger())
    request = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + broken
    with capture_logs() as logged:
        reader, writer = await raw(served, request)
        writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        writer.close()
        assert (await call(served.base, Task.ADD_WORKER_JOB, ADD)).ok
    assert b"500" not in answer.partition(b"\r\n")[0]
    assert [] == [entry for entry in logged if entry["log_level"] == "error"]


# Paths and methods


@pytest.mark.parametrize("path", ["nothing", "add_worker_job", "add-worker-job/", "ADD-WORKER-JOB", ""])
async def test_an_unknown_task(served: Served, path: str) -> None:
    """404, signed or not."""
    said = await call(served.base, path, ADD)
    assert (404, "error", "not_found") == (said.status, said.body["status"], said.body["error"])


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_method(served: Served, task: Task, method: str) -> None:
    """405, and which one is allowed."""
    said = await post(served.base, task, None, {HEADER: sign(b"")}, method=method)
    assert (405, "POST", "error") == (said.status, said.headers["Allow"], said.body["status"])


# The database


async def test_the_databases_reason(served: Served, connection: asyncpg.Connection) -> None:
    """500 with what Postgres said; it is reported, and the log has it."""
    await connection.execute(
        "create or replace function slayq._cancel_1(event_name text, match_name text, match_text text) returns bigint"
        " language plpgsql as $$ begin raise exception 'the dog ate it'; end $$"
    )
    said = await call(served.base, Task.CANCEL_PENDING_TASKS, {"event": "e", "matchKey": "k", "matchVal": "v"})
    assert (500, "Postgres refused a statement: the dog ate it (P0001)") == (said.status, said.error)
    assert ["StatementFailed"] == [type(error).__name__ for error in served.errors]


async def test_a_schema_that_is_not_there(served: Served, connection: asyncpg.Connection) -> None:
    """500 with what to do about it."""
    await connection.execute("drop function slayq._cancel_1")
    said = await call(served.base, Task.CANCEL_PENDING_TASKS, {"event": "e", "matchKey": "k", "matchVal": "v"})
    assert (500, True) == (said.status, "slayq-server migrate" in said.error)


async def test_a_database_that_went_away(served: Served) -> None:
    """503, and when to try again; what is wrong with a body is told all the same."""
    await served.pool.close()
    said = await call(served.base, Task.ADD_WORKER_JOB, ADD)
    assert (503, "5") == (said.status, said.headers["Retry-After"])
    assert said.error.startswith("Postgres cannot be reached")
    assert ["DatabaseUnavailable"] == [type(error).__name__ for error in served.errors]
    assert 400 == (await call(served.base, Task.ADD_WORKER_JOB, {})).status
    await served.pool.open()
    assert (await call(served.base, Task.ADD_WORKER_JOB, ADD)).ok


async def test_a_row_that_somebody_holds(served: Served, connection: asyncpg.Connection) -> None:
    """503 before long: a call does not wait for ever for another's transaction."""
    assert (await call(served.base, Task.ADD_WORKER_JOB, ADD)).ok
    async with connection.transaction():
        await connection.execute("select from slayq.job for update")
        said = await call(served.base, Task.ADD_WORKER_JOB, ADD)
    assert (503, "5") == (said.status, said.headers["Retry-After"])
    assert "lock timeout" in said.error
    assert (await call(served.base, Task.ADD_WORKER_JOB, ADD)).ok


async def test_calls_leave_connections_to_the_engine(
    served: Served, connection: asyncpg.Connection, connect: Connect
) -> None:
    """No more than two of the pool's four connections are for calls; one that gets no turn in time is told so."""
    assert (await call(served.base, Task.ADD_WORKER_JOB, ADD)).ok
    patient = AppCalls(served.pool, at_once=2, turn_timeout=0.2, lock_timeout=DEADLINE)
    again = AddJob("mail", json.dumps(ADD["payload"]), "k")
    held = connection.transaction()
    await held.start()
    await connection.execute("select from slayq.job for update")
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(patient.carry_out(again, [])) for _ in range(2)]
        watcher = await connect()

        async def blocked() -> bool:
            locked = (
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            )
            return 2 == await watcher.fetchval(locked)

        await wait_until(blocked)
        with pytest.raises(Exception, match="too many calls are waiting for the database"):
            await patient.carry_out(again, [])
        assert await served.pool.fetchval("clock")
        await held.rollback()
    assert [(), ()] == [task.result() for task in waiting]


# Words


async def test_own_words_are_heard_and_said_to_nobody(
    served: Served, connect: Connect, connection: asyncpg.Connection
) -> None:
    """A call returns the caller's own words; the others are said; the next transaction knows nothing of them."""
    await connection.execute(
        "insert into slayq.worker (name, version, queues, wants, expires_at)"
        " values ('w', '0', '{mail}', $1, now() + interval '1 hour')",
        ["mail", "other", 'odd, "{name}"', "@timer", "@lanes"],
    )
    words: list[str] = []
    listener = await connect()
    await listener.add_listener("slayq", lambda *heard: words.append(str(heard[3])))
    payload = json.dumps(ADD["payload"])
    own = ["mail", 'odd, "{name}"', "@timer"]
    cases: list[tuple[AddJob, tuple[str, ...]]] = [
        (AddJob("mail", payload, "a"), ("mail",)),
        (AddJob("other", payload, "b"), ()),
        (AddJob('odd, "{name}"', payload, "c"), ('odd, "{name}"',)),
        (AddJob("mail", payload, "d", queue_name="lane"), ("@timer",)),
    ]
    for added, heard in cases:
        assert heard == await served.calls.carry_out(added, own)
    assert () == await served.calls.carry_out(AddJob("mail", payload, "e"), [])
    await connection.execute("select pg_notify('slayq', 'mark')")
    await wait_until(lambda: "mark" in words)
    assert ["other", "mail", "mark"] == words


async def test_each_of_many_words_is_heard_once(served: Served, connection: asyncpg.Connection) -> None:
    """An event that wakes a hundred jobs of two queues."""
    for number in range(100):
        await connection.execute(
            "select slayq.add_job($1, $2, run_at => now() + interval '1 hour', job_key => $3)",
            f"q{number % 2}",
            json.dumps({"url": URL, "event": "e", "data": {}, "cache": {"s": False}}),
            f"k{number}",
        )
        await connection.execute(
            "select wait_for_worker_event($1, 'paid', 'id', '5', 's', now() + interval '1 hour')", f"k{number}"
        )
    heard = await served.calls.carry_out(TriggerEvent("paid", "id", "5"), ["q0", "q1", "q2"])
    assert ["q0", "q1"] == sorted(heard)
    assert 100 == await connection.fetchval("select count(*) from slayq.job where state = 'ready'")


# The page


async def test_the_documented_client(served: Served, connection: asyncpg.Connection) -> None:
    """docs/rpc.md's example in Python works as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    documented: dict[str, Any] = {}
    exec(code, documented)
    await asyncio.to_thread(documented["call"], served.base, SECRET, "add-worker-job", ADD)
    assert 1 == await connection.fetchval("select count(*) from slayq.job")
