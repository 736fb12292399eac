"""The answer of a segment: ops as lines of JSON, in order, within the limits of the request."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from slayq.codec import NotJson, json_text
from slayq.errors import InvalidOutput
from slayq.protocol_v2 import TERMINAL, Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slayq.protocol_v2 import Limits

_TERMINAL_ROOM: Final = 2
"""Ops kept free at the end: the terminal one, and one that has the run continued."""


class Journal:
    """Takes ops, and gives out lines. It never holds more than the limits allow."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.written = 0
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._leaving: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Who waits for which line to have left, by its number from 1."""
        self._given = 0
        self._ended = False

    async def next_line(self) -> bytes | None:
        """The next line with its line feed; None after the last. Asking for it says that those before have left."""
        while self._leaving and self._leaving[0][0] <= self._given:
            left = self._leaving.popleft()[1]
            if not left.done():
                left.set_result(None)
        line = await self._lines.get()
        self._given += 1
        return line

    async def left(self) -> None:
        """Waits until what has been written is out of this process, as far as can be told: not a moment later may the
        function go on, or a crash would have steps run again that had long been finished."""
        leaves: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.append((self.written, leaves))
        await leaves

    def write(self, op: Op, what: str, members: Mapping[str, Any]) -> None:
        """Add an op. `what` says whose it is, for messages. Raises InvalidOutput if its line would be too long."""
        assert not self._ended, "an op after the terminal one"
        line = _line({"op": op, **members}, what)
        if len(line) > self.limits.line_bytes:
            raise InvalidOutput(
                f"{what} makes a line of {len(line):,} bytes, and {self.limits.line_bytes:,} are the limit: store what"
                f" is large elsewhere, and hand on where it is"
            )
        self.written += 1
        self._lines.put_nowait(line)
        if op in TERMINAL:
            self._ended = True
            self._lines.put_nowait(None)

    def has_room(self, running: int) -> bool:
        """Whether there is room for one more op, beside those of the bodies that run and the end."""
        return self.written + running + 1 + _TERMINAL_ROOM <= self.limits.ops

    def give_up(self) -> None:
        """End without a terminal op: the server takes it for a broken answer."""
        if not self._ended:
            self._ended = True
            self._lines.put_nowait(None)


def _line(op: dict[str, Any], what: str) -> bytes:
    try:
        return json_text(op) + b"\n"
    except NotJson as error:
        raise InvalidOutput(f"{what} {error}") from None
