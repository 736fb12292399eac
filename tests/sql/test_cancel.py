"""cancel_pending_tasks: which jobs it finds, in which state, by which values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.sql.support import (
    EVENT,
    URL,
    Daemon,
    add,
    cancel,
    count,
    job,
    later,
    live,
    wait_event,
    wait_invocation,
)

if TYPE_CHECKING:
    import asyncpg

    from slayq_server.db.store import Store


async def keys(connection: asyncpg.Connection) -> set[str]:
    """The keys of all jobs there are."""
    return {row["job_key"] for row in await connection.fetch("select job_key from slayq.job")}


async def test_pending_jobs_go_in_every_state(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Ready, scheduled, sleeping, waiting, retrying and blocked jobs of that event and value go; with their waits."""
    n = {"n": 1}
    await add(connection, "failing", n)
    await daemon.fail(await daemon.lease_one())
    for key in ("head", "blocked"):
        await add(connection, key, n, serial="lane")
    await daemon.store.promote(10)
    await add(connection, "ready", n)
    await add(connection, "scheduled", n, run_at=later())
    for key in ("asleep", "waiting", "invoking"):
        await add(connection, key, n, cache={}, run_at=later())
    await wait_event(connection, "waiting", "e", "k", "v")
    await wait_invocation(connection, "invoking", "callee")
    await add(connection, "other value", {"n": 2})
    await add(connection, "other event", n, event="shop/other")
    await add(connection, "other key", {"m": 1})
    assert await count(connection) == 11
    await cancel(connection, EVENT, "n", "1")

    assert await keys(connection) == {"other value", "other event", "other key"}
    assert (await count(connection, "wait"), await count(connection, "dead_letter")) == (0, 0)


@pytest.mark.parametrize("ending", ["fail", "release", "bury", "complete", "reap"])
async def test_a_delivered_job_is_marked(
    connection: asyncpg.Connection, daemon: Daemon, store: Store, ending: str
) -> None:
    """One being delivered keeps its row until its delivery ends; then nothing is left: no retry, no letter."""
    added = await add(connection, "k", {"n": 1}, max_attempts=1)
    leased = await daemon.lease_one()
    await cancel(connection, EVENT, "n", "1")
    row = await live(connection, added["id"])
    assert (row["state"], row["cancelled"], row["worker_id"]) == ("leased", True, daemon.worker_id)

    if ending == "reap":
        await daemon.expire(connection)
        reaped, _ = await store.reap(10)
        assert [(each.job_id, each.fate) for each in reaped] == [(added["id"], "dropped")]
    else:
        settled = await getattr(daemon, ending)(leased)
        assert settled.verdicts == {added["id"]: "settled" if ending == "complete" else "dropped"}
    assert (await count(connection), await count(connection, "dead_letter")) == (0, 0)


async def test_a_delivery_and_its_continuation_both_end(connection: asyncpg.Connection, daemon: Daemon) -> None:
    """Cancelled after the app's re-add and before its answer: the parked continuation goes, the delivery is marked."""
    await add(connection, "run", {"n": 1})
    leased = await daemon.lease_one()
    await add(connection, "run", {"n": 1}, cache={}, run_at=later())
    await cancel(connection, EVENT, "n", "1")

    assert await job(connection, "run") is None
    assert (await daemon.fail(leased)).verdicts == {leased.id: "dropped"}


# What the app put into the data, and the text that JavaScript's String() gives for it.
VALUES = [
    ("5", "5"),
    ("5.0", "5"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("0.10", "0.1"),
    ("-12.5e1", "-125"),
    ("1e2", "100"),
    ("1E+2", "100"),
    ("123456789012345678", "123456789012345680"),
    ("9007199254740993", "9007199254740992"),
    ("1e20", "100000000000000000000"),
    ("123456789012345678901", "123456789012345680000"),
    ("1e21", "1e+21"),
    ("-1.5e300", "-1.5e+300"),
    ("0.0001", "0.0001"),
    ("0.00001", "0.00001"),
    ("1.5e-6", "0.0000015"),
    ("1e-7", "1e-7"),
    ("-1.25e-10", "-1.25e-10"),
    ("5e-324", "5e-324"),
    ("1e-400", "0"),
    ("1e400", "Infinity"),
    ("-1e400", "-Infinity"),
    ("0e999", "0"),
    ("1" + "0" * 400, "Infinity"),
    ("1" + "0" * 400 + "e-400", "1"),
    ("1" + "0" * 800 + "e-100", "Infinity"),
    ("0." + "0" * 400 + "1", "0"),
    ("0.1234567890123456", "0.1234567890123456"),
    ("true", "true"),
    ("false", "false"),
    ('""', ""),
    ('"5"', "5"),
    ('" a "', " a "),
    ('"\\u00e9\\n\\"\\\\"', 'é\n"\\'),
    ('"\\ud83d\\ude00"', "\U0001f600"),
    ('"it\'s %s"', "it's %s"),
    ('"' + "x" * 5000 + '"', "x" * 5000),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=range(len(VALUES)))
async def test_values_are_compared_as_javascript_prints_them(
    connection: asyncpg.Connection, value: str, text: str
) -> None:
    """A job whose data has the value goes when the text is named, and for no other text."""
    await add(connection, "k", raw=f'{{"url":"{URL}","event":"{EVENT}","data":{{"v":{value}}}}}')
    for other in (f"{text} ", f"{text}0", "nothing"):
        await cancel(connection, EVENT, "v", other)
    assert await keys(connection) == {"k"}
    await cancel(connection, EVENT, "v", text)
    assert await keys(connection) == set()


async def test_the_callers_settings_do_not_matter(connection: asyncpg.Connection) -> None:
    """A session that prints numbers with fewer digits adds and cancels the same values as any other."""
    for digits in (-15, 0, 3):
        await connection.execute(f"set extra_float_digits = {digits}")
        await add(connection, f"{digits}", {"v": 0.1234567890123456})
    await cancel(connection, EVENT, "v", "0.1234567890123456")
    assert await keys(connection) == set()


async def test_null_arrays_and_objects_have_no_text(connection: asyncpg.Connection) -> None:
    """They match nothing, and neither do a null argument or data that is no object."""
    for key, data in [("null", None), ("array", [1]), ("object", {"x": 1})]:
        await add(connection, key, {"v": data})
    await add(connection, "list", raw=json.dumps({"url": URL, "event": EVENT, "data": [1, 2]}))
    await add(connection, "text", raw=json.dumps({"url": URL, "event": EVENT, "data": "v"}))
    await add(connection, "no data", raw=json.dumps({"url": URL, "event": EVENT}))
    before = await keys(connection)
    for value in ("null", "1", "[1]", '{"x":1}', '{"x": 1}', "[object Object]", "", "v"):
        await cancel(connection, EVENT, "v", value)
        await cancel(connection, EVENT, "0", value)
    for given in [(None, "v", "1"), (EVENT, None, "1"), (EVENT, "v", None)]:
        await cancel(connection, *given)
    assert await keys(connection) == before


async def test_of_a_repeated_key_the_last_value_counts(connection: asyncpg.Connection) -> None:
    """As in JavaScript."""
    await add(connection, "k", raw=f'{{"url":"{URL}","event":"{EVENT}","data":{{"v":1,"v":2}}}}')
    await cancel(connection, EVENT, "v", "1")
    assert await keys(connection) == {"k"}
    await cancel(connection, EVENT, "v", "2")
    assert await keys(connection) == set()


STRANGE = ['"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00x"', '"\\ud800\\ud800\\udc00"', '"\\\\u0000 \\u0000"']


@pytest.mark.parametrize("strange", STRANGE)
async def test_documents_with_nul_or_lone_surrogates(connection: asyncpg.Connection, strange: str) -> None:
    """A job is found by its other values, whatever stands beside them; by a part of the strange one, it is not."""
    document = f'{{"url":"{URL}","event":"{EVENT}","data":{{"odd":{strange},"v":"\\u00e9\\ud83d\\ude00\\\\u0000"}}}}'
    await add(connection, "k", raw=document)
    for value in ("", "ab", "x", "\U00010000", "\\u0000 ", "\ufffd", "?"):
        await cancel(connection, EVENT, "odd", value)
    assert await keys(connection) == {"k"}
    assert (await live(connection, "k"))["payload"] == document
    await cancel(connection, EVENT, "v", "é\U0001f600\\u0000")
    assert await keys(connection) == set()


async def test_a_collision_of_the_hash_is_ruled_out(connection: asyncpg.Connection) -> None:
    """Two jobs of the same hash: only the one whose event and value are named goes."""
    await add(connection, "same", {"v": "1"})
    await add(connection, "value", {"v": "2"})
    await add(connection, "event", {"v": "1"}, event="shop/other")
    await add(connection, "leased", {"v": "2"}, priority=-1)
    await connection.execute("update slayq.job set match_terms = array[slayq._match_term_1($1, 'v', '1')]", EVENT)
    assert await connection.fetchval("select slayq._cancel_1($1, 'v', '1')", EVENT) == 1
    assert await keys(connection) == {"value", "event", "leased"}


async def test_the_index_of_values_is_bounded(connection: asyncpg.Connection) -> None:
    """A GIN index never forgets a key: however many values come by, there are only so many keys."""
    keys_of = "select slayq._match_terms_1('shop/order', json_build_object('id', n, 'name', 'x' || n))"
    row = await connection.fetchrow(
        f"select count(*) as terms, count(distinct term) as different, min(term) as least, max(term) as most "
        f"from generate_series(1, 50000) as n, unnest(({keys_of})) as term"
    )
    assert row is not None
    assert (100_000, True, True) == (row["terms"], row["least"] >= 0, row["most"] < 2**20)
    assert row["different"] > 80_000  # and still tells values apart


async def test_parts_run_together_are_not_the_same(connection: asyncpg.Connection) -> None:
    """Event, key and value are told apart, even where their texts joined are equal."""
    await add(connection, "k", {"b\x1fc": "d"}, event="a")
    for parts in [("a", "b", "c\x1fd"), ("a\x1fb", "c", "d"), ("ab", "c", "d")]:
        await cancel(connection, *parts)
    assert await keys(connection) == {"k"}
    await cancel(connection, "a", "b\x1fc", "d")
    assert await keys(connection) == set()


async def test_a_batch_is_not_found_by_its_elements(connection: asyncpg.Connection) -> None:
    """A batch job's data is an array, which has no text: one element does not take the others with it."""
    await add(connection, "k", raw=json.dumps([{"url": URL, "event": EVENT, "data": {"n": n}} for n in (1, 2)]))
    for value in ("1", "2"):
        await cancel(connection, EVENT, "n", value)
    assert (await keys(connection), (await live(connection, "k"))["match_terms"]) == ({"k"}, None)
