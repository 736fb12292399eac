r"""JSON exactly as JavaScript prints it: `canonical(text)` is `JSON.stringify(JSON.parse(text))`.

A v1 app signs again what it has parsed, so the body that goes over the wire must be what JavaScript would print for it.
The rules are ECMAScript's (JSON.parse, Number::toString, OrdinaryOwnPropertyKeys, well-formed JSON.stringify).

A document is read into a `Value` and printed from it. Both directions have two ways that agree in every result:

    reading     C scanner of the standard library     →  `_read`, a loop with a stack of its own, for what nests deeper
                                                         than the C scanner may recurse, and to place errors
    printing    C encoder of the standard library     →  `_exact_text`, for what nests deeper than the encoder may
                                                         recurse, for numbers it spells in another way, lone surrogates

What the C code would get wrong never reaches it, or does not leave it unnoticed:

- numbers go through `number`, whatever the reader; one that Python prints in another way than JavaScript becomes a
  `Number`, which the C encoder refuses;
- an object key can be an array index only if it is spelled in digits between quotes (`_INDEX_KEY` finds those) or with
  an escaped digit (`\u003X`): only such texts pay for the look at each object's keys;
- a lone surrogate can only be seen in the output, where `isascii` costs nothing for most documents;
- depth shows as RecursionError.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Number:
    """A number that JavaScript prints in another way than Python; `text` is JavaScript's."""

    text: str


Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | Number | None"
"""A JSON value as JavaScript holds it.

An object is a dict in the order in which JavaScript lists its keys. A number is an int if it is a whole one below 2^53,
a float if Python prints it as JavaScript does, else a `Number`; one past the largest double is None, as it prints.
Booleans are ints, as ever in Python.
"""


class InvalidJson(ValueError):
    """A text that is no JSON. `position` counts characters from 0. The message holds nothing of the text."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(f"invalid JSON at character {position}: {problem}")
        self.position = position


def canonical(json_text: str) -> str:
    """What JavaScript prints for `JSON.stringify(JSON.parse(json_text))`; raises InvalidJson where that would throw."""
    return text_of(parse(json_text))


def parse(json_text: str) -> Value:
    """Read a whole text, as `JSON.parse` does; raises InvalidJson. Any depth and any number of digits will do."""
    indexed = "\\u003" in json_text or _INDEX_KEY.search(json_text) is not None
    decoder = _INDEXED_DECODER if indexed else _DECODER
    try:
        return cast("Value", decoder.decode(json_text))
    except (RecursionError, ValueError):
        pass  # Left first, so that what is raised below is not chained to an error that carries the document.
    return _parse_exactly(json_text)


def text_of(value: Value) -> str:
    """Print a value, as `JSON.stringify` does: no spaces, all but the necessary raw."""
    try:
        text = _print(value)
    except (RecursionError, _NotPlainError):
        return _exact_text(value)
    return _exact_text(value) if has_lone_surrogate(text) else text


def quoted(text: str) -> str:
    """Print a string: lone surrogates as `\\udxxx`, all else that JSON allows to be raw as it is."""
    literal = _ENCODER.encode(text)
    if literal.isascii():
        return literal
    return _SURROGATE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", literal)


def has_lone_surrogate(text: str) -> bool:
    """Whether a string holds half a surrogate pair, as only JSON's escapes can bring it in: UTF-8 cannot say it."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def kind_of(value: Value) -> str:
    """What a JSON value is, in words that fit after "not"."""
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case None:
            return "null"
        case _:
            return "a number"


def ordered(members: dict[str, Value]) -> dict[str, Value]:
    """The members as JavaScript lists them: array indices first, ascending; the others in the order they have."""
    indexes = [key for key in members if "0" <= key[:1] <= "9" and _is_index(key)]
    if not indexes:
        return members
    indexes.sort(key=int)
    return {key: members[key] for key in indexes} | members


def number(text: str) -> int | float | Number | None:
    """The JavaScript number that a JSON number stands for: the nearest double, which for -0 prints as 0."""
    nearest = float(text)
    size = abs(nearest)
    if size < _TWO_TO_53:
        if nearest.is_integer():
            return int(nearest)
        if size >= 1e-4:  # from here on up, and below 1e16, Python has no exponent either
            return nearest
    return None if size == float("inf") else Number(_javascript_digits(nearest))


def array_elements(json_text: str) -> list[str]:
    """The texts of an array's elements, as they are spelled. Raises InvalidJson, and ValueError if it is no array."""
    at = _after_spaces(json_text, 0)
    if not json_text.startswith("[", at):
        raise ValueError("the JSON text is not an array")
    at = _after_spaces(json_text, at + 1)
    elements: list[str] = []
    if json_text.startswith("]", at):
        _expect_end(json_text, at + 1)
        return elements
    mark = ","
    while mark == ",":
        start = _after_spaces(json_text, at)
        end = _read(json_text, start)[1]
        elements.append(json_text[start:end])
        mark, at = _mark(json_text, end, "]")
    _expect_end(json_text, at)
    return elements


def object_members(json_text: str) -> dict[str, str]:
    """The texts of an object's members, as they are spelled, by key; of a repeated key the last one counts.

    Raises InvalidJson, and ValueError if it is no object.
    """
    at = _after_spaces(json_text, 0)
    if not json_text.startswith("{", at):
        _parse_exactly(json_text)  # what is no JSON at all is told apart
        raise ValueError("the JSON text is not an object")
    at = _after_spaces(json_text, at + 1)
    members: dict[str, str] = {}
    if json_text.startswith("}", at):
        _expect_end(json_text, at + 1)
        return members
    mark = ","
    while mark == ",":
        key, start = _member_key(json_text, at)
        start = _after_spaces(json_text, start)
        end = end_of_value(json_text, start)
        members[key] = json_text[start:end]
        mark, at = _mark(json_text, end, "}")
    _expect_end(json_text, at)
    return members


def end_of_value(text: str, at: int) -> int:
    """Where the value ends that begins at `at`. Raises InvalidJson."""
    try:
        return _MEASURE.raw_decode(text, at)[1]
    except (RecursionError, ValueError):
        pass  # Left first: that error may carry the document.
    return _read(text, at)[1]


# Numbers and keys

_TWO_TO_53 = 2.0**53
_LAST_INDEX = 2**32 - 2
_SHORT = 15
"""A whole number of this many characters is below 2^53 for certain."""


def _integer(text: str) -> int | float | Number | None:
    return int(text) if len(text) <= _SHORT else number(text)


def _javascript_digits(nearest: float) -> str:
    """A finite double that is below 1e-4 or from 2^53 up, in the form of JavaScript's Number::toString.

    Python's `repr` has the same digits: both print the shortest ones that read back as the same double. Below 1e-4 it
    always prints an exponent, so its first digit is never 0; from 2^53 up there is nothing after the point.
    """
    sign = "-" if nearest < 0 else ""
    mantissa, _, exponent = repr(abs(nearest)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).rstrip("0")
    point = len(whole) + int(exponent or "0")  # the point stands after so many digits
    if 0 < point <= 21:
        return sign + digits.ljust(point, "0")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def _is_index(key: str) -> bool:
    """Whether a key that begins with a digit is an array index: a canonical decimal from 0 to 2^32 - 2."""
    if len(key) > 10 or not (key.isascii() and key.isdigit()):
        return False
    return key == "0" or (key[0] != "0" and int(key) <= _LAST_INDEX)


# Reading

_INDEX_KEY = re.compile(r'"[0-9]{1,10}"[ \t\n\r]*+:')
_SPACES = re.compile(r"[ \t\n\r]*+")
_VALUE = re.compile(
    r"""[ \t\n\r]*+(?:
        ("[^"\\\x00-\x1f]*+")
      | (-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+)
      | (true|false|null)
      | (\[[ \t\n\r]*+\]|\{[ \t\n\r]*+\})
      | (["\[{])
    )""",
    re.VERBOSE,
)
_PLAIN_STRING, _NUMBER, _LITERAL, _EMPTY = 1, 2, 3, 4
_KEY = re.compile(r'[ \t\n\r]*+"([^"\\\x00-\x1f]*+)"[ \t\n\r]*+:')
_MARK = re.compile(r"[ \t\n\r]*+([,\]}])")
_LITERALS: dict[str, Value] = {"true": True, "false": False, "null": None}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    return ordered(dict(pairs))


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=number, parse_constant=_refuse_constant)
_INDEXED_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=number, parse_constant=_refuse_constant, object_pairs_hook=_object
)


# Numbers are left as they are: where a value ends is all that this one is asked.
_MEASURE = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


def _parse_exactly(text: str) -> Value:
    value, end = _read(text, 0)
    _expect_end(text, end)
    return value


def _read(text: str, at: int) -> tuple[Value, int]:
    """The value that begins at `at`, after spaces, and where it ends. Nesting costs memory, no recursion."""
    outer: list[tuple[dict[str, Value] | list[Value] | None, str]] = []
    container: dict[str, Value] | list[Value] | None = None
    key = ""
    while True:
        match = _VALUE.match(text, at)
        if match is None:
            raise InvalidJson(_after_spaces(text, at), "expected a value")
        at = match.end()
        kind = match.lastindex
        value: Value
        if kind == _PLAIN_STRING:
            value = match[1][1:-1]
        elif kind == _NUMBER:
            value = number(match[2])
        elif kind == _LITERAL:
            value = _LITERALS[match[3]]
        elif kind == _EMPTY:
            value = [] if match[4][0] == "[" else {}
        elif match[5] == '"':
            value, at = _string(text, at - 1)
        else:
            outer.append((container, key))
            container = []
            if match[5] == "{":
                container = {}
                key, at = _member_key(text, at)
            continue

        while container is not None:
            mark, at = _mark(text, at, "}" if isinstance(container, dict) else "]")
            if isinstance(container, dict):
                container[key] = value
            else:
                container.append(value)
            if mark == ",":
                if isinstance(container, dict):
                    key, at = _member_key(text, at)
                break
            value = ordered(container) if isinstance(container, dict) else container
            container, key = outer.pop()
        else:
            return value, at


def _mark(text: str, at: int, closing: str) -> tuple[str, int]:
    """The comma or closing bracket that must follow at `at`, after spaces, and where it ends."""
    match = _MARK.match(text, at)
    if match is None or match[1] not in (",", closing):
        raise InvalidJson(_after_spaces(text, at), f"expected ',' or '{closing}'")
    return match[1], match.end()


def _member_key(text: str, at: int) -> tuple[str, int]:
    """The key that begins at `at`, after spaces, and where its value begins."""
    match = _KEY.match(text, at)
    if match is not None:
        return match[1], match.end()
    at = _after_spaces(text, at)
    if not text.startswith('"', at):
        raise InvalidJson(at, "expected a key in double quotes")
    key, at = _string(text, at)
    at = _after_spaces(text, at)
    if not text.startswith(":", at):
        raise InvalidJson(at, "expected ':'")
    return key, at + 1


def _string(text: str, at: int) -> tuple[str, int]:
    """The string whose opening quote is at `at`, escapes resolved, and where it ends."""
    try:
        return cast("tuple[str, int]", _DECODER.raw_decode(text, at))
    except json.JSONDecodeError as error:
        position = error.pos
    # Not chained: a JSONDecodeError carries the whole document.
    raise InvalidJson(
        position, "a string is not closed, or holds a bare control character or an escape JSON does not have"
    )


def _after_spaces(text: str, at: int) -> int:
    match = _SPACES.match(text, at)
    return match.end() if match else at


def _expect_end(text: str, at: int) -> None:
    end = _after_spaces(text, at)
    if end != len(text):
        raise InvalidJson(end, "expected nothing more")


# Printing


class _NotPlainError(Exception):
    """The C encoder has met a `Number`."""


class _Encoder(json.JSONEncoder):
    def default(self, o: object) -> NoReturn:
        raise _NotPlainError


_ENCODER = _Encoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def _printer() -> Callable[[Value], str]:
    """What `_ENCODER.encode` does, without the setting up that it does for each value, where there is a C encoder."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    encode = make(None, _ENCODER.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0))


_print = _printer()


def _exact_text(root: Value) -> str:
    """Print any value. A comma follows each element; the closing bracket takes the place of a container's last one."""
    out: list[str] = []
    outer: list[tuple[Iterator[tuple[str | None, Value]], str]] = []
    members, closing = _members([root])
    while True:
        for key, value in members:
            if key is not None:
                out.append(quoted(key) + ":")
            if not isinstance(value, dict | list):
                out.append(_leaf(value))
                out.append(",")
            elif value:
                outer.append((members, closing))
                members, closing = _members(value)
                out.append("{" if isinstance(value, dict) else "[")
                break
            else:
                out.append("{}" if isinstance(value, dict) else "[]")
                out.append(",")
        else:
            if not outer:
                return "".join(out[:-1])
            out[-1] = closing
            out.append(",")
            members, closing = outer.pop()


def _members(container: dict[str, Value] | list[Value]) -> tuple[Iterator[tuple[str | None, Value]], str]:
    if isinstance(container, dict):
        items: Iterable[Any] = container.items()
        return iter(items), "}"
    return zip(repeat(None), container, strict=False), "]"


def _leaf(value: str | int | float | Number | None) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Number):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value)
