"""Questions and answers between the supervisor and one of its processes, both ways, over one socket.

Both ends are this same program, and nobody else has the socket: what comes through it is trusted, and pickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

_SIZE: Final = struct.Struct("!I")
_Frame = tuple[str, int, str, Any]
"""ask or answer, the number of the question, what is asked, what comes with it."""


class ChannelClosed(ConnectionError):
    """The other process has ended, or nothing has been heard of it yet."""


class Channel:
    """One end. `answer` is given each question, by its name and with its data, and returns what is answered."""

    def __init__(self, end: socket.socket, answer: Callable[[str, Any], Awaitable[Any]]) -> None:
        """Takes the socket over. Nothing is read or written before `open`."""
        self._end = end
        self._answer = answer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._replies: set[asyncio.Task[None]] = set()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Makes ready to ask. Answers come once `run` runs."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._end)

    async def run(self) -> None:
        """Reads and answers until the other end is closed."""
        reader, writer = self._reader, self._writer
        assert reader is not None, "open comes first"
        assert writer is not None, "open comes first"
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
                        frame = pickle.loads(await reader.readexactly(size))  # noqa: S301 (from ourselves)
                    except (asyncio.IncompleteReadError, ConnectionError):
                        for reply in self._replies:
                            reply.cancel()  # nobody waits for it any more
                        return
                    self._read(frame, group)
        finally:
            self._writer = None
            writer.close()
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(ChannelClosed("the other process has ended"))

    async def ask(self, what: str, data: Any = None, *, timeout: float) -> Any:
        """The other end's answer.

        Raises:
            ChannelClosed: there is no other end, or not any more.
            TimeoutError: it did not answer within so many seconds.
        """
        number = next(self._numbers)
        self._write(("ask", number, what, data))
        self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                return await self._asked[number]
        finally:
            del self._asked[number]

    def tell(self, what: str, data: Any = None) -> None:
        """Says something that needs no answer; nothing is said where nobody is there."""
        with contextlib.suppress(ChannelClosed):
            self._write(("ask", -1, what, data))

    def _read(self, frame: _Frame, group: asyncio.TaskGroup) -> None:
        kind, number, what, data = frame
        if kind == "ask":
            task = group.create_task(self._reply(number, what, data))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)
        elif (future := self._asked.get(number)) is not None and not future.done():
            future.set_result(data)

    async def _reply(self, number: int, what: str, data: Any) -> None:
        reply = await self._answer(what, data)
        if number >= 0:
            with contextlib.suppress(ChannelClosed):  # whoever asked has ended
                self._write(("answer", number, what, reply))

    def _write(self, frame: _Frame) -> None:
        if self._writer is None or self._writer.is_closing():
            raise ChannelClosed("the other process is not there")
        packed = pickle.dumps(frame)
        self._writer.write(_SIZE.pack(len(packed)) + packed)
