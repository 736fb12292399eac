"""One POST over plain HTTP that begins without waiting: a connection is idle, and the answer is told by a call.

Most callbacks begin like that while there is much to do. One costs no task, no future and no time-out block: what is
left is to sign, to write, and to read. What would have to wait (a name, a connection) is `posting`'s.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Protocol, TypeAlias

from slayq_server.engine import plain_http
from slayq_server.engine.plain_connection import Broken
from slayq_server.model import CallbackResult, quick_dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slayq_server.engine.address_guard import Target
    from slayq_server.engine.plain_connection import Connection
    from slayq_server.engine.plain_http import PlainClient


@quick_dataclass
class Reply:
    """How an endpoint answered."""

    status: int
    body: bytes
    truncated: bool
    """The body went on; the connection was closed."""
    retry_after: str | None
    """The header as it came."""
    date: str | None
    """The header as it came."""


class PostFailed(Exception):
    """There is no answer. The message is one line, and holds nothing of the payload, the URL's path or its query."""

    def __init__(self, result: CallbackResult, message: str) -> None:
        super().__init__(message)
        self.result = result


Seal: TypeAlias = "Callable[[], tuple[bytes, Mapping[str, str]]]"
"""Makes a body, and the headers that sign it."""


class Guard(Protocol):
    """What judges addresses; raises Blocked."""

    def check_address(self, address: str, target: Target) -> None: ...


class Exchange:
    """A request that has gone out."""

    __slots__ = ("_client", "_connection", "_done", "_target", "_timer")

    def __init__(
        self,
        client: PlainClient,
        connection: Connection,
        target: Target,
        timeout: float,
        done: Callable[[Reply | PostFailed | None], None],
    ) -> None:
        self._client = client
        self._connection = connection
        self._target = target
        self._done: Callable[[Reply | PostFailed | None], None] | None = done
        self._timer = asyncio.get_running_loop().call_later(timeout, self._end, None)
        connection.on_end = self._answered

    def cancel(self) -> bool:
        """Closes the connection, and nobody is told. Whether there was anything left to cancel."""
        return self._let_go() is not None

    def _answered(self) -> None:
        connection = self._connection
        if connection.failure is not None:
            self._end(plain_failure(connection.failure, self._target, 0.0))
        else:
            self._end(reply_of(connection))

    def _end(self, result: Reply | PostFailed | None) -> None:
        done = self._let_go()
        if done is not None:
            done(result)

    def _let_go(self) -> Callable[[Reply | PostFailed | None], None] | None:
        """Ends the exchange, and returns who is to be told, once."""
        done, self._done = self._done, None
        if done is not None:
            self._timer.cancel()
            self._connection.on_end = None
            self._client.done(self._connection)
        return done


def send_now(
    client: PlainClient,
    target: Target,
    seal: Seal,
    guard: Guard,
    limit: int,
    timeout: float,
    done: Callable[[Reply | PostFailed | None], None],
) -> Exchange | None:
    """As `posting.HttpPoster.post_now`."""
    try:
        connection = client.open_now(target, seal, guard, limit)
    except Broken:
        return None
    return None if connection is None else Exchange(client, connection, target, timeout, done)


def reply_of(connection: Connection) -> Reply:
    """The answer that has come."""
    return Reply(
        connection.status,
        connection.body,
        connection.truncated,
        connection.header(b"retry-after"),
        connection.header(b"date"),
    )


def plain_failure(error: Exception, target: Target, connect_timeout: float) -> PostFailed:
    """What `plain_http` says, in the same words."""
    host = target.authority
    match error:
        case plain_http.TooSlow():
            return PostFailed(CallbackResult.TIMEOUT, f"{host}: no connection within {connect_timeout:g} s")
        case plain_http.NameUnknown():
            return PostFailed(CallbackResult.DNS_ERROR, f"{host}: the name cannot be looked up ({error})")
        case Broken(why="invalid"):
            return PostFailed(CallbackResult.PROTOCOL_ERROR, f"{host}: the answer is not valid HTTP")
        case Broken(why="head"):
            return PostFailed(CallbackResult.TOO_LARGE, f"{host}: the answer's headers are too long")
        case Broken(why="within"):
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection broke within the answer")
        case Broken(cause=OSError() as cause):
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection broke ({reason_of(cause)})")
        case Broken():
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection was closed without an answer")
        case OSError():
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: no connection ({reason_of(error)})")
        case _:
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: no connection ({type(error).__name__})")


def reason_of(error: OSError) -> str:
    """What the system says of it."""
    return os.strerror(error.errno).lower() if error.errno else "no reason given"
