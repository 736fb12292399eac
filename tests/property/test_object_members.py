"""Cutting an object's members out of its text, against the standard library's reader, on random documents."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slayq_server.protocol.js_json import InvalidJson, object_members

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=8) | st.sampled_from(
    ["", "}", '"', "\\", "\ud800", "{:,"]
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
SPACES = st.text(" \t\r\n", max_size=3)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """An object's text, with spaces and repeated keys, and the texts of its members."""
    members: dict[str, str] = {}
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        key = draw(TEXTS | st.sampled_from(sorted(members))) if members else draw(TEXTS)
        text = json.dumps(
            draw(VALUES),
            ensure_ascii=draw(st.booleans()),
            indent=draw(st.none() | st.integers(0, 2)),
        )
        members[key] = text
        spaces = [draw(SPACES) for _ in range(4)]
        parts.append(f"{spaces[0]}{json.dumps(key)}{spaces[1]}:{spaces[2]}{text}{spaces[3]}")
    return f"{draw(SPACES)}{{{','.join(parts) or draw(SPACES)}}}{draw(SPACES)}", members


@given(documents())
def test_members_are_cut_out_as_they_are(document: tuple[str, dict[str, str]]) -> None:
    """Each member's text to the character; of a repeated key the last one's."""
    text, members = document
    assert members == object_members(text)


@given(documents(), st.data())
def test_a_damaged_document_is_refused_like_elsewhere(
    document: tuple[str, dict[str, str]], data: st.DataObject
) -> None:
    """One character gone, or another in its place: taken if and only if it is JSON still, and then means the same."""
    text = document[0]
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = (
        text[:place] + data.draw(st.sampled_from(["", '"', "}", "]", ",", "0", "\\", " ", "\x01"])) + text[place + 1 :]
    )
    try:
        expected = json.loads(damaged)
    except ValueError:
        expected = None
    if not isinstance(expected, dict):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            object_members(damaged)
        assert isinstance(caught.value, InvalidJson) == (expected is None)
    else:
        assert expected == {key: json.loads(member) for key, member in object_members(damaged).items()}
