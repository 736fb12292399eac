"""A segment of a durable run: one signed POST, and an answer whose ops are handed on as they come.

Whatever goes wrong is an answer, too, and what was heard before that stays: only cancellation gets out, and WorkerLost,
before anything is sent. Nothing limits how long a segment takes, as long as the app says something now and then: the
time limit is for the silence between two lines, of which an empty one will do.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Final, Protocol

from slayq.protocol_v2 import CONTENT_TYPE, PROTOCOL_HEADER, VERSION
from slayq.signing import sign_v2, v2_headers
from slayq_server import __version__
from slayq_server.engine.address_guard import Blocked
from slayq_server.engine.delivery import RETRY_AFTER_MAX, result_of, retry_after_of, words_of
from slayq_server.engine.exchange import PostFailed
from slayq_server.engine.posting import HttpPoster
from slayq_server.errors import WorkerLost
from slayq_server.model import Answer, CallbackResult, Failed
from slayq_server.protocol.ops import BrokenStream, OpReader
from slayq_server.protocol.v1 import UndeliverablePayload
from slayq_server.protocol.v2 import known_steps, request_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from aiohttp.abc import AbstractResolver

    from slayq_server.clock import Clock
    from slayq_server.engine.address_guard import AddressGuard
    from slayq_server.engine.posting import Stream
    from slayq_server.model import LeasedJob, Op, Terminal
    from slayq_server.protocol.v2 import Request

_OK: Final = 200
_LARGE: Final = 2**20
"""Characters from which a run is prepared in a thread, so that deliveries and renewals go on meanwhile."""
_LINGER: Final = 0.5
"""Seconds in which an answer has to end after its terminal op. Longer, and it is closed: all has been said."""
_ERROR_BYTES: Final = 4096
_ERROR_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)


class Sink(Protocol):
    """What takes the ops."""

    def put(self, ops: Iterable[Op]) -> None: ...
    async def room(self) -> None: ...


class Segments:
    """Delivers runs to their apps. Secrets and guard may be replaced at any time: the next delivery goes by them."""

    def __init__(
        self,
        secrets: Sequence[str],
        guard: AddressGuard,
        clock: Clock,
        *,
        retry_after_max: float = RETRY_AFTER_MAX,
        user_agent: str = f"slayq-server/{__version__}",
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
        on_blocked: Callable[[str], None] | None = None,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        """Opens nothing yet. The arguments are those of `delivery.Callbacks`; every secret signs."""
        self.set_secrets(secrets)
        self._guard = guard
        self._clock = clock
        self._retry_after_max = retry_after_max
        self._on_blocked = on_blocked
        self._may_send = may_send
        self._poster = HttpPoster(user_agent=user_agent, response_limit=_ERROR_BYTES, tls=tls, resolver=resolver)

    async def start(self) -> None:
        """Makes ready to deliver."""
        await self._poster.start()

    async def close(self) -> None:
        """Closes all connections. No delivery should be running."""
        await self._poster.close()

    def set_secrets(self, secrets: Sequence[str]) -> None:
        """Signs with all of these from now on."""
        sign_v2(secrets, "", 0, b"")  # InvalidSecret now, not with each delivery
        self._secrets = tuple(secrets)

    def set_guard(self, guard: AddressGuard) -> None:
        """Goes by these rules from now on, over connections kept from before, too."""
        self._guard = guard

    async def deliver(self, job: LeasedJob, sink: Sink, *, timeout: float, connect_timeout: float) -> Answer:
        """Posts the run once, and gives its ops to the sink until the answer has ended.

        Args:
            job: a leased run.
            sink: takes the ops. While it has no room, nothing more is read.
            timeout: seconds that may pass without a line from the app.
            connect_timeout: seconds of that for a connection.

        Raises:
            WorkerLost: the lease was lost before the request went out; nothing was sent.
        """
        segment = _Segment(job, self._secrets, self._clock, self._may_send, timeout)
        try:
            async with asyncio.timeout(timeout) as silence:
                request = await segment.prepare()
                target = self._guard.check_url(request.url, registered=True)
                segment.host = target.authority
                async with self._poster.stream(
                    target, segment.seal, guard=self._guard, connect_timeout=connect_timeout
                ) as stream:
                    if stream.status != _OK or stream.content_type != CONTENT_TYPE:
                        return await self._refusal(segment, stream)
                    assert segment.reader is not None
                    terminal = await _read(stream, segment.reader, sink, silence, timeout)
        except UndeliverablePayload as error:
            return segment.failed(CallbackResult.PROTOCOL_ERROR, str(error), undeliverable=True)
        except Blocked as error:
            if self._on_blocked is not None:
                self._on_blocked(error.reason)
            return segment.failed(CallbackResult.BLOCKED, str(error))
        except PostFailed as error:
            return segment.failed(error.result, str(error))
        except BrokenStream as error:
            result = CallbackResult.TOO_LARGE if error.too_large else CallbackResult.PROTOCOL_ERROR
            return segment.failed(result, f"{segment.host} answered what is no stream of ops: {error}")
        except TimeoutError:
            return segment.failed(CallbackResult.TIMEOUT, f"{segment.host}: no line came within {timeout:g} s")
        return segment.ended(terminal)

    async def _refusal(self, segment: _Segment, stream: Stream) -> Answer:
        """An answer that says why there is no stream of ops."""
        result = result_of(stream.status)
        error = f"{segment.host} answered {words_of(stream.status)}"
        if result is CallbackResult.OK:
            result = CallbackResult.PROTOCOL_ERROR
            error += f", and not {CONTENT_TYPE}: is the SDK at this url, with nothing before it that answers?"
        elif code := await _error_code(stream):
            error += f" ({code})"
        retry_after = retry_after_of(stream, self._clock.wall(), self._retry_after_max)
        return segment.failed(result, error, status=stream.status, retry_after=retry_after)


async def _read(stream: Stream, reader: OpReader, sink: Sink, silence: asyncio.Timeout, timeout: float) -> Terminal:
    """Hands ops on until the answer has ended; raises BrokenStream and PostFailed."""
    loop = asyncio.get_running_loop()
    lines = 0
    while True:
        data = await stream.read()
        ops: list[Op] = []
        try:
            for op in reader.feed(data) if data else reader.end():
                ops.append(op)
            if data and reader.terminal is not None:
                silence.reschedule(None)
                await _nothing_more(stream, reader)
        finally:
            # All of this piece at once, and the end right after it: a short run costs one flush.
            sink.put(ops)
        if reader.terminal is not None:
            return reader.terminal
        if ops:
            # For as long as Postgres takes the app may say what it likes: nobody listens.
            silence.reschedule(None)
            await sink.room()
        if ops or reader.lines > lines:
            lines = reader.lines
            silence.reschedule(loop.time() + timeout)


async def _nothing_more(stream: Stream, reader: OpReader) -> None:
    """Waits until the answer ends, which its terminal op says it does; raises BrokenStream if it does not."""
    try:
        async with asyncio.timeout(_LINGER):
            while data := await stream.read():
                for _ in reader.feed(data):
                    pass
            for _ in reader.end():
                pass
    except (TimeoutError, PostFailed):
        pass  # the terminal op is there in full: how the connection ends does not matter


async def _error_code(stream: Stream) -> str | None:
    """The code that the SDK's refusals have."""
    try:
        async with asyncio.timeout(_LINGER):
            answer = json.loads(await stream.read())
        code = answer["error"]["code"]
    except (PostFailed, TimeoutError, ValueError, RecursionError, LookupError, TypeError):
        return None
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else None


class _Segment:
    """One delivery: what is known of it so far."""

    __slots__ = (
        "_clock",
        "_job",
        "_may_send",
        "_request",
        "_secrets",
        "_sent",
        "_started",
        "_timeout",
        "host",
        "reader",
    )

    def __init__(
        self, job: LeasedJob, secrets: Sequence[str], clock: Clock, may_send: Callable[[], bool], timeout: float
    ) -> None:
        self._job = job
        self._secrets = secrets
        self._clock = clock
        self._may_send = may_send
        self._timeout = timeout
        self._started = clock.monotonic()
        self._sent: float | None = None
        self._request: Request | None = None
        self.reader: OpReader | None = None
        """Reads the answer; None before `prepare`."""
        self.host = "the server"
        """Who took the time, as messages name it."""

    async def prepare(self) -> Request:
        """The run's request."""
        run = self._job.run
        assert run is not None
        if len(self._job.payload) + len(run.steps) < _LARGE:
            return self._prepare()
        return await asyncio.to_thread(self._prepare)

    def _prepare(self) -> Request:
        assert self._job.run is not None
        self._request = request_of(self._job)
        steps, pending = known_steps(self._job.run.steps)
        self.reader = OpReader(self._request.id, steps, pending=pending)
        return self._request

    def seal(self) -> tuple[bytes, dict[str, str]]:
        """Body and headers as of now: apps refuse what was signed minutes ago."""
        request = self._request
        assert request is not None
        if not self._may_send():
            # A daemon that was frozen while it connected: by now the run may be with another one.
            raise WorkerLost("the lease was lost before the request was sent")
        now = self._clock.wall()
        body = request.body(int((now + self._timeout) * 1000))
        headers = v2_headers(self._secrets, body, message_id=request.id, now=now)
        headers[PROTOCOL_HEADER] = str(VERSION)
        if request.traceparent is not None:
            headers["traceparent"] = request.traceparent
        self._sent = self._clock.monotonic()
        return body, headers

    def failed(
        self,
        result: CallbackResult,
        error: str,
        *,
        undeliverable: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> Answer:
        """The delivery without an answer of protocol v2."""
        return Answer(
            result,
            status=status,
            undeliverable=undeliverable,
            retry_after=retry_after,
            error=error,
            endpoint=self.host,
            duration=self._duration,
            sent_after=self._sent_after,
        )

    def ended(self, terminal: Terminal) -> Answer:
        """The delivery with its answer."""
        return Answer(
            CallbackResult.OK,
            status=_OK,
            error=terminal.error if isinstance(terminal, Failed) else None,
            endpoint=self.host,
            duration=self._duration,
            sent_after=self._sent_after,
            terminal=terminal,
        )

    @property
    def _duration(self) -> float:
        return self._clock.monotonic() - self._started

    @property
    def _sent_after(self) -> float | None:
        return None if self._sent is None else self._sent - self._started
