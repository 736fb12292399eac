"""Canonical JSON against JavaScript itself: random nasty documents, printed by Node and by us.

The generator is made to hit what differs between the two languages. Each run has one fixed seed and one of its own,
which a failure names. Without Node the comparison is skipped, unless SLAYQ_REQUIRE_NODE=1 says that it must not be.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slayq_server.protocol import js_json
from slayq_server.protocol.js_json import InvalidJson, array_elements, canonical

DOCUMENTS = 2_500

# Each line is a document's text as a JSON string, since it may hold line breaks. So is each answer, or null (refused).
NODE_PROGRAM = """
const lines = require('fs').readFileSync(0, 'utf8').split('\\n');
lines.pop();
const answers = lines.map((line) => {
  const text = JSON.parse(line);
  try { return JSON.stringify(JSON.stringify(JSON.parse(text))); }
  catch (error) { if (error instanceof SyntaxError) return 'null'; throw error; }
});
process.stdout.write(answers.join('\\n'));
"""

INDEX_LIKE = [
    *("0", "1", "2", "9", "10", "11", "100", "007", "00", "-0", "-1", "+1", "1.0", "1e3", "1a", " 1", "1 ", "٣", "²"),
    *("4294967293", "4294967294", "4294967295", "4294967296", "9007199254740991", "99999999999"),
]
NAMES = [
    "",
    "a",
    "b",
    "key",
    "__proto__",
    "constructor",
    "toJSON",
    "length",
    'q"uote',
    "back\\slash",
    "é",
    "\U0001f600",
]
EDGES = [
    *("0", "-0", "-0.0", "0e0", "1e21", "1e20", "999999999999999999999", "1e-6", "1e-7", "9.99e-7", "1e999", "-1e400"),
    *("9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740995", "18446744073709551616"),
    *("5e-324", "2e-324", "3e-324", "2.2250738585072011e-308", "1.7976931348623157e308", "1.7976931348623159e308"),
    *("123456789012345", "1234567890123456", "12345678901234567", "0.1", "0.30000000000000004", "4.35", "1e0", "1E+2"),
    *("0.0001", "0.00009999999999999999", "0.00010000000000000001", "1e23", "8.41e21", "5e15", "4503599627370497.5"),
]


class Documents:
    """A generator of random JSON texts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def space(self) -> str:
        return (
            "" if self.random.random() < 0.7 else "".join(self.random.choices(" \t\n\r", k=self.random.randint(1, 3)))
        )

    def digits(self, most: int) -> str:
        return "".join(self.random.choices("0123456789", k=self.random.randint(1, most)))

    def number(self) -> str:
        way = self.random.randrange(6)
        if way == 0:
            return self.random.choice(EDGES)
        if way == 1:
            return str(self.random.randint(-(10 ** self.random.randint(1, 25)), 10 ** self.random.randint(1, 25)))
        if way == 2:
            (double,) = struct.unpack("<d", self.random.randbytes(8))
            return repr(double) if abs(double) < float("inf") else "1e309"
        if way == 3:
            double = self.random.uniform(-1, 1) * 10.0 ** self.random.randint(-12, 25)
            return self.random.choice([f"{double:.17e}", f"{double:.25f}", f"{double:.3g}", f"{double:.0f}"])
        whole = self.random.choice(["0", self.random.choice("123456789") + self.digits(22), self.random.choice("12")])
        fraction = "." + self.digits(25) if self.random.random() < 0.6 else ""
        exponent = ""
        if self.random.random() < 0.5:
            exponent = self.random.choice("eE") + self.random.choice(["", "+", "-"]) + self.digits(3)
        if way == 5 and self.random.random() < 0.02:
            whole = "7" * 5_000
        return self.random.choice(["", "-"]) + whole + fraction + exponent

    def character(self) -> str:
        way = self.random.randrange(12)
        if way < 4:
            return self.random.choice("abz 019:,{}[]-./'<&\x7f")
        if way == 4:
            return self.random.choice(["\\b", "\\t", "\\n", "\\f", "\\r", '\\"', "\\\\", "\\/"])
        if way == 5:
            return self.escape(self.random.randrange(0x80))
        if way == 6:
            return self.escape(self.random.randrange(0x10000))
        if way == 7:
            return self.escape(self.random.randrange(0xD800, 0xE000))
        if way == 8:
            return self.escape(self.random.randrange(0xD800, 0xDC00)) + self.escape(
                self.random.randrange(0xDC00, 0xE000)
            )
        if way == 9:
            return self.random.choice("é\u2028\u2029\ufeff\u0085\ufffd\uffff中")
        if way == 10:
            return chr(self.random.randrange(0x10000, 0x110000))
        return self.random.choice(['\\"1\\":', "-0", "1e21", "\\\\ud800", "\\\\u0031", "12345678901234567890"])

    def escape(self, unit: int) -> str:
        return "\\u" + "".join(self.random.choice([digit, digit.upper()]) for digit in f"{unit:04x}")

    def string(self) -> str:
        return '"' + "".join(self.character() for _ in range(self.random.choice([0, 1, 2, 5, 12]))) + '"'

    def key(self) -> str:
        way = self.random.randrange(5)
        if way == 0:
            return self.string()
        name = self.random.choice(INDEX_LIKE if way < 3 else NAMES)
        if way == 1:
            return (
                '"'
                + "".join(self.escape(ord(c)) if self.random.random() < 0.3 and c < "\uffff" else c for c in name)
                + '"'
            )
        return json.dumps(name, ensure_ascii=self.random.random() < 0.5)

    def scalar(self) -> str:
        way = self.random.randrange(5)
        if way < 2:
            return self.number()
        return self.string() if way < 4 else self.random.choice(["true", "false", "null"])

    def value(self, depth: int) -> str:
        way = self.random.random()
        if depth == 0 or way < 0.3:
            return self.scalar()
        if way < 0.6:
            items = [self.space() + self.value(depth - 1) + self.space() for _ in range(self.random.randint(0, 5))]
            return "[" + (",".join(items) or self.space()) + "]"
        members = [
            f"{self.space()}{self.key()}{self.space()}:{self.space()}{self.value(depth - 1)}{self.space()}"
            for _ in range(self.random.randint(0, 7))
        ]
        return "{" + (",".join(members) or self.space()) + "}"

    def deep(self) -> str:
        """A document deeper than Python may recurse, though not deeper than Node's printer may."""
        text, levels = self.scalar(), self.random.randint(900, 1_500)
        for _ in range(levels):
            before = self.random.choice(["", self.scalar() + ","])
            text = f"[{before}{text}]" if self.random.random() < 0.5 else f'{{"z":0,{self.key()}:{text}}}'
        return text

    def document(self) -> str:
        if self.random.random() < 0.005:
            return self.deep()
        return self.space() + self.value(self.random.randint(0, 5)) + self.space()

    def broken(self) -> str:
        """A document with a few characters gone, doubled or put in: mostly no JSON any more."""
        text = self.space() + self.value(self.random.randint(0, 3)) + self.space()
        for _ in range(self.random.randint(1, 2)):
            at = self.random.randint(0, len(text))
            what = self.random.choice(
                ["", "", text[at : at + 1] * 2, *'"\\,:[]{}0-.eE\n\x00x', "NaN", "\u00a0", "\ufeff"]
            )
            text = text[:at] + what + text[at + 1 :]
        return text


def outcome(text: str) -> str | None:
    """Our canonical form, or None where the text is refused."""
    try:
        return canonical(text)
    except InvalidJson:
        return None


def place_of_error(text: str) -> int:
    """Where a text is refused, or -1 if it is not."""
    try:
        canonical(text)
    except InvalidJson as error:
        return error.position
    return -1


def ways(text: str) -> set[str | None]:
    """What each combination of the C code and our own loops makes of a text (None: refuses it)."""
    results: set[str | None] = set()
    for read in (js_json.parse, js_json._parse_exactly):
        for write in (js_json.text_of, js_json._exact_text):
            try:
                results.add(write(read(text)))
            except InvalidJson:
                results.add(None)
    return results


@pytest.fixture
def node() -> str:
    """The path of Node's program."""
    path = shutil.which("node")
    if path is None:
        if os.environ.get("SLAYQ_REQUIRE_NODE") == "1":
            pytest.fail("SLAYQ_REQUIRE_NODE=1, but there is no `node` on PATH: install Node 20 or later")
        pytest.skip("no `node` on PATH: what JavaScript prints cannot be asked")
    return path


def as_node_prints(node: str, texts: list[str]) -> list[str | None]:
    """What Node makes of each text, in one process; None where JSON.parse throws."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run(
        [node, "-e", NODE_PROGRAM], input=lines.encode(), capture_output=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    answers: list[str | None] = [json.loads(line) for line in done.stdout.decode().split("\n")]
    assert len(texts) == len(answers)
    return answers


def seed_of(run: str) -> int:
    return 20_240_229 if run == "fixed" else random.SystemRandom().getrandbits(32)


@pytest.mark.parametrize("run", ["fixed", "fresh"])
def test_node_prints_the_same(node: str, run: str) -> None:
    """For thousands of random documents the canonical form is, character for character, what Node prints."""
    seed = seed_of(run)
    documents = Documents(seed)
    texts = [documents.document() for _ in range(DOCUMENTS)]
    texts += ["[" + ",".join(documents.number() for _ in range(200)) + "]" for _ in range(100)]
    for text, expected in zip(texts, as_node_prints(node, texts), strict=True):
        assert expected is not None, f"seed {seed}: the generator made what is no JSON: {text!r}"
        assert expected == canonical(text), f"seed {seed}: {text!r}"


@pytest.mark.parametrize("run", ["fixed", "fresh"])
def test_node_refuses_the_same(node: str, run: str) -> None:
    """A damaged document is refused if and only if Node refuses it, and else printed the same."""
    seed = seed_of(run)
    documents = Documents(seed)
    texts = [documents.broken() for _ in range(DOCUMENTS)]
    for text, expected in zip(texts, as_node_prints(node, texts), strict=True):
        assert expected == outcome(text), f"seed {seed}: {text!r}"


@pytest.mark.parametrize("run", ["fixed", "fresh"])
def test_fast_and_exact_ways_agree(run: str) -> None:
    """C code and our own loops give one result for every document, in each combination of reading and printing."""
    seed = seed_of(run)
    documents = Documents(seed)
    for _ in range(DOCUMENTS):
        for text in (documents.document(), documents.broken()):
            assert {outcome(text)} == ways(text), f"seed {seed}: {text!r}"


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
keys = st.text() | st.integers(min_value=0, max_value=2**33).map(str) | st.sampled_from(INDEX_LIKE + NAMES)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=30)
texts_of_values = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent),
    values,
    st.booleans(),
    st.sampled_from([None, 0, 1, "\t"]),
)
documents = st.integers(min_value=0).map(lambda seed: Documents(seed).document())


@settings(deadline=None)
@given(texts_of_values | documents)
def test_idempotent(text: str) -> None:
    """A canonical text is its own canonical form, whichever way it is made."""
    once = canonical(text)
    assert {once} == ways(text) | ways(once)


@settings(deadline=None)
@given(texts_of_values)
def test_same_value(text: str) -> None:
    """The canonical text of what Python wrote reads back as the same value, but for numbers that no double holds."""
    assert json.loads(text, parse_int=float) == json.loads(canonical(text), parse_int=float)


@settings(deadline=None)
@given(st.text() | st.text('[]{}:,"\\u0123456789eE+-. \n\ttrufalsnd'))
def test_any_text(text: str) -> None:
    """Any text at all is printed or refused, the same in every way, and refused at a place within it."""
    assert {outcome(text)} == ways(text)
    assert place_of_error(text) in range(-1, len(text) + 1)


@settings(deadline=None)
@given(st.lists(texts_of_values | documents))
def test_array_elements(elements: list[str]) -> None:
    """An array is cut into the very texts that it was put together from."""
    assert [element.strip(" \t\n\r") for element in elements] == array_elements(f"[{' ,'.join(elements)} ]")
