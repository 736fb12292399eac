"""What the endpoint itself can take: a client of a few lines posts to it, so that one sees that it is no bottleneck."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bench.context import Case

if TYPE_CHECKING:
    from bench.context import Context

CONNECTIONS = (10, 50, 200)
_BODY = b'{"job_key":null,"retry":1,"time":1700000000000,"event":"bench/noop","data":{"n":%d}}'
_HEAD = (
    b"POST /slayq HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-SlayQ-Signature: "
    + b"0" * 128
    + b"\r\nContent-Length: %d\r\n\r\n"
)


class Client(asyncio.Protocol):
    """One connection that posts the next as soon as the last is answered."""

    def __init__(self, first: int) -> None:
        self._number = first
        self.answered = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._post()

    def data_received(self, data: bytes) -> None:
        # The endpoint's answer is one short write, which comes in one piece.
        self.answered += data.count(b'{"status":"ok"}')
        self._post()

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def _post(self) -> None:
        assert self._transport is not None
        self._number += 1
        body = _BODY % self._number
        self._transport.write(_HEAD % len(body) + body)


async def ceiling(port: int, connections: int, seconds: float) -> float:
    """Requests a second over so many connections."""
    loop = asyncio.get_running_loop()
    clients = [Client(number * 10_000_000) for number in range(connections)]
    try:
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        begun, before = time.monotonic(), sum(client.answered for client in clients)
        await asyncio.sleep(seconds)
        return (sum(client.answered for client in clients) - before) / (time.monotonic() - begun)
    finally:
        for client in clients:
            client.close()


async def run(context: Context) -> None:
    """At each concurrency that the drains have."""
    for connections in CONNECTIONS:
        rounds = []
        for _ in range(context.scale.rounds):
            context.endpoint.ask("reset")
            rounds.append(
                {
                    "requests_per_second": await ceiling(
                        context.endpoint.port, connections, context.scale.ceiling_seconds
                    )
                }
            )
        context.results.add(
            f"ceiling_c{connections}", rounds, f"The endpoint with a bare client, {connections} at once"
        )
    context.endpoint.ask("reset")


CASE = Case("ceiling", run, figures=tuple(f"ceiling_c{connections}" for connections in CONNECTIONS))
