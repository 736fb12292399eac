"""What the SQL API refuses: SQLSTATE class SQ0, a message that says what is wrong, a hint, and nothing inserted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from slayq_server.protocol.v1 import callback_of
from tests.sql.support import EVENT, QUEUE, URL, add, count, live

if TYPE_CHECKING:
    from tests.sql.support import Daemon

MEGABYTE = 2**20


def shaped(**members: object) -> str:
    """A payload with these members in place of the usual ones; None leaves one out."""
    whole = {"url": URL, "event": EVENT, "data": {}, **members}
    return json.dumps({key: value for key, value in whole.items() if value is not None})


def strange(member: str, text: str) -> str:
    """A payload with a member whose JSON text is given."""
    return shaped(**{member: "@"}).replace('"@"', text)


BAD_PAYLOADS = {
    "no url": (shaped(url=None), "SQ001", "no usable url"),
    "url null": (strange("url", "null"), "SQ001", "no usable url"),
    "url empty": (shaped(url=""), "SQ001", "no usable url"),
    "url a number": (shaped(url=5), "SQ001", "no usable url"),
    "url an object": (shaped(url={}), "SQ001", "no usable url"),
    "no event": (shaped(event=None), "SQ001", "no usable event"),
    "event null": (strange("event", "null"), "SQ001", "no usable event"),
    "event empty": (shaped(event=""), "SQ001", "no usable event"),
    "event a list": (shaped(event=["a"]), "SQ001", "no usable event"),
    "event of 513": (shaped(event="é" * 513), "SQ007", "513 characters"),
    "ftp": (shaped(url="ftp://example.com/"), "SQ001", "not an http or https"),
    "file": (shaped(url="file:///etc/passwd"), "SQ001", "not an http or https"),
    "javascript": (shaped(url="javascript:alert(1)"), "SQ001", "not an http or https"),
    "relative": (shaped(url="/slayq"), "SQ001", "not an http or https"),
    "no host": (shaped(url="https:///slayq"), "SQ001", "not an http or https"),
    "leading space": (shaped(url=" https://example.com/"), "SQ001", "not an http or https"),
    "user": (shaped(url="https://user@example.com/"), "SQ001", "credentials"),
    "password": (shaped(url="HTTP://user:pass@example.com/"), "SQ001", "credentials"),
    "space in url": (shaped(url="https://example.com/a b"), "SQ001", "white space"),
    "line end in url": (shaped(url="https://example.com/\r\nHost: evil"), "SQ001", "white space"),
    "tab in url": (shaped(url="https://example.com/\t"), "SQ001", "white space"),
    "url of 2049": (shaped(url="https://example.com/" + "x" * 2029), "SQ001", "2048"),
    "NUL in url": (strange("url", '"https://example.com/\\u0000"'), "SQ001", "url or event"),
    "lone surrogate in url": (strange("url", '"https://example.com/\\ud800"'), "SQ001", "url or event"),
    "NUL in event": (strange("event", '"a\\u0000b"'), "SQ001", "url or event"),
    "only NUL in event": (strange("event", '"\\u0000"'), "SQ001", "url or event"),
    "lone surrogate in event": (strange("event", '"a\\udfff"'), "SQ001", "url or event"),
    "NUL in the key url": (shaped(url=None)[:-1] + ', "u\\u0000rl": "https://example.com/"}', "SQ001", "no usable url"),
    "a string": ('"https://example.com/"', "SQ001", "must be a JSON object"),
    "a number": ("5", "SQ001", "must be a JSON object"),
    "null": ("null", "SQ001", "must be a JSON object"),
    "an empty object": ("{}", "SQ001", "no usable url"),
    "an empty array": ("[]", "SQ001", "at least one"),
    "an array of numbers": ("[1]", "SQ001", "at least one"),
    "an array of arrays": ("[[]]", "SQ001", "at least one"),
    "a batch without url": (f"[{shaped(url=None)}]", "SQ001", "no usable url"),
    "a batch of two urls": (f"[{shaped()}, {shaped(url='https://example.org/')}]", "SQ001", "same url and event"),
    "a batch of two events": (f"[{shaped()}, {shaped(event='other')}]", "SQ001", "same url and event"),
    "a batch with null": (f"[{shaped()}, null]", "SQ001", "same url and event"),
    "20 MB": (shaped(data="x" * 20 * MEGABYTE), "SQ002", "limit of 4194304"),
}


async def refused(connection: asyncpg.Connection, state: str, words: str, **given: Any) -> None:
    """The add is refused by both functions with the SQLSTATE, the words and a hint, and leaves nothing."""
    with pytest.raises(asyncpg.PostgresError) as error:
        await add(connection, **given)
    fields = error.value.as_dict()
    assert (fields["sqlstate"], words in fields["message"]) == (state, True), fields["message"]
    assert fields["hint"].endswith(".")
    assert len(fields["message"]) < 300
    assert await count(connection) == 0


@pytest.mark.parametrize("name", BAD_PAYLOADS)
@pytest.mark.parametrize("key", [None, "k"], ids=["plain", "keyed"])
async def test_bad_payloads(connection: asyncpg.Connection, name: str, key: str | None) -> None:
    """No usable url or event, a url that is no http address or has credentials in it, too large: refused."""
    raw, state, words = BAD_PAYLOADS[name]
    await refused(connection, state, words, raw=raw, key=key)


async def test_no_payload_at_all(connection: asyncpg.Connection) -> None:
    """null, or left out: refused."""
    for call in ("add_worker_job('mail')", "add_worker_job('mail', null)", "slayq.add_job('mail', job_key => 'k')"):
        with pytest.raises(asyncpg.PostgresError, match="has no payload") as error:
            await connection.execute(f"select {call}")
        assert error.value.sqlstate == "SQ001"
    assert await count(connection) == 0


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no queue": ({"queue": None}, "SQ006", "queue name"),
    "empty queue": ({"queue": ""}, "SQ006", "1 to 128"),
    "queue of 129": ({"queue": "q" * 129}, "SQ006", "1 to 128"),
    "the server's own queue": ({"queue": "@timer"}, "SQ006", "must not begin with @"),
    "empty serial queue": ({"serial": ""}, "SQ006", "1 to 512"),
    "serial queue of 513": ({"serial": "s" * 513}, "SQ006", "1 to 512"),
    "empty key": ({"key": ""}, "SQ003", "1 to 512 characters, not 0"),
    "key of 513": ({"key": "k" * 513}, "SQ003", "1 to 512 characters, not 513"),
    "key of 10 kB": ({"key": "é" * 10240}, "SQ003", "not 10240"),
    "no attempts": ({"max_attempts": 0}, "SQ005", "from 1 to 32767, not 0"),
    "negative attempts": ({"max_attempts": -1}, "SQ005", "not -1"),
    "too many attempts": ({"max_attempts": 32768}, "SQ005", "not 32768"),
    "priority too high": ({"priority": 32768}, "SQ005", "from -32768 to 32767"),
    "priority too low": ({"priority": -32769}, "SQ005", "not -32769"),
    "infinitely late": ({"run_at": datetime.max.replace(tzinfo=UTC)}, "SQ005", "before the year 10000"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
async def test_bad_arguments(connection: asyncpg.Connection, name: str) -> None:
    """Queue, serial queue, key, attempts, priority or time out of range: refused, alone and in bulk."""
    given, state, words = BAD_ARGUMENTS[name]
    await refused(connection, state, words, **given)
    spec = {
        "queue": QUEUE,
        "serial": None,
        "run_at": None,
        "max_attempts": None,
        "key": None,
        "priority": None,
        **given,
    }
    order = ("serial", "run_at", "max_attempts", "key", "priority")
    with pytest.raises(asyncpg.PostgresError) as error:
        await connection.execute(
            "select slayq.add_jobs(array[row($1, $2, $3, $4, $5, $6, $7, null)::slayq.job_spec])",
            spec["queue"],
            shaped(),
            *(spec[name] for name in order),
        )
    assert error.value.sqlstate == state
    assert await count(connection) == 0


@pytest.mark.parametrize("run_at", ["infinity", "-infinity", "294276-12-31", "10000-01-01"])
async def test_times_without_an_end(connection: asyncpg.Connection, run_at: str) -> None:
    """A job that would never run, or whose time no client can read, is refused; the far past is just due."""
    with pytest.raises(asyncpg.PostgresError, match="before the year 10000") as error:
        await connection.execute(f"select add_worker_job('mail', '{shaped()}', run_at => '{run_at}')")
    assert error.value.sqlstate == "SQ005"
    await connection.execute(f"select add_worker_job('mail', '{shaped()}', run_at => '4713-01-01 BC')")
    assert await count(connection, where="state = 'ready'") == 1


AT_THE_LIMIT: dict[str, dict[str, Any]] = {
    "names": {"queue": "q" * 128, "serial": "s" * 512, "key": "\U0001f600" * 512},
    "numbers": {"max_attempts": 32767, "priority": -32768},
    "other numbers": {"max_attempts": 1, "priority": 32767},
    "event": {"raw": shaped(event="é" * 512)},
    "url": {"raw": shaped(url="https://example.com/" + "x" * 2028)},
    "upper case scheme": {"raw": shaped(url="HTTPS://EXAMPLE.COM")},
    "at sign in the path": {"raw": shaped(url="https://example.com/@me?to=a@b#c@d")},
    "address": {"raw": shaped(url="http://[::1]:8080/x")},
    "4 MB": {"raw": shaped(data="x" * (4 * MEGABYTE - 200))},
    "many members": {"raw": shaped(data={f"key {n}": n for n in range(20_000)})},
}


@pytest.mark.parametrize("name", AT_THE_LIMIT)
async def test_what_is_just_allowed(connection: asyncpg.Connection, name: str) -> None:
    """The limits themselves are allowed, and what only looks wrong."""
    added = await add(connection, **AT_THE_LIMIT[name])
    assert added["id"] is not None


DEEP = 10_000


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
async def test_ten_thousand_levels_deep(
    connection: asyncpg.Connection, daemon: Daemon, opening: str, closing: str
) -> None:
    """Accepted, leased as it was stored, and cancelled by what stands beside it."""
    deep = opening * DEEP + "1" + closing * DEEP
    raw = f'{{"url":"{URL}","event":"{EVENT}","data":{{"n":1,"deep":{deep}}}}}'
    added = await add(connection, raw=raw)
    leased = await daemon.lease_one()
    assert (leased.id, leased.payload) == (added["id"], raw)
    await daemon.release(leased)
    assert await connection.fetchval("select slayq._cancel_1($1, 'n', '1')", EVENT) == 1


async def test_deeper_than_postgres_reads(connection: asyncpg.Connection) -> None:
    """A million levels: Postgres's own limit refuses it, and the connection lives on."""
    with pytest.raises(asyncpg.StatementTooComplexError):
        await add(connection, raw=f'{{"url":"{URL}","event":"{EVENT}","data":{"[" * 10**6}{"]" * 10**6}}}')
    assert await count(connection) == 0


STRANGE_DATA = [
    '"\\u0000"',
    '"a\\u0000b\\ud83d\\ude00"',
    '"\\ud800"',
    '"\\udfff\\ud800"',
    '{"\\u0000":"\\ud800"}',
    '["\\\\u0000", "\\u0000"]',
    '"\\uffff\\ufdd0\\u001a"',
]


@pytest.mark.parametrize("data", STRANGE_DATA, ids=range(len(STRANGE_DATA)))
@pytest.mark.parametrize("key", [None, "k"], ids=["plain", "keyed"])
async def test_nul_and_lone_surrogates_in_data(
    connection: asyncpg.Connection, daemon: Daemon, data: str, key: str | None
) -> None:
    """Accepted, stored and leased as they are, in data and in the cache; the callback can be made of them."""
    raw = f'{{"url":"{URL}","event":"{EVENT}","data":{{"x":{data}}},"cache":{{"step":{data}}}}}'
    await add(connection, key, raw=raw)
    leased = await daemon.lease_one()
    assert leased.payload == raw
    assert callback_of(leased.payload, leased.patches).url == URL


async def test_a_report_with_nul_in_it_is_a_report(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """A failed step's continuation is known as one, whatever its cache holds."""
    raw = f'{{"url":"{URL}","event":"{EVENT}","cache":{{"step":"\\u0000"}}}}'
    await add(connection, "k")
    leased = await daemon.lease_one()
    reported = await add(connection, "k", raw=raw)
    await daemon.complete(leased)
    assert (reported["attempts"], (await live(connection, "k"))["payload"]) == (1, raw)


@pytest.mark.parametrize("data", STRANGE_DATA[:3], ids=range(3))
async def test_strange_batches_are_joined(connection: asyncpg.Connection, data: str) -> None:
    """Arrays with such strings in them are batches like any others."""
    raw = f'[{{"url":"{URL}","event":"{EVENT}","data":{data}}}]'
    await add(connection, "k", raw=raw)
    await add(connection, "k", raw=raw)
    assert (await live(connection, "k"))["payload"] == raw[:-1] + "," + raw[1:]


async def test_text_that_is_no_json(connection: asyncpg.Connection) -> None:
    """Postgres itself refuses it, with its own code."""
    for text in ("", "{", "{'a': 1}", "NaN", '{"url": }'):
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await add(connection, raw=text)
    assert await count(connection) == 0


async def test_joined_batches_stay_within_the_limit(connection: asyncpg.Connection) -> None:
    """Arrays that are added to again and again are refused once together they are too large; what was there stays."""
    raw = f"[{shaped(data='x' * MEGABYTE)}]"
    for _ in range(3):
        await add(connection, "k", raw=raw)
    before = await live(connection, "k")
    with pytest.raises(asyncpg.PostgresError, match="limit of 4194304") as error:
        await add(connection, "k", raw=raw)
    assert error.value.sqlstate == "SQ002"
    assert await live(connection, "k") == before


@pytest.mark.parametrize("other", [{"url": "https://example.org/"}, {"event": "other"}])
async def test_joined_batches_have_one_target(connection: asyncpg.Connection, other: dict[str, str]) -> None:
    """An array of another url or event cannot be joined to the one that waits: refused, and what was there stays."""
    await add(connection, "k", raw=f"[{shaped()}]")
    before = await live(connection, "k")
    with pytest.raises(asyncpg.PostgresError, match="same url and event") as error:
        await add(connection, "k", raw=f"[{shaped(**other)}]")
    assert error.value.sqlstate == "SQ001"
    assert await live(connection, "k") == before
