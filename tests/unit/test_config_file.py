"""Reading slay-config.json: a file that is not there or no good JSON, and what JSON alone would let pass."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slayq_server.config import Config, load, parse_text
from slayq_server.config.addresses import (
    bind_address,
    http_url,
    origin,
    origin_or_network,
    postgres_url,
    without_password,
)
from slayq_server.config.problems import walk
from slayq_server.config.rules import Refused
from slayq_server.engine.address_guard import AddressGuard
from slayq_server.errors import ConfigurationError

KEYS = sorted({path.rpartition(".")[2] for path, _ in walk(Config)})
GOOD = {
    "queues": {"mail": {"concurrency": 1}},
    "cron": [{"id": "nightly", "cron": "30 2 * * *", "event": "report/nightly", "queue": "mail"}],
}


def problems_in(text: str) -> list[str]:
    """All that is wrong with a text."""
    with pytest.raises(ConfigurationError) as caught:
        parse_text(text)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty: it must hold an object"),
        (" \n", "is empty: it must hold an object"),
        ('{\n  "queues": {\n}', "is not JSON at line 3, column 2: expecting ',' delimiter"),
        ('{"queues": {},\n}', "is not JSON at line 2, column 1: take the comma before the } out"),
        ('{"cron": [1,\n]}', "is not JSON at line 2, column 1: take the comma before the ] out"),
        ('{"queues": {}} // mine', "is not JSON at line 1, column 16: JSON has no comments: take it out"),
        ("{'queues': {}}", 'is not JSON at line 1, column 2: texts stand in "double quotes"'),
        ("{queues: {}}", "is not JSON at line 1, column 2: expecting property name enclosed in double quotes"),
        ('{"grace": NaN}', "is not JSON: NaN is no number in JSON"),
        ('{"grace": -Infinity}', "is not JSON: -Infinity is no number in JSON"),
        ('{"grace": 1e999}', "is not JSON: the number 1e999 is too large"),
        ('{"grace": ' + "9" * 5000 + "}", "is not JSON: "),
        ("[" * 100_000, "is nested too deeply: take levels out"),
        ("[]", "must be an object { … }, not a list"),
        ('"x"', 'must be an object { … }, not "x"'),
        (
            '{"queues": {"mail": {"concurrency": 1, "concurrency": 2}}}',
            "queues.mail.concurrency: stands twice: take one out",
        ),
        ('{"queues": {"mail": {"concurrency": 1}}, "queues": {"x": {"concurrency": 1}}}', "queues: stands twice"),
        (
            '{"queues": {"mail": {"concurrency": 1}}, "forbidden_flags": ["\\u0000"]}',
            "forbidden_flags[0]: holds a NUL character, which Postgres cannot store: take it out",
        ),
        (
            '{"queues": {"mail": {"concurrency": 1}}, "forbidden_flags": ["\\ud800"]}',
            "forbidden_flags[0]: holds what is no valid Unicode: write it anew",
        ),
    ],
)
def test_a_text_that_is_no_good_json(text: str, expected: str) -> None:
    """The place, and what to do where it is one of the usual slips; Python's parser alone would let some pass."""
    (problem,) = problems_in(text)
    assert expected == problem[: len(expected)]


def test_texts_that_postgres_cannot_store_are_found_in_data() -> None:
    """At any depth, keys included; as text the path stays printable."""
    data = r'{"a": [{"\u0000": 1}], "b": "\udfff"}'
    text = json.dumps(GOOD).replace('"queue": "mail"', f'"queue": "mail", "data": {data}')
    found = problems_in(text)
    assert [
        'cron[0].data.a[0]."\\u0000": the key holds a NUL character, which Postgres cannot store: take it out',
        "cron[0].data.b: holds what is no valid Unicode: write it anew",
    ] == found
    "".join(found).encode()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.json: there is no such file: give the path"):
        load(tmp_path / "nowhere.json")


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(ConfigurationError, match="is a directory: give the path of the file in it"):
        load(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the system is told. (Root may read all, so the refusal is made up.)"""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be read \(Permission denied\): let this user read it"):
        load(tmp_path / "slay-config.json")


def test_a_path_that_is_none() -> None:
    """A NUL in the path, from a broken script."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load("a\0b")


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    """The line is told."""
    path = tmp_path / "slay-config.json"
    path.write_bytes(b'{"queues": {\n"b\xfccher": {}}}')
    with pytest.raises(ConfigurationError, match=r"is not UTF-8 \(line 2\): save it as UTF-8"):
        load(path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """It is not read to its end."""
    path = tmp_path / "slay-config.json"
    path.write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="has more than 1048576 bytes"):
        load(path)


def test_a_byte_order_mark_and_a_schema_key_are_let_through(tmp_path: Path) -> None:
    """Editors write both."""
    path = tmp_path / "slay-config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"$schema": "./schema.json", **GOOD}).encode())
    assert parse_text(json.dumps(GOOD)) == load(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@example({"[key]": None})
@example({"queues": {"[key]": 1, "@": {"[key]": 1}}})
def test_any_document_loads_or_is_a_configuration_error(document: object) -> None:
    """No other error, whatever stands where; and the message can be printed."""
    told = ""
    try:
        parse_text(json.dumps(document))
    except ConfigurationError as error:
        told = str(error)
    assert [] == [line for line in told.splitlines() if not line.isprintable()]


@given(st.text(max_size=30) | st.from_regex(r"(https?|postgres)://[a-z0-9@:\[\]./?#%-]{0,20}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """No other error; and the normal form of an address is its own normal form."""
    for take in (origin, origin_or_network, http_url, postgres_url, bind_address):
        try:
            normal = take(text)
        except Refused:
            continue
        assert normal == take(normal)
        if take is postgres_url:
            without_password(text)
        if take in (origin, origin_or_network):
            AddressGuard(deny=[normal])
