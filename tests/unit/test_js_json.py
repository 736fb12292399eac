"""Canonical JSON: documents whose JavaScript form is known, by name. Random ones are compared with Node elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from slayq_server.protocol.js_json import InvalidJson, array_elements, canonical, has_lone_surrogate, quoted

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "signature.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """An untidy spelling of a whole body becomes what JavaScript printed for it."""
    assert vector["body_json_text"] == canonical(vector["stored_json_text"])


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("-0e5", "0"),
        ("-0.5", "-0.5"),
        ("1.0", "1"),
        ("1e2", "100"),
        ("123456789012345", "123456789012345"),
        ("9007199254740991", "9007199254740991"),
        ("-9007199254740993", "-9007199254740992"),
        ("9007199254740992.5", "9007199254740992"),
        ("1e16", "10000000000000000"),
        ("123456789012345678901", "123456789012345680000"),
        ("999999999999999999999", "1e+21"),
        ("1e21", "1e+21"),
        ("-1.5e300", "-1.5e+300"),
        ("0.0001", "0.0001"),
        ("0.00012345", "0.00012345"),
        ("0.00001", "0.00001"),
        ("0.000001", "0.000001"),
        ("0.0000012345", "0.0000012345"),
        ("0.0000001", "1e-7"),
        ("-1.25e-7", "-1.25e-7"),
        ("5e-324", "5e-324"),
        ("1e-400", "0"),
        ("-1e-400", "0"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("1e999", "null"),
        ("-1e999", "null"),
        ("0e999999999999999999999", "0"),
        ("1e-999999999999999999999", "0"),
        ("1e+00000000000000000001", "10"),
    ],
)
def test_number(stored: str, expected: str) -> None:
    """A number is printed as the nearest double in JavaScript's form, wherever it stands."""
    assert expected == canonical(stored)
    assert f'[{expected},{{"a":{expected}}}]' == canonical(f' [ {stored}, {{"a":\t{stored}\n}} ] ')


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("9" * 100_000, "null"),
        ("1" + "0" * 300, "1e+300"),
        ("0." + "3" * 100_000, "0.3333333333333333"),
        ("1" * 20 + "." + "1" * 100_000, "11111111111111110000"),
        ("0." + "0" * 400 + "1e401", "1"),
    ],
    ids=["overflow", "long integer", "long fraction", "both", "far point"],
)
def test_number_of_many_digits(stored: str, expected: str) -> None:
    """Python's limit on digits of an int does not apply."""
    assert sys.get_int_max_str_digits() > 0
    assert expected == canonical(stored)
    assert f"[{expected}]" == canonical(f"[{stored}]")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (r'"\u0000\u0001\u001f\u007f"', '"\\u0000\\u0001\\u001f\x7f"'),
        (r'"\b\t\n\f\r\"\\\/"', r'"\b\t\n\f\r\"\\/"'),
        (r'"\u0008\u0009\u000a\u000c\u000D\u0022\u005C\u002f"', r'"\b\t\n\f\r\"\\/"'),
        (r'"\ud83d\ude00"', '"\U0001f600"'),
        (r'"\uD83D\uDE00"', '"\U0001f600"'),
        (r'"\uD800"', r'"\ud800"'),
        (r'"\uDFFFx"', r'"\udfffx"'),
        (r'"\ude00\ud83d"', r'"\ude00\ud83d"'),
        (r'"\ud83d\ud83d\ude00\ude00"', '"\\ud83d\U0001f600\\ude00"'),
        (r'"\\ud800"', r'"\\ud800"'),
        (r'"\ud83d\\ude00"', r'"\ud83d\\ude00"'),
        ('"\u2028\u2029 \ufeff é 中 \U0001f600"', '"\u2028\u2029 \ufeff é 中 \U0001f600"'),
        (r'{"\ud800":"\udc00"}', r'{"\ud800":"\udc00"}'),
    ],
)
def test_string(stored: str, expected: str) -> None:
    """A string is printed with the fewest escapes, and half a surrogate pair as an escape in lower case."""
    assert expected == canonical(stored)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ('{"b":0,"1":1,"a":2,"0":3}', '{"0":3,"1":1,"b":0,"a":2}'),
        ('{"10":0,"9":1,"100":2}', '{"9":1,"10":0,"100":2}'),
        ('{"b":0,"01":1,"-1":2,"1.0":3,"1e3":4,"+1":5,"":6," 1":7}', None),
        ('{"b":0,"4294967295":1,"4294967296":2,"99999999999":3}', None),
        ('{"b":0,"4294967294":1}', '{"4294967294":1,"b":0}'),
        ('{"b":0,"١":1,"１":2,"²":3}', None),
        (r'{"b":0,"\u0031":1}', '{"1":1,"b":0}'),
        (r'{"b":0,"1\u0030":1,"2":2}', '{"2":2,"10":1,"b":0}'),
        ('{"b":0,"1" \t\r\n :1}', '{"1":1,"b":0}'),
        ('[{"b":{"b":0,"1":1},"1":[{"x":0,"0":1}]}]', '[{"1":[{"0":1,"x":0}],"b":{"1":1,"b":0}}]'),
        ('{"a":"\\"1\\":","b":"1"}', None),
    ],
)
def test_index_keys(stored: str, expected: str | None) -> None:
    """Keys that are array indices come first, ascending; what only looks like one stays put (None: nothing changes)."""
    assert (stored if expected is None else expected) == canonical(stored)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('{"b":1,"2":1,"b":{"x":1,"x":2},"2":3}', '{"2":3,"b":{"x":2}}'),
        (r'{"a":1,"b":2,"\u0061":3}', '{"a":3,"b":2}'),
        ('{"x":0,"__proto__":{"a":1},"__proto__":2}', '{"x":0,"__proto__":2}'),
        ('{"toJSON":1,"constructor":null,"length":2}', '{"toJSON":1,"constructor":null,"length":2}'),
    ],
)
def test_repeated_keys(stored: str, expected: str) -> None:
    """Of a repeated key the last value counts, at the first one's place; no name is special."""
    assert expected == canonical(stored)


@pytest.mark.parametrize("levels", [900, 10_000, 100_000])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [("[", "]"), ('{"a":', "}"), ('{"a":[', "]}"), ('{"1":"x","a":', "}"), ('["é",', "]")],
)
def test_deep(levels: int, opening: str, closing: str) -> None:
    """Nesting has no limit but memory."""
    document = opening * levels + "1e-7" + closing * levels
    assert document == canonical(document.replace(",", " , ").replace("1e-7", "0.0000001"))


def test_deep_keys_are_ordered() -> None:
    """A document too deep for recursion is put in order at every level."""
    levels = 20_000
    assert '{"1":' * levels + "0" + ',"b":0}' * levels == canonical('{"b":0,"1":' * levels + "0" + "}" * levels)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("  ", 2),
        ("\ufeff1", 0),
        ("nul", 0),
        ("NaN", 0),
        ("[-Infinity]", 1),
        ("[Infinity]", 1),
        ("01", 1),
        ("-", 0),
        ("1.", 1),
        (".5", 0),
        ("+1", 0),
        ("1e", 1),
        ("1_0", 1),
        ("١", 0),
        ("0x10", 1),
        ("1 2", 2),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("[1", 2),
        ("[1}", 2),
        ("[", 1),
        ("{", 1),
        ('{"a":1,}', 7),
        ('{"a" 1}', 5),
        ('{"\\u0061" 1}', 10),
        ('{"a":}', 5),
        ('{"a":1]', 6),
        ("{a:1}", 1),
        ("{1:1}", 1),
        ("'a'", 0),
        ('"a', 0),
        ('"a\\', 0),
        ('"\n"', 1),
        ('"\x00"', 1),
        ("\x001", 0),
        ("\u00a01", 0),
        ("\x0b1", 0),
        ("/**/1", 0),
        ("[" * 5_000, 5_000),
        ("[" * 5_000 + "]" * 4_999 + "}", 9_999),
    ],
)
def test_invalid(text: str, position: int) -> None:
    """What JSON.parse refuses raises a ValueError that says where, and carries nothing of the document."""
    with pytest.raises(ValueError, match=rf"^invalid JSON at character {position}: ") as caught:
        canonical(text)
    assert isinstance(caught.value, InvalidJson)
    assert position == caught.value.position
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "text", [r'"\x41"', r'"\u12"', r'"\u00g0"', r'"\u+123"', r'"\u 123"', r'"\U00000041"', r'"\'"']
)
def test_invalid_escape(text: str) -> None:
    """An escape that JSON does not have is refused, as a value and as a key."""
    for document in (text, f"[{text}]", f"{{{text}:1}}"):
        with pytest.raises(InvalidJson):
            canonical(document)


def test_array_elements_as_spelled() -> None:
    """An array is cut into its elements, each exactly as it was spelled."""
    elements = ['{ "b" : 1.0, "1":2 }', r'"\u0041, ]"', "-0", "[ [ ] , 1 ]", "null"]
    assert elements == array_elements(" [ " + " ,\n".join(elements) + "\t] ")


def test_array_elements_of_empty_array() -> None:
    """An empty array has no elements."""
    assert not array_elements(" [ ] ")


@pytest.mark.parametrize("text", ["[1,]", "[,1]", "[1", "[1}", "[1]]", "[] 1", "["])
def test_array_elements_of_invalid_text(text: str) -> None:
    """What is no JSON cannot be cut."""
    with pytest.raises(InvalidJson):
        array_elements(text)


@pytest.mark.parametrize("text", ['{"a":[1]}', "1", "null", '"[1]"'])
def test_array_elements_of_something_else(text: str) -> None:
    """Only an array has elements."""
    with pytest.raises(ValueError, match="not an array"):
        array_elements(text)


def test_quoted() -> None:
    """A Python string is printed as JavaScript would print it."""
    expected = r'"a\"b\\c\n\u0001/é\ud800"'
    assert expected == quoted('a"b\\c\n\x01/é\ud800')
    assert has_lone_surrogate("é\ud800")
    assert not has_lone_surrogate("é\U0001f600")
