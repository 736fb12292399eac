"""A bare HTTP endpoint, a process of its own: answers 200 to every POST at once and remembers when each job arrived.

It parses only what it must (Content-Length, the job's number `"n":123`), so that it is not the bottleneck: `ceiling`
measures that. A POST to /held is answered only at the next reset. Times are seconds of the machine's monotonic clock,
which all processes share. GET /count, /arrivals and /reset control it.

    python -m bench.endpoint      prints the port it listens on
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb'"n":(\d+)')
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n" + b'{"status":"ok"}'


class Record:
    """What has arrived."""

    def __init__(self) -> None:
        self.arrivals: dict[int, float] = {}
        self.duplicates = 0
        self.first = self.last = 0.0
        self.held: list[asyncio.Transport] = []
        """Where an answer is owed."""

    def note(self, body: bytes) -> None:
        """Remembers one delivery."""
        now = time.monotonic()
        match = _NUMBER.search(body)
        if match is None:
            return
        number = int(match[1])
        if number in self.arrivals:
            self.duplicates += 1
            return
        self.arrivals[number] = self.last = now
        if len(self.arrivals) == 1:
            self.first = now

    def control(self, path: bytes) -> bytes:
        """The JSON answer to a GET."""
        if path == b"/reset":
            for transport in self.held:
                transport.write(_OK)
            self.held = []
            self.arrivals = {}
            self.duplicates = 0
            self.first = self.last = 0.0
        found: dict[str, object] = {
            "count": len(self.arrivals),
            "duplicates": self.duplicates,
            "first": self.first,
            "last": self.last,
            "held": len(self.held),
        }
        if path == b"/arrivals":
            found["arrivals"] = {str(number): at for number, at in self.arrivals.items()}
        return json.dumps(found).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer += data
        while (head := self._buffer.find(b"\r\n\r\n")) >= 0:
            match = _LENGTH.search(self._buffer, 0, head)
            end = head + 4 + (int(match[1]) if match else 0)
            if len(self._buffer) < end:
                return
            method, path, _ = self._buffer.split(b" ", 2)
            if method == b"GET":
                body = self._record.control(path)
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            elif path == b"/held":
                self._record.held.append(self._transport)
            else:
                self._record.note(self._buffer[head + 4 : end])
                self._transport.write(_OK)
            self._buffer = self._buffer[end:]


async def main() -> None:
    """Serves until it is told to stop."""
    record = Record()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(record), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
