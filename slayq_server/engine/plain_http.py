"""HTTP/1.1 over plain TCP, for `posting`: connections kept by host and port, and nothing else.

Delivering is what a daemon spends its time on, and most apps are reached over plain HTTP, on the same machine or a
private network. What a general client does for each request costs several times what this one does.

Invariants:

- A connection whose exchange did not come to its end (see `plain_connection`) is closed at once. A POST is never sent
  twice.
- Every address is judged by the guard before a connection is made to it, and again before a request goes out on it.
"""

from __future__ import annotations

import asyncio
import socket
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from slayq_server.engine.address_guard import Blocked
from slayq_server.engine.plain_connection import Broken, Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slayq_server.engine.address_guard import Target

_NEXT_ADDRESS: Final = 0.25
"""Seconds after which a name's next address is tried beside the one before."""
_PLACES: Final = 1024

AddressInfo = tuple[int, int, int, str, Any]
"""As `socket.getaddrinfo` gives them."""


class Refused(OSError):
    """The guard has refused an address: the host's next one is tried."""


class TooSlow(Exception):
    """There was no connection in time."""


class NameUnknown(Exception):
    """A name that cannot be looked up; the message says why."""


class Guard(Protocol):
    """What judges addresses; raises Blocked."""

    def check_address(self, address: str, target: Target) -> None: ...


class Resolver(Protocol):
    """What looks names up in place of the system; entries have at least `host` and `family`."""

    async def resolve(
        self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC
    ) -> Sequence[Mapping[str, Any]]: ...


class Place:
    """What a URL comes to: where to connect, and the beginning of each request."""

    __slots__ = ("head", "host", "port")

    def __init__(self, url: str, fixed: str) -> None:
        parts = urlsplit(url)
        assert parts.scheme == "http", "TLS is not for this client"
        assert parts.hostname is not None
        self.host = parts.hostname
        self.port = parts.port or 80
        path = parts.path or "/"
        query = f"?{parts.query}" if parts.query else ""
        self.head = f"POST {path}{query} HTTP/1.1\r\nHost: {parts.netloc}\r\n{fixed}".encode("ascii")


class PlainClient:
    """The connections, by host and port."""

    def __init__(
        self, headers: Mapping[str, str], *, keep_alive: float, names_kept: float, resolver: Resolver | None = None
    ) -> None:
        """Opens nothing yet.

        Args:
            headers: those that every request has.
            keep_alive: seconds that an idle connection is kept.
            names_kept: seconds that the addresses of a name are kept.
            resolver: looks names up; None: the system's way.
        """
        fixed = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._place: Callable[[str], Place] = lru_cache(maxsize=_PLACES)(lambda url: Place(url, fixed))
        self._keep_alive = keep_alive
        self._names_kept = names_kept
        self._resolver = resolver
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._in_use: set[Connection] = set()
        self._names: dict[tuple[str, int], tuple[float, list[AddressInfo]]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Closes all connections, those in use, too."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in [*self._in_use, *(each for idle in self._idle.values() for each in idle)]:
            connection.abort()
        self._idle.clear()

    async def open(
        self,
        target: Target,
        seal: Callable[[], tuple[bytes, Mapping[str, str]]],
        guard: Guard,
        limit: int,
        *,
        connect_timeout: float,
        streaming: bool = False,
    ) -> Connection:
        """Sends one POST, on an idle connection or one made within so many seconds. `done` is to be called at its end.

        Raises Blocked, NameUnknown, TooSlow, Broken, and OSError or RuntimeError for a connection that cannot be made.
        """
        place = self._place(target.url)
        connection = self._idle_one(place)
        if connection is None:
            try:
                async with asyncio.timeout(connect_timeout) as limited:
                    connection = await self._connect(place, target, guard)
            except TimeoutError as error:
                if limited.expired():
                    raise TooSlow from error
                raise
        self._send(connection, place, target, seal, guard, limit, streaming=streaming)
        return connection

    def open_now(
        self, target: Target, seal: Callable[[], tuple[bytes, Mapping[str, str]]], guard: Guard, limit: int
    ) -> Connection | None:
        """Sends one POST if an idle connection is there for it, else returns None. `done` is to be called at its end.

        Raises Blocked and Broken.
        """
        place = self._place(target.url)
        connection = self._idle_one(place)
        if connection is not None:
            self._send(connection, place, target, seal, guard, limit)
        return connection

    def _send(
        self,
        connection: Connection,
        place: Place,
        target: Target,
        seal: Callable[[], tuple[bytes, Mapping[str, str]]],
        guard: Guard,
        limit: int,
        *,
        streaming: bool = False,
    ) -> None:
        if not connection.peer:
            connection.abort()
            raise Broken("closed")
        self._in_use.add(connection)
        try:
            guard.check_address(connection.peer, target)
            body, headers = seal()
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
            connection.send(place.head + head + body, limit, streaming=streaming)
        except BaseException:
            self.done(connection)
            raise

    def done(self, connection: Connection) -> None:
        """Ends an exchange: the connection is kept for the next one, or closed."""
        self._in_use.discard(connection)
        if not connection.reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(connection.key, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._keep_alive, self._close_idle)

    def _idle_one(self, place: Place) -> Connection | None:
        idle = self._idle.get((place.host, place.port))
        while idle:
            connection = idle.pop()
            fresh = asyncio.get_running_loop().time() - connection.idle_since < self._keep_alive
            if fresh and connection.reusable:
                return connection
            connection.abort()
        return None

    def _close_idle(self) -> None:
        """Closes what has been idle for too long, and looks again as long as something is."""
        loop = asyncio.get_running_loop()
        until = loop.time() - self._keep_alive
        for key, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= until:
                    connection.abort()
            kept = [each for each in idle if each.idle_since > until]
            if kept:
                self._idle[key] = kept
            else:
                del self._idle[key]
        self._sweep = loop.call_later(self._keep_alive / 2, self._close_idle) if self._idle else None

    async def _connect(self, place: Place, target: Target, guard: Guard) -> Connection:
        loop = asyncio.get_running_loop()
        blocked: Blocked | None = None
        let_out = False

        def guarded(info: AddressInfo) -> socket.socket:
            nonlocal blocked, let_out
            try:
                guard.check_address(str(info[4][0]), target)
            except Blocked as error:
                blocked = error
                raise Refused from None
            let_out = True
            return socket.socket(info[0], info[1], info[2])

        addresses = await self._addresses(loop, place)
        try:
            connected = await start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS, loop=loop, socket_factory=guarded
            )
        except (OSError, RuntimeError):  # the last is uvloop's for some sockets
            if blocked is not None and not let_out:
                raise blocked from None
            raise
        key = (place.host, place.port)
        try:
            _, connection = await loop.create_connection(lambda: Connection(loop, key), sock=connected)
        except BaseException:
            connected.close()
            raise
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop, place: Place) -> list[AddressInfo]:
        key = (place.host, place.port)
        known = self._names.get(key)
        if known is not None and known[0] > loop.time():
            return known[1]
        try:
            found = await self._look_up(loop, place)
        except OSError as error:
            raise NameUnknown(error.strerror or "no answer") from error
        if len(self._names) >= _PLACES:
            self._names.clear()
        self._names[key] = loop.time() + self._names_kept, found
        return found

    async def _look_up(self, loop: asyncio.AbstractEventLoop, place: Place) -> list[AddressInfo]:
        if self._resolver is None or _is_address(place.host):
            found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            return [(*each[:4], each[4]) for each in found]
        entries = await self._resolver.resolve(place.host, place.port, socket.AF_UNSPEC)
        return [
            (each["family"], socket.SOCK_STREAM, socket.IPPROTO_TCP, "", _sockaddr(each, place.port))
            for each in entries
        ]


def _sockaddr(entry: Mapping[str, Any], port: int) -> tuple[Any, ...]:
    address = (entry["host"], entry.get("port") or port)
    return (*address, 0, 0) if entry["family"] == socket.AF_INET6 else address


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
