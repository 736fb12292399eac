"""Callbacks of protocol v1: from a payload as it is stored to the bytes that go over the wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slayq.protocol import BODY_KEYS
from slayq.signing import sign_v1
from slayq_server.protocol.js_json import canonical
from slayq_server.protocol.v1 import Callback, UndeliverablePayload, callback_of, keep_indexes

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "signature.json").read_text(encoding="utf-8")
)
URL = "http://127.0.0.1:3950/"


def cache_of(cache: str | None, patches: str | None) -> str | None:
    """The text of `cache` in the body made of a payload with that cache (None: without one) and those patches."""
    member = "" if cache is None else f', "cache": {cache}'
    body = callback_of(f'{{"url":"{URL}","event":"a/b"{member}}}', patches).body("k", 1, 2).decode()
    before = '{"job_key":"k","retry":1,"time":2,"event":"a/b"'
    assert body.startswith(before)
    rest = body.removeprefix(before).removesuffix("}")
    return rest.removeprefix(',"cache":') or None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """A stored payload becomes the very body that JavaScript made of it, and the same signature."""
    body = callback_of(vector["payload_json_text"], None).body(vector["job_key"], vector["attempts"], vector["time"])
    assert vector["body_json_text"] == body.decode()
    assert vector["sig"] == sign_v1(vector["secret"], body)


def test_key_order() -> None:
    """The body's keys stand in the protocol's order, whatever the payload's; nothing else of the payload gets in."""
    payload = f'{{"time":1,"cache":{{}},"x":0,"data":[],"job_key":"p","event":"a/b","retry":9,"url":"{URL}"}}'
    body = callback_of(payload, None).body("own", 3, 1_700_000_000_000)
    expected = b'{"job_key":"own","retry":3,"time":1700000000000,"event":"a/b","data":[],"cache":{}}'
    assert expected == body
    assert list(BODY_KEYS) == list(json.loads(body))


def test_prepared_once() -> None:
    """A callback is a value; bodies of several deliveries differ in number and time alone."""
    callback = callback_of(f'{{"event": "a/b", "url": "{URL}", "data": 1.0}}', None)
    assert Callback(URL, "a/b", '"event":"a/b","data":1') == callback
    first = b'{"job_key":"cron","retry":1,"time":5,"event":"a/b","data":1}'
    second = b'{"job_key":"","retry":2,"time":6,"event":"a/b","data":1}'
    assert first == callback.body(None, 1, 5)
    assert second == callback.body("", 2, 6)


def test_last_of_repeated_members() -> None:
    """Of a repeated member of the payload the last one counts, url and event included."""
    payload = f'{{"url":1,"event":"x","data":1,"url":"{URL}","data":2,"\\u0065vent":"y"}}'
    assert Callback(URL, "y", '"event":"y","data":2') == callback_of(payload, None)


def test_exotic_strings() -> None:
    """Halves of surrogate pairs and NULs in event, key and data are delivered as escapes."""
    callback = callback_of(f'{{"url":"{URL}","event":"a\\u0000\\uD800","data":"\\uDC00"}}', None)
    expected = r'{"job_key":"k\u0000\udc00é","retry":1,"time":2,"event":"a\u0000\ud800","data":"\udc00"}'
    assert expected == callback.body("k\0\udc00é", 1, 2).decode()


@pytest.mark.parametrize("levels", [10_000, 100_000])
def test_deep_payload(levels: int) -> None:
    """A payload of any depth is delivered."""
    data = "[" * levels + "]" * levels
    body = callback_of(f'{{"url":"{URL}","event":"e","data":{data}}}', f'[["s", {data}]]').body("k", 1, 2).decode()
    assert f'{{"job_key":"k","retry":1,"time":2,"event":"e","data":{data},"cache":{{"s":{data}}}}}' == body


@pytest.mark.parametrize(
    ("cache", "patches", "expected"),
    [
        (None, None, None),
        (None, "[]", None),
        ("null", None, "null"),
        ("null", " [ ] ", "null"),
        ("5", "[]", "5"),
        (None, '[["s",true]]', '{"s":true}'),
        ("null", '[["s",false]]', '{"s":false}'),
        ("{ }", '[["s",null]]', '{"s":null}'),
        ('{"a":1}', '[["s", 2.0], ["t", {"b":1,"1":-0}]]', '{"a":1,"s":2,"t":{"1":0,"b":1}}'),
        ('{"a":1,"b":2}', '[["a",3]]', '{"a":3,"b":2}'),
        ("{}", '[["a",1],["b",2],["a",3]]', '{"a":3,"b":2}'),
        ('{"b":1,"5":2}', '[["10",3],["2",4],["a",5],["5",6]]', '{"2":4,"5":6,"10":3,"b":1,"a":5}'),
        ("{}", '[["b",1],["\\u0031",2]]', '{"1":2,"b":1}'),
        ("{}", '[["__proto__",1],["",2],["a.b,{c}\\"",3]]', '{"__proto__":1,"":2,"a.b,{c}\\"":3}'),
        ("{}", '[["s",1e21],["t",[1e-7,"\\ud800"]]]', '{"s":1e+21,"t":[1e-7,"\\ud800"]}'),
        ("{}", '[["s",1e999]]', '{"s":null}'),
    ],
)
def test_patches(cache: str | None, patches: str | None, expected: str | None) -> None:
    """Step results go into the cache one after the other; it is printed as JavaScript prints the resulting object."""
    assert expected == cache_of(cache, patches)
    if expected is not None:
        assert expected == canonical(expected)


@pytest.mark.parametrize(
    ("cache", "patches", "reason"),
    [
        ("{}", "[[1,2]]", "step result 0 of the job must be an array of a step's name and a value"),
        ("{}", '[["a",1],["a"]]', "step result 1 of the job"),
        ("{}", '[["a",1,2]]', "step result 0 of the job"),
        ("{}", '["ab"]', "step result 0 of the job"),
        ("{}", '{"a":1}', "must be an array of .step, value., not an object"),
        ("{}", "[[", "the job's list of step results is invalid JSON at character 2"),
        ("[]", '[["a",1]]', "cache of the payload must be an object for steps to be added, not an array"),
        ('"x"', '[["a",1]]', "not a string"),
        ("0", '[["a",1]]', "not a number"),
        ("false", '[["a",1]]', "not a boolean"),
    ],
)
def test_patches_that_do_not_fit(cache: str, patches: str, reason: str) -> None:
    """Step results that cannot be set lose nothing silently: the payload is undeliverable, for a stated reason."""
    with pytest.raises(UndeliverablePayload, match=reason):
        cache_of(cache, patches)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("", "the payload is invalid JSON at character 0"),
        ('{"url":"secret', "the payload is invalid JSON at character 7"),
        ("null", "must be a JSON object with url and event, not null"),
        ("1", "not a number"),
        ("1e21", "not a number"),
        ('"x"', "not a string"),
        ("true", "not a boolean"),
        ("{}", "the payload has no url"),
        ('{"url":null,"event":"e"}', "url of the payload must be a non-empty string, not null"),
        ('{"url":["u"],"event":"e"}', "url of the payload must be a non-empty string, not an array"),
        ('{"url":"","event":"e"}', "url of the payload is empty"),
        ('{"url":"http://\\ud800/","event":"e"}', "url of the payload holds half a surrogate pair"),
        ('{"url":"u"}', "the payload has no event"),
        ('{"url":"u","event":5}', "event of the payload must be a non-empty string, not a number"),
        ('{"url":"u","event":{}}', "event of the payload must be a non-empty string, not an object"),
        ('{"url":"u","event":""}', "event of the payload is empty"),
        ('{"url":"u","event":"e","event":null}', "event of the payload must be"),
        ("[]", "the payload is an empty array"),
        ('[{"url":"u","event":"e"},1]', "element 1 of the batch must be a JSON object"),
        ('[{"url":"u","event":"e"},[]]', "element 1 of the batch must be .*, not an array"),
        ('[{"url":"u"}]', "element 0 of the batch has no event"),
        ('[{"url":"u","event":"e"},{"url":"v","event":"e"}]', "element 1 of the batch has not the url and event"),
        ('[{"url":"u","event":"e"},{"url":"u","event":"f"}]', "element 1 of the batch has not the url and event"),
    ],
)
def test_undeliverable(payload: str, reason: str) -> None:
    """A payload that no callback can be made of says why, and what it should be, but nothing of its content."""
    with pytest.raises(UndeliverablePayload, match=reason) as caught:
        callback_of(payload, None)
    assert "secret" not in str(caught.value)


def test_batch() -> None:
    """A batch is one callback whose data is the array of its elements' data, null where one has none, without cache."""
    payload = (
        f'[{{"url":"{URL}","event":"a/b","data":{{"b":1.0,"1":2}},"cache":{{}}}},'
        f' {{"event":"a/b","url":"{URL}"}}, {{"url":"{URL}","event":"a/b","data":1e21}}]'
    )
    callback = callback_of(payload, '[["s",1]]')
    assert Callback(URL, "a/b", '"event":"a/b","data":[{"1":2,"b":1},null,1e+21]', 3) == callback
    expected = '{"job_key":"k","retry":1,"time":2,"event":"a/b","data":[{"1":2,"b":1},null,1e+21]}'
    assert expected == callback.body("k", 1, 2).decode()


def test_batch_of_one() -> None:
    """A batch of one is still a batch; an object is none."""
    element = f'{{"url":"{URL}","event":"a/b","data":1}}'
    assert Callback(URL, "a/b", '"event":"a/b","data":[1]', 1) == callback_of(f"[{element}]", None)
    assert callback_of(element, None).batch_size is None


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [
        ([0], '[{ "a" : 1.0 }]'),
        ([2, 1], r'["\u0041",[ 1e5 , -0 ]]'),
        ([0, 1, 2, 2], r'[{ "a" : 1.0 },"\u0041",[ 1e5 , -0 ]]'),
        ([], "[]"),
    ],
)
def test_keep_indexes(indexes: list[int], expected: str) -> None:
    """Just the named elements stay, in their order, each exactly as it was stored."""
    assert expected == keep_indexes(' [ { "a" : 1.0 } , "\\u0041"\n,[ 1e5 , -0 ] ] ', indexes)


@pytest.mark.parametrize("index", [-1, 2, 10**30])
def test_keep_indexes_out_of_range(index: int) -> None:
    """An index that the batch does not have is an error."""
    with pytest.raises(IndexError, match="the batch has 2 elements"):
        keep_indexes("[1,2]", [0, index])


def test_keep_indexes_of_no_batch() -> None:
    """Only an array can be cut."""
    with pytest.raises(ValueError, match="not an array"):
        keep_indexes('{"0":1}', [0])
