"""docs/protocol.md and docs/http-api.md say what the code does."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from slayq import protocol_v2
from slayq.errors import InvalidSignature
from slayq.protocol_v2 import Op, StepKind, StepState, parse_request
from slayq.signing import verify_v2
from tests.docs.pages import PAGES, blocks_of

PAGE = PAGES["protocol.md"].read_text(encoding="utf-8")


def test_the_request_is_one() -> None:
    """The SDK reads the example, and finds in it what it is said to hold."""
    (example,) = [block.code for block in blocks_of("protocol.md", "json") if '"steps"' in block.code]
    segment = parse_request(example.encode())
    assert ["done", "timed_out", "pending"] == [str(step.state) for step in segment.steps]
    assert protocol_v2.Limits() == segment.limits


def test_every_op_kind_and_state_is_there() -> None:
    """And no other op."""
    documented = re.findall(r"^\| `([a-z_]+)` \| [^|]*\| [^|]*\|$", PAGE[PAGE.index("| op |") :], flags=re.MULTILINE)
    assert sorted(Op) == sorted(documented)
    assert [] == [each for each in (*StepKind, *StepState) if f"`{each}`" not in PAGE]


def test_the_answer_is_one() -> None:
    """Each line of the example is an op."""
    lines = re.findall(r"^    (\{\"op\".*\})$", PAGE, flags=re.MULTILINE)
    assert [Op.HELLO, Op.STEP, Op.SLEEP, Op.SUSPEND] == [Op(json.loads(line)["op"]) for line in lines]


def test_names_and_numbers() -> None:
    """Headers, the content type, limits."""
    for text in (
        protocol_v2.PROTOCOL_HEADER,
        protocol_v2.CONTENT_TYPE,
        protocol_v2.INVOCATION_FAILED,
        f'"line_bytes": {protocol_v2.LINE_BYTES}, "ops": {protocol_v2.OPS}',
        f"every {protocol_v2.KEEP_ALIVE_SECONDS:g} seconds",
        f"1 to {protocol_v2.NAME_CHARACTERS} characters",
        f"At most {protocol_v2.FUNCTIONS} functions",
    ):
        assert text in PAGE


async def test_the_documented_client_signs_well() -> None:
    """docs/http-api.md's client, against a server that checks with the SDK."""
    (block,) = blocks_of("http-api.md", "python")
    documented: dict[str, Any] = {}
    exec(block.code, documented)
    seen: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, dict(self.headers), body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"cancelled": false}')

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        answer = await asyncio.to_thread(documented["call"], base, "a-secret", "/v2/cancel", {"run": "none"})
        thread.join()
    assert {"cancelled": False} == answer
    ((path, headers, body),) = seen
    assert protocol_v2.CANCEL_PATH == path
    now = float(next(value for name, value in headers.items() if name.lower() == "webhook-timestamp"))
    verify_v2(["a-secret"], headers, body, now=now)
    with pytest.raises(InvalidSignature):
        verify_v2(["another"], headers, body, now=now)
