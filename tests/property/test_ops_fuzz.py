"""Whatever an app answers (protocol v2): ops or a BrokenStream, and the same however the bytes arrive."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slayq_server.protocol.ops import BrokenStream, OpReader
from slayq_server.protocol.v2 import OPEN

if TYPE_CHECKING:
    from slayq_server.model import Op, Terminal

TOKEN = "token"
ERROR = {"type": "ValueError", "message": "no"}
SECRET = "5ecret"
"""Stands in values alone, which no message may quote."""

bounded = settings(derandomize=True, deadline=None, max_examples=150, database=None)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "\0", "\ud800", SECRET, "2030-01-01T00:00:00Z", "a" * 600, 10**400, 1e308])
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["a", "b", "c", "open", "\x85", "\u2028", "\x1b[2J"]) | st.text(max_size=4)
moments = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")
ops = st.one_of(
    st.fixed_dictionaries({"op": st.just("step"), "name": names, "output": values}),
    st.fixed_dictionaries(
        {"op": st.just("step_failed"), "name": names, "error": st.just(ERROR), "attempt": st.integers(1, 3),
         "final": st.booleans()},
        optional={"retry_after": st.floats(0, 100)},
    ),
    st.fixed_dictionaries({"op": st.just("sleep"), "name": names, "ms": st.integers(0, 10**6)}),
    st.fixed_dictionaries({"op": st.just("sleep"), "name": names, "until": moments}),
    st.fixed_dictionaries(
        {"op": st.just("wait"), "name": names, "event": st.just("e"),
         "match": st.fixed_dictionaries({"key": st.just("k"), "value": scalars})},
        optional={"timeout_ms": st.none() | st.integers(0, 10**6)},
    ),
    st.fixed_dictionaries({"op": st.just("invoke"), "name": names, "event": st.just("e"), "data": st.just({"n": 1})}),
    st.fixed_dictionaries(
        {"op": st.just("send"), "name": names,
         "events": st.lists(st.fixed_dictionaries({"event": st.just("e"), "data": st.just({})}), max_size=2)},
    ),
)  # fmt: skip
ends = st.one_of(
    st.just({"op": "suspend"}),
    st.fixed_dictionaries({"op": st.just("done"), "output": values}),
    st.fixed_dictionaries({"op": st.just("failed"), "error": st.just(ERROR), "retry": st.booleans()}),
)
hello = st.just({"op": "hello", "lease": TOKEN})


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Streams as an SDK would write them, but for what is in them."""
    lines = [draw(hello), *draw(st.lists(ops, max_size=5)), draw(ends)]
    if draw(st.booleans()):  # a member gone, or of another type
        line = dict(draw(st.sampled_from(lines)))
        member = draw(st.sampled_from(sorted(line)))
        line[member] = draw(values)
        lines[draw(st.integers(0, len(lines) - 1))] = line
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return b"".join(
        json.dumps(line, ensure_ascii=draw(st.booleans()), separators=separators).encode("utf-8", "replace")
        + draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"]))
        for line in lines
    )


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Streams with bytes gone, doubled, or put in."""
    data = draw(streams())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        width = draw(st.integers(0, 3))
        put = draw(
            st.binary(max_size=3) | st.sampled_from([b"\n", b'"', b"}", b"{", b"\\", b"\x00", data[place : place + 40]])
        )
        data = data[:place] + put + data[place + width :]
    return data


def read(pieces: list[bytes]) -> tuple[list[Op], Terminal | None, str | None]:
    """What comes of an answer: the ops, the terminal one, the fault."""
    reader = OpReader(TOKEN, {"open": OPEN}, pending=True)
    found: list[Op] = []
    try:
        for piece in pieces:
            for op in reader.feed(piece):
                found.append(op)  # one by one: what came before a fault counts
        for op in reader.end():
            found.append(op)
    except BrokenStream as error:
        return found, reader.terminal, str(error)
    return found, reader.terminal, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces, some of which may be empty."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@bounded
@given(st.one_of(streams(), damaged(), st.binary(max_size=80)), st.lists(st.integers(0, 10**4), max_size=8))
def test_any_answer_however_it_is_cut(data: bytes, places: list[int]) -> None:
    """Ops that can be written down, then perhaps a fault in one line, which quotes no value; always the same ones."""
    whole = read([data])
    found, _, fault = whole
    assert whole == read(cut(data, places))
    assert whole == read([bytes([byte]) for byte in data])
    for op in found:
        assert 1 <= len(op.name) <= 512
        assert not {"\0", *"\ud800\udfff"} & set(op.name + (op.event or "") + (op.key or "") + (op.match_value or ""))
        if op.value is not None:
            json.loads(op.value)
    if fault is not None:
        assert 0 < len(fault) < 400
        assert [fault] == fault.splitlines()


@bounded
@given(st.lists(ops, max_size=5), ends)
def test_what_an_sdk_writes_is_read(told: list[dict[str, Any]], end: dict[str, Any]) -> None:
    """There may be a fault, of names that come twice or what Postgres has no place for; else each op comes out."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in [{"op": "hello", "lease": TOKEN}, *told, end])
    found, terminal, fault = read([data])
    assert (fault is None) == (terminal is not None and len(told) == len(found))
    assert [op["op"] for op in told[: len(found)]] == [op.kind for op in found]


@bounded
@given(st.sampled_from(["op", "lease", "name", "output", "error", "events", "ms", "until", "match", "data"]), st.data())
def test_no_message_quotes_a_value(member: str, data: st.DataObject) -> None:
    """Values may be secrets: a message says which member is wrong, and shows nothing but a step's name or an op's."""
    line = {**data.draw(ops), member: {"x": SECRET}} | ({"lease": [SECRET]} if member == "lease" else {})
    stream = [{"op": "hello", "lease": TOKEN if member != "lease" else SECRET}, line, {"op": "suspend"}]
    _, _, fault = read([b"".join(json.dumps(each).encode() + b"\n" for each in stream)])
    assert SECRET not in (fault or "")
