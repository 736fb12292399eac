"""Reading slay-config.json, so that whatever is wrong with it is told at once, and where."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from slayq_server.config.document import Config, contradictions_in
from slayq_server.config.problems import failure, path_text, problems_of
from slayq_server.config.rules import printable, shown, unusable_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slayq_server.config.problems import Loc

_LARGEST: Final = 1024 * 1024
_SCHEMA_KEY: Final = "$schema"


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys it was given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]


def load(path: Path | str) -> Config:
    """The configuration in a file.

    Raises:
        ConfigurationError: there is no such file, it cannot be read, or it has problems: all of them are named.
    """
    return parse_text(_read(Path(path)), str(path))


def parse_text(text: str, source: str = "the configuration") -> Config:
    """The configuration that a JSON text says; `source` is what errors call it. Raises ConfigurationError."""
    document = _parsed(text.removeprefix("\ufeff"), source)
    return _validated(document, source, list(_flaws(document, ())))


def parse(document: object, source: str = "the configuration") -> Config:
    """The configuration in a document that has been parsed already. Raises ConfigurationError."""
    return _validated(document, source, [])


def json_schema() -> dict[str, Any]:
    """The JSON Schema of slay-config.json, for editors and for other checks."""
    schema = Config.model_json_schema()
    schema["properties"]["queues"]["minProperties"] = 1
    properties = {_SCHEMA_KEY: {"type": "string", "description": "Where editors find this schema. Ignored."}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "slay-config.json",
        "properties": {**properties, **schema["properties"]},
    }


def _validated(document: object, source: str, problems: list[str]) -> Config:
    if not isinstance(document, dict):
        raise failure(source, [f"must be an object {{ … }}, not {shown(document)}"])
    content = {key: value for key, value in document.items() if key != _SCHEMA_KEY}
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, Config)
        problems += [f"{path_text(loc)}: {what}" for loc, what in contradictions_in(content)]
    if problems:
        raise failure(source, problems)
    return config


def _read(path: Path) -> str:
    source = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise failure(source, ["there is no such file: give the path of your slay-config.json"]) from None
    except IsADirectoryError:
        raise failure(source, ["is a directory: give the path of the file in it"]) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise failure(source, [f"cannot be read ({why}): let this user read it"]) from None
    if len(content) > _LARGEST:
        raise failure(source, [f"has more than {_LARGEST} bytes: this is no slay-config.json"])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise failure(source, [f"is not UTF-8 (line {line}): save it as UTF-8"]) from None


def _parsed(text: str, source: str) -> object:
    if not text.strip():
        raise failure(source, ['is empty: it must hold an object, as {"queues": {"general": {"concurrency": 10}}}'])
    try:
        return json.loads(text, object_pairs_hook=_Object, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise failure(source, [f"is not JSON at {where}: {_reason(text, error)}"]) from None
    except RecursionError:
        raise failure(source, ["is nested too deeply: take levels out"]) from None
    except ValueError as error:
        raise failure(source, [f"is not JSON: {error}"]) from None


def _reason(text: str, error: json.JSONDecodeError) -> str:
    """What is wrong at a place of the text; where it is one of the usual slips, what to do."""
    rest, before = text[error.pos :].lstrip(), text[: error.pos].rstrip()
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments: take it out"
    if rest[:1] in ("}", "]") and before.endswith(","):
        return f"take the comma before the {rest[0]} out"
    if rest.startswith("'"):
        return 'texts stand in "double quotes"'
    return error.msg[:1].lower() + error.msg[1:]


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {printable(text[:40])} is too large")
    return number


def _flaws(value: object, loc: Loc) -> Iterator[str]:
    """Keys that stand twice, and texts that Postgres cannot store, anywhere in a parsed text."""
    if isinstance(value, _Object):
        for key in value.repeated:
            yield f"{path_text((*loc, key))}: stands twice: take one out"
        for key, inner in value.items():
            why = unusable_text(key)
            if why is not None:
                yield f"{path_text((*loc, key))}: the key {why}"
            yield from _flaws(inner, (*loc, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flaws(inner, (*loc, index))
    elif isinstance(value, str):
        why = unusable_text(value)
        if why is not None:
            yield f"{path_text(loc)}: {why}"
