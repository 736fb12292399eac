"""The callback: from a leased job to an `Answer`. Knows no SQL, and of HTTP only what `posting` makes of it.

Each delivery is one POST, signed when it is sent. Whatever goes wrong is an answer, too: only cancellation gets out,
and, before anything is sent, WorkerLost and what `admit` raises.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from slayq.protocol import NO_RETRY_STATUS, SIGNATURE_HEADER
from slayq.signing import sign_v1
from slayq_server import __version__
from slayq_server.engine.address_guard import Blocked
from slayq_server.engine.exchange import PostFailed
from slayq_server.engine.posting import HttpPoster
from slayq_server.errors import WorkerLost
from slayq_server.model import Answer, CallbackResult
from slayq_server.protocol.v1 import UndeliverablePayload, callback_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.abc import AbstractResolver

    from slayq_server.clock import Clock
    from slayq_server.engine.address_guard import AddressGuard, Target
    from slayq_server.engine.exchange import Exchange, Reply
    from slayq_server.engine.posting import Stream
    from slayq_server.model import LeasedJob
    from slayq_server.protocol.v1 import Callback

RESPONSE_LIMIT: Final = 64 * 1024
RETRY_AFTER_MAX: Final = 86_400.0
_LARGE_PAYLOAD: Final = 2**20
"""Characters from which a payload is printed in a thread."""
_ASKS_TO_WAIT: Final = (429, 503)
_SECONDS: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)


class Callbacks:
    """Delivers jobs to their apps. Secrets and guard may be replaced at any time: the next delivery goes by them."""

    def __init__(
        self,
        secrets: Sequence[str],
        guard: AddressGuard,
        clock: Clock,
        *,
        retry_after_max: float = RETRY_AFTER_MAX,
        response_limit: int = RESPONSE_LIMIT,
        limit_per_host: int = 0,
        user_agent: str = f"slayq-server/{__version__}",
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
        on_blocked: Callable[[str], None] | None = None,
        may_send: Callable[[], bool] = lambda: True,
        admit: Callable[[str, tuple[int, int]], None] = lambda _endpoint, _delivery: None,
    ) -> None:
        """Opens nothing yet.

        Args:
            secrets: newest first; the first signs.
            guard: says where callbacks may go.
            clock: measures, and tells the time that is signed.
            retry_after_max: seconds that an app may put a job off for with Retry-After.
            response_limit: bytes of an answer that are read.
            limit_per_host: connections to one host and port at a time; 0 for no limit.
            user_agent: the header.
            tls: whom to trust; None: the system's certificate authorities.
            resolver: looks names up; None: the system's way.
            on_blocked: told the reason of each callback that the guard did not let out.
            may_send: asked when a connection is there and the callback is about to go out: is the lease still ours?
            admit: asked with the endpoint, and the job's id and lease, whether to try at all; what it raises gets out.
        """
        self.set_secrets(secrets)
        self._guard = guard
        self._clock = clock
        self._retry_after_max = retry_after_max
        self._on_blocked = on_blocked
        self._may_send = may_send
        self._admit = admit
        self._poster = HttpPoster(
            user_agent=user_agent,
            response_limit=response_limit,
            limit_per_host=limit_per_host,
            tls=tls,
            resolver=resolver,
        )

    async def start(self) -> None:
        """Makes ready to deliver."""
        await self._poster.start()

    async def close(self) -> None:
        """Closes all connections. No delivery should be running."""
        await self._poster.close()

    def set_secrets(self, secrets: Sequence[str]) -> None:
        """Signs with the first of these from now on."""
        if not secrets:
            raise ValueError("no secret to sign callbacks with: set SLAY_Q_SECRET")
        sign_v1(secrets[0], b"")  # InvalidSecret now, not with each delivery
        self._secret = secrets[0]

    def set_guard(self, guard: AddressGuard) -> None:
        """Goes by these rules from now on, over connections kept from before, too."""
        self._guard = guard

    def prepared(self, job: LeasedJob) -> Callback | None:
        """The job's callback, if it is made in next to no time; None where `deliver` is to make it, or tell why not."""
        if is_large(job):
            return None
        try:
            return callback_of(job.payload, job.patches)
        except UndeliverablePayload:
            return None

    async def deliver(
        self, job: LeasedJob, callback: Callback | None = None, *, timeout: float, connect_timeout: float
    ) -> Answer:
        """Posts the job's callback once.

        Args:
            job: what to deliver.
            callback: as `prepared`.
            timeout: seconds for the whole: looking up the name, connecting, the answer to its last byte.
            connect_timeout: seconds of that for a connection.

        Raises:
            WorkerLost: the lease was lost before the callback went out; nothing was sent.
        """
        delivery = _Delivery(job, callback, self._secret, self._clock, self._may_send)
        try:
            async with asyncio.timeout(timeout):
                callback = await delivery.prepare()
                target = self._guard.check_url(callback.url)
                delivery.host, delivery.origin = target.authority, target.origin
                self._admit(target.origin, (job.id, job.lease))
                reply = await self._poster.post(
                    target, delivery.seal, guard=self._guard, connect_timeout=connect_timeout
                )
        except UndeliverablePayload as error:
            return delivery.failed(CallbackResult.PROTOCOL_ERROR, str(error), undeliverable=True)
        except Blocked as error:
            if self._on_blocked is not None:
                self._on_blocked(error.reason)
            return delivery.failed(CallbackResult.BLOCKED, str(error))
        except PostFailed as error:
            return delivery.failed(error.result, str(error))
        except TimeoutError:
            return delivery.timed_out(timeout)
        return delivery.answered(target, reply, self._retry_after(reply))

    def deliver_now(
        self, job: LeasedJob, callback: Callback, *, timeout: float, done: Callable[[Answer], None]
    ) -> Exchange | None:
        """Posts the job's callback once, if that takes no waiting; None: nothing was sent, and `deliver` is to.

        What `admit` raises gets out.

        Args:
            job: what to deliver.
            callback: as `prepared`.
            timeout: seconds for the answer to its last byte.
            done: called once from the event loop, unless the exchange is cancelled before.
        """
        delivery = _Delivery(job, callback, self._secret, self._clock, self._may_send)
        try:
            target = self._guard.check_url(callback.url)
            delivery.host, delivery.origin = target.authority, target.origin

            def seal() -> tuple[bytes, dict[str, str]]:
                self._admit(target.origin, (job.id, job.lease))  # only now: whoever is let through must send
                return delivery.seal()

            def tell(reply: Reply | PostFailed | None) -> None:
                if reply is None:
                    done(delivery.timed_out(timeout))
                elif isinstance(reply, PostFailed):
                    done(delivery.failed(reply.result, str(reply)))
                else:
                    done(delivery.answered(target, reply, self._retry_after(reply)))

            return self._poster.post_now(target, seal, guard=self._guard, timeout=timeout, done=tell)
        except (Blocked, WorkerLost):
            return None  # as `deliver` will find, too

    def _retry_after(self, reply: Reply) -> float | None:
        return retry_after_of(reply, self._clock.wall(), self._retry_after_max)


class _Delivery:
    """One delivery: what is known of it so far."""

    __slots__ = ("_callback", "_clock", "_job", "_may_send", "_secret", "_sent", "_started", "host", "origin")

    def __init__(
        self, job: LeasedJob, callback: Callback | None, secret: str, clock: Clock, may_send: Callable[[], bool]
    ) -> None:
        self._job = job
        self._secret = secret
        self._clock = clock
        self._may_send = may_send
        self._started = clock.monotonic()
        self._sent: float | None = None
        self._callback = callback
        self.host = "the server"
        """Who took the time, as messages name it."""
        self.origin = ""

    async def prepare(self) -> Callback:
        """The job's callback."""
        if self._callback is None:
            payload, patches = self._job.payload, self._job.patches
            if is_large(self._job):
                self._callback = await asyncio.to_thread(callback_of, payload, patches)
            else:
                self._callback = callback_of(payload, patches)
        return self._callback

    def seal(self) -> tuple[bytes, dict[str, str]]:
        """Body and signature as of now: apps refuse a body that is 15 s old."""
        assert self._callback is not None
        if not self._may_send():
            # A daemon that was frozen while it connected: by now the job may be with another one.
            raise WorkerLost("the lease was lost before the callback was sent")
        body = self._callback.body(self._job.job_key, self._job.attempts, int(self._clock.wall() * 1000))
        signature = sign_v1(self._secret, body)
        self._sent = self._clock.monotonic()
        return body, {SIGNATURE_HEADER: signature}

    def timed_out(self, timeout: float) -> Answer:
        """The delivery that took too long."""
        return self.failed(CallbackResult.TIMEOUT, f"{self.host}: no full answer within {timeout:g} s")

    def failed(self, result: CallbackResult, error: str, *, undeliverable: bool = False) -> Answer:
        """The delivery without an answer."""
        return Answer(
            result,
            batch_size=self._batch_size,
            undeliverable=undeliverable,
            error=error,
            endpoint=self.host,
            origin=self.origin,
            duration=self._duration,
            sent_after=self._sent_after,
        )

    def answered(self, target: Target, reply: Reply, retry_after: float | None) -> Answer:
        """The delivery with its answer."""
        result = result_of(reply.status)
        return Answer(
            result,
            status=reply.status,
            body=reply.body,
            truncated=reply.truncated,
            batch_size=self._batch_size,
            retry_after=retry_after,
            error=None if result is CallbackResult.OK else f"{target.authority} answered {words_of(reply.status)}",
            endpoint=self.host,
            origin=self.origin,
            duration=self._duration,
            sent_after=self._sent_after,
        )

    @property
    def _batch_size(self) -> int | None:
        return None if self._callback is None else self._callback.batch_size

    @property
    def _duration(self) -> float:
        return self._clock.monotonic() - self._started

    @property
    def _sent_after(self) -> float | None:
        return None if self._sent is None else self._sent - self._started


def is_large(job: LeasedJob) -> bool:
    """Whether its callback is made in a thread, so that other deliveries and renewals go on meanwhile."""
    return len(job.payload) + len(job.patches or "") >= _LARGE_PAYLOAD


def result_of(status: int) -> CallbackResult:
    """What a status stands for."""
    if status == NO_RETRY_STATUS:
        return CallbackResult.NO_RETRY
    return _BY_HUNDREDS.get(status // 100, CallbackResult.PROTOCOL_ERROR)


def retry_after_of(reply: Reply | Stream, now: float, most: float) -> float | None:
    """The seconds for which an answer puts the delivery off, if it does and may."""
    if reply.status not in _ASKS_TO_WAIT or reply.retry_after is None:
        return None
    seconds = seconds_of(reply.retry_after, reply.date, now)
    return None if seconds is None else min(max(seconds, 0.0), most)


def seconds_of(retry_after: str, date: str | None, now: float) -> float | None:
    """The seconds that a Retry-After header asks for, or None if it is neither a number nor a date.

    A date counts from the answer's own `date` where there is one, else from `now` (seconds since the epoch): two times
    of one clock tell a duration, whatever our clock shows.
    """
    text = retry_after.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _timestamp(text)
    if until is None:
        return None
    answered = None if date is None else _timestamp(date)
    return until - (now if answered is None else answered)


_BY_HUNDREDS: Final = {
    2: CallbackResult.OK,
    3: CallbackResult.REDIRECT,
    4: CallbackResult.CLIENT_ERROR,
    5: CallbackResult.SERVER_ERROR,
}
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_HINTS: Final = {
    404: "the app does not know the event, or is not at this url",
    410: "the app is no longer at this url",
    NO_RETRY_STATUS: "the app says not to retry",
}


def words_of(status: int) -> str:
    """A status with what it means. Not in the endpoint's words, which may be anything."""
    try:
        named = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        named = str(status)
    hint = _HINTS.get(status)
    if status in _REDIRECTS:
        hint = "redirects are not followed, so put the final address into the job's url"
    return named if hint is None else f"{named}: {hint}"


def _timestamp(date: str) -> float | None:
    """Seconds since the epoch of an HTTP date."""
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
