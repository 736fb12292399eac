"""The HTTP client under `delivery` and `segment`: one signed POST, judged at the socket, sealed when it goes out.

What goes out over plain HTTP is `plain_http`'s, which costs a fraction; aiohttp is here for TLS.

The seam for another client: it takes a `Target`, and gives a `Reply`, read up to a limit, or a `Stream`, to be read as
it comes; or raises `PostFailed`. Of aiohttp, nothing gets out of here. Two of its hooks carry what a client for
callbacks needs and most lack:

- the socket factory is asked for each address about to be connected to, and the request's own `send` is called once
  there is a connection: both ask the guard, the second for connections kept alive from before the rules changed, too;
- `send` is also where the body is made and signed, so that its time is that of sending, not of looking up a name.

A connection that the app closes just as it is used again costs the attempt: a POST is never sent twice. Connections are
therefore kept for less time than apps keep them.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from yarl import URL

from slayq.protocol import CONTENT_TYPE
from slayq_server.engine import plain_http
from slayq_server.engine.address_guard import Blocked
from slayq_server.engine.exchange import PostFailed, Reply, plain_failure, reason_of, reply_of, send_now
from slayq_server.engine.plain_connection import Broken
from slayq_server.model import CallbackResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aiohttp.abc import AbstractResolver
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import AddrInfoType, Connection

    from slayq_server.engine.address_guard import Target
    from slayq_server.engine.exchange import Exchange, Guard, Seal
    from slayq_server.engine.plain_connection import Connection as PlainConnection

KEEP_ALIVE: Final = 1.0
"""Seconds that an idle connection is kept: well below the least that common servers do (2 to 5 s)."""
NAMES_KEPT: Final = 10
"""Seconds that the addresses of a name are kept. Each is judged whenever it is connected to."""
_LARGE_BODY: Final = 2**20
"""Bytes from which a body is written in pieces."""


class Stream:
    """An answer that is read as it comes."""

    def __init__(self, status: int, content_type: str | None, retry_after: str | None, date: str | None) -> None:
        self.status = status
        self.content_type = (content_type or "").partition(";")[0].strip().lower()
        """Without parameters, in lower case."""
        self.retry_after = retry_after
        """The header as it came."""
        self.date = date
        """The header as it came."""

    async def read(self) -> bytes:
        """What has come since; waits until there is something. Empty at the end. Raises PostFailed.

        What nobody reads stays with the sender, but for some tens of kilobytes.
        """
        raise NotImplementedError


class _AiohttpStream(Stream):
    def __init__(self, response: aiohttp.ClientResponse, target: Target) -> None:
        headers = response.headers
        super().__init__(response.status, headers.get("Content-Type"), headers.get("Retry-After"), headers.get("Date"))
        self._response = response
        self._target = target
        self._protocol = None if response.connection is None else response.connection.protocol

    async def read(self) -> bytes:
        try:
            piece = await self._response.content.readany()
            if not piece:
                _check_end(self._response, self._protocol)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise _failure(error, self._target, 0.0) from error
        return piece


class _PlainStream(Stream):
    def __init__(self, connection: PlainConnection, target: Target) -> None:
        header = connection.header
        super().__init__(connection.status, header(b"content-type"), header(b"retry-after"), header(b"date"))
        self._connection = connection
        self._target = target

    async def read(self) -> bytes:
        try:
            return await self._connection.read()
        except Broken as error:
            raise plain_failure(error, self._target, 0.0) from error


class HttpPoster:
    """Posts over HTTP/1.1 with connections kept alive. To be started on the event loop that uses it."""

    def __init__(
        self,
        *,
        user_agent: str,
        response_limit: int,
        limit_per_host: int = 0,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            user_agent: the header.
            response_limit: bytes of an answer's body that are read; then the connection is closed.
            limit_per_host: connections to one host and port at a time; 0 for no limit. Waiting for one counts as
                connecting.
            tls: whom to trust; None: the system's certificate authorities.
            resolver: looks names up; None: the system's way.
        """
        self._response_limit = response_limit
        self._limit_per_host = limit_per_host
        self._tls = tls or ssl.create_default_context()
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": CONTENT_TYPE,
            "User-Agent": user_agent,
        }
        self._plain = plain_http.PlainClient(
            self._headers, keep_alive=KEEP_ALIVE, names_kept=NAMES_KEPT, resolver=resolver
        )

    async def start(self) -> None:
        """Makes ready to post."""
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._limit_per_host,
            keepalive_timeout=KEEP_ALIVE,
            ttl_dns_cache=NAMES_KEPT,
            ssl=self._tls,
            resolver=self._resolver,
            socket_factory=_guarded_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            auto_decompress=False,
            trust_env=False,
            request_class=_SealedRequest,
        )

    async def close(self) -> None:
        """Closes all connections, those in use, too."""
        self._plain.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, target: Target, seal: Seal, *, guard: Guard, connect_timeout: float) -> Reply:
        """Sends one POST and reads the answer. The caller limits the time of the whole.

        Args:
            target: where to.
            seal: makes the body and the headers that sign it; called once, when there is a connection.
            guard: judges the addresses.
            connect_timeout: seconds for looking up the name, connecting and TLS.

        Raises:
            PostFailed: there is no answer, or none that can be read.
            Blocked: the guard refused every address of the host.
        """
        if self._is_plain(target):
            return await self._post_plainly(target, seal, guard, connect_timeout)
        response = await self._open(target, seal, guard, connect_timeout)
        try:
            body, truncated = await self._read(response)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise _failure(error, target, connect_timeout) from error
        finally:
            # Once the answer is read its connection is back with the others, and this does nothing.
            response.close()
        headers = response.headers
        return Reply(response.status, body, truncated, headers.get("Retry-After"), headers.get("Date"))

    def post_now(
        self,
        target: Target,
        seal: Seal,
        *,
        guard: Guard,
        timeout: float,
        done: Callable[[Reply | PostFailed | None], None],
    ) -> Exchange | None:
        """Sends one POST if that takes no waiting: nothing is sent, and None returned, unless a connection is idle.

        Args:
            target: where to.
            seal: makes the body and the headers that sign it; called once, if there is a connection.
            guard: judges its address.
            timeout: seconds for the answer to its last byte.
            done: called once from the event loop: with the answer, why there is none, or None when time is up.

        Raises:
            Blocked: the guard refused the address.
        """
        if not self._is_plain(target):
            return None
        return send_now(self._plain, target, seal, guard, self._response_limit, timeout, done)

    @contextlib.asynccontextmanager
    async def stream(
        self, target: Target, seal: Seal, *, guard: Guard, connect_timeout: float
    ) -> AsyncIterator[Stream]:
        """Sends one POST as `post` does; the answer may be read while the block runs. The caller limits the time.

        An answer that has not been read to its end is cut off by closing the connection, as the block ends.
        """
        if self._is_plain(target):
            connection = await self._open_plainly(target, seal, guard, connect_timeout, streaming=True)
            try:
                yield await self._plain_stream(connection, target)
            finally:
                self._plain.done(connection)
            return
        response = await self._open(target, seal, guard, connect_timeout)
        try:
            yield _AiohttpStream(response, target)
        finally:
            response.close()

    def _is_plain(self, target: Target) -> bool:
        return target.url.startswith("http:") and not self._limit_per_host

    async def _post_plainly(self, target: Target, seal: Seal, guard: Guard, connect_timeout: float) -> Reply:
        connection = await self._open_plainly(target, seal, guard, connect_timeout)
        try:
            await connection.whole()
        except Broken as error:
            raise plain_failure(error, target, connect_timeout) from error
        finally:
            self._plain.done(connection)
        return reply_of(connection)

    async def _plain_stream(self, connection: PlainConnection, target: Target) -> Stream:
        try:
            await connection.head()
        except Broken as error:
            raise plain_failure(error, target, 0.0) from error
        return _PlainStream(connection, target)

    async def _open_plainly(
        self, target: Target, seal: Seal, guard: Guard, connect_timeout: float, *, streaming: bool = False
    ) -> PlainConnection:
        try:
            return await self._plain.open(
                target, seal, guard, self._response_limit, connect_timeout=connect_timeout, streaming=streaming
            )
        except (plain_http.NameUnknown, plain_http.TooSlow, Broken, OSError, RuntimeError) as error:
            raise plain_failure(error, target, connect_timeout) from error

    async def _open(self, target: Target, seal: Seal, guard: Guard, connect_timeout: float) -> aiohttp.ClientResponse:
        """Sends one POST; returns as soon as the answer has begun."""
        assert self._session is not None, "start() comes first"
        attempt = _Attempt(target, seal, guard)
        token = _attempt.set(attempt)
        try:
            return await self._session.post(
                URL(target.url, encoded=True), allow_redirects=False, timeout=_timeout(connect_timeout)
            )
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # the last is uvloop's for some sockets
            if attempt.blocked is not None and not attempt.let_out:
                raise attempt.blocked from None
            raise _failure(error, target, connect_timeout) from error
        finally:
            _attempt.reset(token)

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """The body's beginning, and whether there was more."""
        limit = self._response_limit
        protocol = None if response.connection is None else response.connection.protocol
        body = b""
        while piece := await response.content.readany():
            body += piece
            if len(body) > limit:
                return body[:limit], True
        _check_end(response, protocol)
        return body, False


@dataclass(slots=True)
class _Attempt:
    """One POST, for the hooks that run under it."""

    target: Target
    seal: Seal
    guard: Guard
    blocked: Blocked | None = None
    let_out: bool = False
    """Some address of the host passed the guard."""


_attempt: ContextVar[_Attempt] = ContextVar("slayq_attempt")


class _Refused(OSError):
    """Makes aiohttp go on with the host's next address."""


def _guarded_socket(info: AddrInfoType) -> socket.socket:
    """A socket for an address that the guard lets pass."""
    family, kind, protocol, _, address = info
    attempt = _attempt.get()
    try:
        attempt.guard.check_address(str(address[0]), attempt.target)
    except Blocked as error:
        attempt.blocked = error
        raise _Refused from None
    attempt.let_out = True
    return socket.socket(family, kind, protocol)


class _SealedRequest(aiohttp.ClientRequest):
    """A request that gets its body and signature when there is a connection for it."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        attempt = _attempt.get()
        peer = None if conn.transport is None else conn.transport.get_extra_info("peername")
        if peer is None:
            raise aiohttp.ServerDisconnectedError
        attempt.guard.check_address(peer[0], attempt.target)
        body, headers = attempt.seal()
        self.headers.update(headers)
        await self.update_body(body if len(body) < _LARGE_BODY else io.BytesIO(body))
        return await super().send(conn)


def _check_end(response: aiohttp.ClientResponse, protocol: ResponseHandler | None) -> None:
    """Raises if what looks like the body's end is none: aiohttp takes a reset for it where nothing else marks it."""
    if protocol is not None and _ends_with_connection(response):
        broken = protocol.exception()
        if isinstance(broken, OSError):
            raise aiohttp.ClientPayloadError from broken


def _ends_with_connection(response: aiohttp.ClientResponse) -> bool:
    """Whether the answer's body has neither length nor chunks."""
    return "Content-Length" not in response.headers and "Transfer-Encoding" not in response.headers


@lru_cache(maxsize=64)
def _timeout(connect_timeout: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_timeout)


def _failure(error: Exception, target: Target, connect_timeout: float) -> PostFailed:
    """An error in our words: aiohttp's hold URLs, and may hold what the endpoint sent."""
    host = target.authority
    match error:
        case aiohttp.ConnectionTimeoutError():
            return PostFailed(CallbackResult.TIMEOUT, f"{host}: no connection within {connect_timeout:g} s")
        case aiohttp.ClientConnectorDNSError():
            why = error.os_error.strerror or "no answer"
            return PostFailed(CallbackResult.DNS_ERROR, f"{host}: the name cannot be looked up ({why})")
        case aiohttp.ClientConnectorCertificateError():
            certificate = error.certificate_error
            why = getattr(certificate, "verify_message", "") or "it cannot be verified"
            return PostFailed(CallbackResult.TLS_ERROR, f"{host}: its TLS certificate is not valid ({why})")
        case aiohttp.ClientResponseError():
            if any(_is_too_long(cause) for cause in _causes(error)):
                return PostFailed(CallbackResult.TOO_LARGE, f"{host}: the answer's headers are too long")
            return PostFailed(CallbackResult.PROTOCOL_ERROR, f"{host}: the answer is not valid HTTP")
    if tls := [cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)]:
        # aiohttp's own kind of SSLError has no reason: the one under it has.
        why = (getattr(tls[-1], "reason", None) or "no reason given").replace("_", " ").lower()
        return PostFailed(CallbackResult.TLS_ERROR, f"{host}: no TLS connection ({why})")
    match error:
        case aiohttp.ClientConnectorError():
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: no connection ({reason_of(error.os_error)})")
        case aiohttp.ClientPayloadError():
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection broke within the answer")
        case aiohttp.ServerDisconnectedError():
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection was closed without an answer")
        case OSError():
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection broke ({reason_of(error)})")
        case _:
            return PostFailed(CallbackResult.CONNECT_ERROR, f"{host}: the connection broke ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_too_long(error: BaseException) -> bool:
    """Whether a limit on headers was passed: on one of them, or on how many there are."""
    if isinstance(error, LineTooLong):
        return True
    return isinstance(error, HttpProcessingError) and error.message.startswith("Too many headers")
