"""Delivery over real sockets: what goes out, what is made of each answer, and what never goes out.

Every test runs on asyncio's own loop and on uvloop (see conftest.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from slayq.errors import InvalidSecret
from slayq_server import __version__
from slayq_server.engine import posting
from slayq_server.engine.address_guard import AddressGuard, Blocked, BlockedReason
from slayq_server.engine.delivery import Callbacks, seconds_of
from slayq_server.engine.plain_http import NameUnknown
from slayq_server.errors import WorkerLost
from slayq_server.model import Answer, CallbackResult, LeasedJob
from tests.support.endpoint import SECRET, Endpoint, Received, Reply
from tests.support.raw_server import Conversation, RawServer, closed_port
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from slayq_server.engine.address_guard import Target

NOW = 1_700_000_000.123
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeClock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return 100.0 + self.now

    def wall(self) -> float:
        return NOW + self.now


class FakeResolver(AbstractResolver):
    """Names that lead where a test says: no look-up leaves the machine."""

    def __init__(self, *addresses: str, before: Callable[[], Any] | None = None) -> None:
        self.addresses: Sequence[str] = addresses
        self.before = before
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if self.before is not None:
            waiting = self.before()
            if waiting is not None:
                await waiting
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


class Sender:
    """Callbacks that may go to the given origins, started; with short time-outs for tests that wait for them."""

    at_once = False
    """Deliveries begin without a task where they can."""

    def __init__(self, *allow: str, guard: AddressGuard | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.blocked: list[str] = []
        self.callbacks = Callbacks(
            [SECRET, "an older secret"],
            guard or AddressGuard(allow),
            self.clock,
            on_blocked=self.blocked.append,
            **options,
        )

    async def __aenter__(self) -> Sender:
        await self.callbacks.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.callbacks.close()

    async def send(self, url: str, *, timeout: float = 20.0, connect_timeout: float = 10.0, **fields: Any) -> Answer:
        sent = job(url, **fields)
        if self.at_once and (answer := await self._send_now(sent, url, timeout, connect_timeout)) is not None:
            return answer
        return await self.callbacks.deliver(sent, timeout=timeout, connect_timeout=connect_timeout)

    async def _send_now(self, sent: LeasedJob, url: str, timeout: float, connect_timeout: float) -> Answer | None:
        """Without a task, on a connection that stood idle; None where that is for a task after all."""
        client, guard = self.callbacks._poster._plain, self.callbacks._guard
        with contextlib.suppress(Blocked, NameUnknown, OSError, RuntimeError, AssertionError):
            target = guard.check_url(url)
            place = client._place(target.url)
            if not client._idle.get((place.host, place.port)):
                async with asyncio.timeout(connect_timeout):
                    connection = await client._connect(place, target, guard)
                connection._reusable = True  # as if it had served before
                client.done(connection)
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        callback = self.callbacks.prepared(sent)
        if callback is None:
            return None
        exchange = self.callbacks.deliver_now(sent, callback, timeout=timeout, done=told.set_result)
        if exchange is None:
            return await self.callbacks.deliver(sent, callback, timeout=timeout, connect_timeout=connect_timeout)
        try:
            return await told
        finally:
            assert exchange.cancel() is told.cancelled()


def job(url: str = "", **fields: Any) -> LeasedJob:
    payload = json.dumps({"url": url, "event": "mail/send", "data": {"n": 1}})
    made = LeasedJob(
        id=1,
        lease=1,
        queue="mail",
        job_key="key-1",
        attempts=3,
        max_attempts=25,
        payload=payload,
        patches=None,
        serial_queue=None,
        waited=0.0,
    )
    return replace(made, **fields)


def failed(result: CallbackResult, error: str) -> Answer:
    """No answer, after something was sent at once."""
    return Answer(result, error=error, sent_after=0.0)


def unsent(result: CallbackResult, error: str) -> Answer:
    return Answer(result, error=error)


@pytest.fixture(autouse=True, params=["task", "now"])
def _lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is about both ways to begin a delivery."""
    monkeypatch.setattr(Sender, "at_once", request.param == "now")


@pytest_asyncio.fixture
async def sender(endpoint: Endpoint) -> AsyncIterator[Sender]:
    """May send to the endpoint."""
    async with Sender(endpoint.origin) as running:
        yield running


# ── what goes out ──


async def test_exact_bytes_are_posted_and_signed(endpoint: Endpoint, sender: Sender) -> None:
    """The body is as JavaScript prints it, with the time of sending; the app's own check of the signature passes."""
    payload = f'{{"data": {{"b": 1.0, "1": "ü\\u2028"}}, "event": "a/b", "url": "{endpoint.url}?x=1", "retry": 0}}'
    answer = await sender.send("", payload=payload, patches='[["step", true]]')
    [received] = endpoint.received
    body = (
        '{"job_key":"key-1","retry":3,"time":1700000000123,"event":"a/b",'
        '"data":{"1":"ü\u2028","b":1},"cache":{"step":true}}'
    )
    assert (body.encode(), True, "POST", "/slayq?x=1") == (
        received.raw,
        received.signature_valid,
        received.method,
        received.path,
    )
    assert Answer(CallbackResult.OK, status=200, sent_after=0.0) == answer


async def test_headers_are_few_and_plain(endpoint: Endpoint, sender: Sender) -> None:
    """Nothing that an app might act upon: no cookies, no compression."""
    await sender.send(endpoint.url)
    headers = dict(endpoint.received[0].headers)
    assert len(headers.pop("X-SlayQ-Signature")) == 128
    assert headers == {
        "Host": endpoint.origin.removeprefix("http://"),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"slayq-server/{__version__}",
        "Content-Length": str(len(endpoint.received[0].raw)),
    }


async def test_a_job_without_a_key_says_cron(endpoint: Endpoint, sender: Sender) -> None:
    """As the stock app expects."""
    await sender.send(endpoint.url, job_key=None)
    assert "cron" == endpoint.received[0].job_key


async def test_the_time_that_is_signed_is_that_of_sending(endpoint: Endpoint) -> None:
    """However long the connection took: the app refuses a body that is 15 s old."""
    port = endpoint.origin.rpartition(":")[2]
    origin = f"http://app.invalid:{port}"
    resolver = FakeResolver("127.0.0.1")
    async with Sender(origin, resolver=resolver) as sender:
        sender.at_once = False
        resolver.before = lambda: setattr(sender.clock, "now", 9.0)
        answer = await sender.send(f"{origin}/slayq")
    [received] = endpoint.received
    assert (int((NOW + 9) * 1000), True) == (received.body["time"], received.signature_valid)
    assert (9.0, 9.0) == (answer.sent_after, answer.duration)


async def test_each_delivery_is_signed_anew(endpoint: Endpoint, sender: Sender) -> None:
    """The next attempt has a time of its own."""
    await sender.send(endpoint.url)
    sender.clock.now = 60
    await sender.send(endpoint.url, attempts=4)
    first, second = endpoint.received
    assert [(3, 1700000000123), (4, 1700000060123)] == [(r.retry, r.body["time"]) for r in (first, second)]
    assert first.signature_valid
    assert second.signature_valid


async def test_secrets_can_be_replaced(endpoint: Endpoint, sender: Sender) -> None:
    """The newest signs, from the next delivery on."""
    endpoint.secret = "a new secret"
    await sender.send(endpoint.url)
    sender.callbacks.set_secrets(["a new secret", SECRET])
    await sender.send(endpoint.url)
    assert [False, True] == [received.signature_valid for received in endpoint.received]


async def test_secrets_that_cannot_sign_are_refused(sender: Sender) -> None:
    """At once, and not with each delivery."""
    with pytest.raises(ValueError, match="no secret"):
        sender.callbacks.set_secrets([])
    with pytest.raises(InvalidSecret):
        sender.callbacks.set_secrets([""])


async def test_a_large_payload_arrives_whole(endpoint: Endpoint, sender: Sender) -> None:
    """3 MB, signed and all."""
    text = "ü" * 1_500_000
    payload = json.dumps({"url": endpoint.url, "event": "a/b", "data": text}, ensure_ascii=False)
    answer = await sender.send("", payload=payload)
    [received] = endpoint.received
    assert (CallbackResult.OK, text, True) == (answer.result, received.data, received.signature_valid)


async def test_a_batch_says_how_many_elements_it_has(endpoint: Endpoint, sender: Sender) -> None:
    """So that the answer can be understood."""
    endpoint.handler = lambda _: Reply(body='{"failed":[1]}')
    element = {"url": endpoint.url, "event": "a/b", "data": 1}
    answer = await sender.send("", payload=json.dumps([element, element]))
    expected = Answer(CallbackResult.OK, status=200, body=b'{"failed":[1]}', batch_size=2, sent_after=0.0)
    assert ([1, 1], expected) == (endpoint.received[0].data, answer)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ('{"url":"http://127.0.0.1:1/"}', "the payload has no event: add it, as a non-empty string"),
        ("[]", "the payload is an empty array: a batch needs at least one element"),
        ("5", "the payload must be a JSON object with url and event, not a number"),
    ],
)
async def test_a_payload_that_makes_no_callback_is_undeliverable(sender: Sender, payload: str, error: str) -> None:
    """Said apart from an endpoint that answers nonsense."""
    expected = Answer(CallbackResult.PROTOCOL_ERROR, undeliverable=True, error=error)
    assert expected == await sender.send("", payload=payload)


async def test_a_url_is_sent_to_as_it_stands(endpoint: Endpoint) -> None:
    """What is percent-encoded stays so, and what is not is; a host name may be any that resolves."""
    origin = f"http://web_1.Invalid.:{endpoint.origin.rpartition(':')[2]}"
    async with Sender(origin, resolver=FakeResolver("127.0.0.1")) as sender:
        await sender.send(f"{origin}/a%2Fb/%7e/ü/../c?q=a+b%20c&r=%zz#fragment")
    assert "/a%2Fb/%7e/%C3%BC/../c?q=a+b%20c&r=%zz" == endpoint.received[0].path


async def test_environment_proxies_are_not_used(
    endpoint: Endpoint, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback goes to the app and nowhere else."""
    async with RawServer(OK) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        monkeypatch.delenv("no_proxy", raising=False)
        await sender.send(endpoint.url)
        assert (1, 0) == (len(endpoint.received), proxy.connections)


async def test_cookies_are_not_sent_back(endpoint: Endpoint, sender: Sender) -> None:
    """Deliveries know nothing of each other."""
    endpoint.handler = lambda _: Reply(headers={"Set-Cookie": "session=1"})
    await sender.send(endpoint.url)
    await sender.send(endpoint.url)
    assert "Cookie" not in endpoint.received[1].headers


# ── answers ──


@pytest.mark.parametrize(
    ("status", "result", "error"),
    [
        (200, CallbackResult.OK, None),
        (201, CallbackResult.OK, None),
        (204, CallbackResult.OK, None),
        (304, CallbackResult.REDIRECT, "304 Not Modified"),
        (400, CallbackResult.CLIENT_ERROR, "400 Bad Request"),
        (
            404,
            CallbackResult.CLIENT_ERROR,
            "404 Not Found: the app does not know the event, or is not at this url",
        ),
        (410, CallbackResult.CLIENT_ERROR, "410 Gone: the app is no longer at this url"),
        (418, CallbackResult.CLIENT_ERROR, "418 I'm a Teapot"),
        (500, CallbackResult.SERVER_ERROR, "500 Internal Server Error"),
        (599, CallbackResult.SERVER_ERROR, "599"),
        (666, CallbackResult.NO_RETRY, "666: the app says not to retry"),
        (600, CallbackResult.PROTOCOL_ERROR, "600"),
        (999, CallbackResult.PROTOCOL_ERROR, "999"),
        (99, CallbackResult.PROTOCOL_ERROR, "99"),
    ],
)
async def test_a_status_is_told_with_what_it_means(status: int, result: CallbackResult, error: str | None) -> None:
    """Three digits of any kind; never in the endpoint's words."""
    said = b"HTTP/1.1 %03d Words\r\nContent-Length: 0\r\n\r\n" % status
    async with RawServer(said) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
    told = None if error is None else f"127.0.0.1:{server.port} answered {error}"
    assert Answer(result, status=status, error=told, sent_after=0.0) == answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(endpoint: Endpoint, sender: Sender, status: int) -> None:
    """Not even to an origin that is allowed: the second server sees nothing."""
    async with RawServer(OK) as second:
        sender.callbacks.set_guard(AddressGuard([endpoint.origin, second.origin]))
        endpoint.handler = lambda _: Reply(status, headers={"Location": second.origin})
        answer = await sender.send(endpoint.url)
    assert (CallbackResult.REDIRECT, status, 0) == (answer.result, answer.status, second.connections)
    assert answer.error is not None
    assert answer.error.endswith(": redirects are not followed, so put the final address into the job's url")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "99999999999999999999"}, 86_400.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:15:20 GMT", "Date": "Tue, 14 Nov 2023 22:13:20 GMT"}, 120.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:20 GMT", "Date": "Tue, 14 Nov 2023 22:15:20 GMT"}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({}, None),
    ],
)
async def test_retry_after_is_read_in_both_forms(
    endpoint: Endpoint, sender: Sender, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    """Seconds, or an HTTP date; from 0 to a day; anything else is as if it were not there."""
    endpoint.handler = lambda _: Reply(status, headers=headers)
    assert seconds == (await sender.send(endpoint.url)).retry_after


@pytest.mark.parametrize("status", [200, 302, 404, 500, 502])
async def test_retry_after_counts_for_429_and_503_alone(endpoint: Endpoint, sender: Sender, status: int) -> None:
    """Other statuses are retried as the queue says, if at all."""
    endpoint.handler = lambda _: Reply(status, headers={"Retry-After": "120"})
    assert (await sender.send(endpoint.url)).retry_after is None


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("1.5", None, 1.5),
        (" 7 ", None, 7.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", None, 10.0),
        ("Tue, 14 Nov 2023 22:13:30 -0000", "nonsense", 10.0),
        ("Tuesday, 14-Nov-23 22:13:30 GMT", None, 10.0),
        ("Tue, 14 Nov 2023 23:13:30 +0100", None, 10.0),
        ("1e3", None, None),
        ("٣", None, None),
        ("", None, None),
        ("Tue, 32 Nov 2023 22:13:30 GMT", None, None),
        ("14 Nov 99999999999 22:13:30 GMT", None, None),
        ("9" * 5000, None, None),
    ],
)
def test_seconds_of_a_retry_after(text: str, date: str | None, seconds: float | None) -> None:
    """Numbers, dates with their zones, and what is neither."""
    assert seconds == seconds_of(text, date, 1_700_000_000.0)


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nto\r\n6\r\ngether\r\n0\r\n\r\n", b"together"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nraw", b"raw"),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 8_000 + b"\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
    ids=["chunked", "http-1.0", "empty-to-the-end", "gzip", "no-reason", "upgrade-offered", "interim", "long-header"],
)
async def test_any_form_of_an_answer_is_read(said: bytes, body: bytes) -> None:
    """However it is framed, and as it came: nothing is decompressed."""
    async with RawServer(said) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
    assert Answer(CallbackResult.OK, status=200, body=body, sent_after=0.0) == answer


async def test_a_long_answer_counts_by_its_status() -> None:
    """10 MB: the first 64 KiB are kept, and the connection is dropped."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
        await conversation.say(b"x" * 10_000_000)
        raise AssertionError("all of it was taken")

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
        await wait_until(lambda: server.ended == 1)
    assert Answer(CallbackResult.OK, status=200, body=b"x" * 65_536, truncated=True, sent_after=0.0) == answer


@pytest.mark.parametrize("status", [200, 500])
async def test_an_endless_answer_counts_by_its_status(status: int) -> None:
    """Chunk after chunk, for as long as somebody reads."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(b"HTTP/1.1 %d Words\r\nTransfer-Encoding: chunked\r\n\r\n" % status)
        while True:
            await conversation.say(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
        await wait_until(lambda: server.ended == 1)
    assert (status, 65_536, True) == (answer.status, len(answer.body), answer.truncated)


async def test_an_answer_of_just_the_limit_is_whole(endpoint: Endpoint) -> None:
    """And one more byte is too many."""
    async with Sender(endpoint.origin, response_limit=1000) as sender:
        endpoint.handler = lambda received: Reply(body=b"x" * (999 + received.number))
        answers = [await sender.send(endpoint.url) for _ in range(2)]
    assert [(1000, False), (1000, True)] == [(len(answer.body), answer.truncated) for answer in answers]


# ── no answer ──


async def test_an_endpoint_that_says_nothing_times_out() -> None:
    """The connection is closed then."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.gone()

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin, timeout=0.2)
        await wait_until(lambda: server.ended == 1)
    assert failed(CallbackResult.TIMEOUT, f"127.0.0.1:{server.port}: no full answer within 0.2 s") == answer


async def test_headers_and_then_silence_time_out() -> None:
    """A status alone is no answer: the app may have died within it."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await conversation.gone()

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin, timeout=0.2)
        await wait_until(lambda: server.ended == 1)
    assert failed(CallbackResult.TIMEOUT, f"127.0.0.1:{server.port}: no full answer within 0.2 s") == answer


@pytest.mark.parametrize("drop", [b"x", b"HTTP/1.1 102 Processing\r\n\r\n", b"X: y\r\n"])
async def test_an_answer_that_drips_times_out(drop: bytes) -> None:
    """Each byte in time does not make the whole in time: body, interim answers, headers."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        if drop == b"x":
            await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        elif drop.startswith(b"X"):
            await conversation.say(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            await conversation.say(drop)
            await asyncio.sleep(0.02)  # the endpoint's own pace, which is what is tested

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin, timeout=0.2)
    assert failed(CallbackResult.TIMEOUT, f"127.0.0.1:{server.port}: no full answer within 0.2 s") == answer


async def test_a_name_that_is_looked_up_for_too_long_times_out() -> None:
    """`connect_timeout` covers it."""
    resolver = FakeResolver(before=lambda: asyncio.Event().wait())
    async with Sender("http://app.invalid", resolver=resolver) as sender:
        answer = await sender.send("http://app.invalid/", connect_timeout=0.2)
    assert unsent(CallbackResult.TIMEOUT, "app.invalid: no connection within 0.2 s") == answer


async def test_a_handshake_that_takes_too_long_times_out() -> None:
    """A listener that accepts and never speaks TLS."""

    async def script(conversation: Conversation) -> None:
        await conversation.gone()

    async with RawServer(script) as server:
        origin = server.origin.replace("http:", "https:")
        async with Sender(origin) as sender:
            answer = await sender.send(origin, connect_timeout=0.2)
        await wait_until(lambda: server.ended == 1)
    assert unsent(CallbackResult.TIMEOUT, f"127.0.0.1:{server.port}: no connection within 0.2 s") == answer


async def test_a_closed_port_is_a_connect_error() -> None:
    """Nobody listens."""
    port = closed_port()
    async with Sender(f"http://127.0.0.1:{port}") as sender:
        answer = await sender.send(f"http://127.0.0.1:{port}/")
    expected = unsent(CallbackResult.CONNECT_ERROR, f"127.0.0.1:{port}: no connection (connection refused)")
    assert expected == answer


async def test_an_unknown_name_is_a_dns_error() -> None:
    """The resolver's own words, which are the same for everybody."""
    async with Sender("http://app.invalid", resolver=FakeResolver()) as sender:
        answer = await sender.send("http://app.invalid/")
    expected = unsent(CallbackResult.DNS_ERROR, "app.invalid: the name cannot be looked up (Name or service not known)")
    assert expected == answer


@pytest.mark.parametrize(
    ("said", "result", "error"),
    [
        (b"", CallbackResult.CONNECT_ERROR, "the connection was closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nX: ", CallbackResult.CONNECT_ERROR, "the connection was closed without an answer"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
            CallbackResult.CONNECT_ERROR,
            "the connection broke within the answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            CallbackResult.CONNECT_ERROR,
            "the connection broke within the answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
            CallbackResult.PROTOCOL_ERROR,
            "the answer is not valid HTTP",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", CallbackResult.PROTOCOL_ERROR, "the answer is not valid HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", CallbackResult.PROTOCOL_ERROR, "the answer is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", CallbackResult.PROTOCOL_ERROR, "the answer is not valid HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            CallbackResult.PROTOCOL_ERROR,
            "the answer is not valid HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
            CallbackResult.TOO_LARGE,
            "the answer's headers are too long",
        ),
        (
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
            CallbackResult.TOO_LARGE,
            "the answer's headers are too long",
        ),
    ],
    ids=[
        *("nothing", "half-a-head", "short-body", "half-a-chunked-body", "bad-chunk", "no-http", "status-of-four"),
        *("bad-header", "two-lengths", "long-header", "many-headers"),
    ],
)
async def test_what_is_no_full_answer_fails(said: bytes, result: CallbackResult, error: str) -> None:
    """Cut off, or not HTTP: the status that may have come does not count."""
    async with RawServer(said) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
    assert failed(result, f"127.0.0.1:{server.port}: {error}") == answer


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"HTTP/1.1 200 OK\r\n\r\nok"],
    ids=["at-once", "within-the-body", "within-a-body-of-unknown-length"],
)
async def test_a_reset_fails(said: bytes) -> None:
    """200 and then a reset is a network error, not an answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.say(said)
        conversation.reset()

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
    assert (CallbackResult.CONNECT_ERROR, None) == (answer.result, answer.status)
    assert answer.error is not None
    assert answer.error.startswith(f"127.0.0.1:{server.port}: the connection broke")


async def test_no_error_holds_path_query_payload_or_secret() -> None:
    """They are logged and stored. Not even an endpoint that sends back what it gets gets anything in."""

    async def echo(conversation: Conversation) -> None:
        request = await conversation.request()
        await conversation.say(request)

    async with RawServer(echo) as server, RawServer(b"HTTP/1.1 500 hunter2\r\n\r\nhunter2") as second:
        closed = f"http://127.0.0.1:{closed_port()}"
        async with Sender(server.origin, second.origin, closed, resolver=FakeResolver()) as sender:
            sender.callbacks.set_secrets(["hunter2"])
            answers = [
                await sender.send(f"{origin}/hunter2?hunter2", job_key="hunter2")
                for origin in (server.origin, second.origin, closed, "http://app.invalid", "http://hunter2@app.invalid")
            ]
    for answer in answers:
        assert answer.error is not None
        assert "hunter2" not in answer.error
        assert answer.error.isprintable()


# ── one POST a delivery ──


async def test_a_connection_is_used_again() -> None:
    """One connection for deliveries that follow each other."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.say(OK)

    async with RawServer(script) as server, Sender(server.origin) as sender:
        for _ in range(5):
            await sender.send(server.origin)
        assert 1 == server.connections


async def test_a_post_is_never_sent_twice() -> None:
    """An app that closes a kept connection under a request may have acted upon it: that attempt has failed."""
    requests: list[int] = []

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        requests.append(conversation.number)
        await conversation.say(OK)
        await conversation.request()
        requests.append(conversation.number)

    async with RawServer(script) as server, Sender(server.origin) as sender:
        answers = [await sender.send(server.origin) for _ in range(3)]
    results = [CallbackResult.OK, CallbackResult.CONNECT_ERROR, CallbackResult.OK]
    assert (results, [1, 1, 2]) == ([answer.result for answer in answers], requests)


async def test_cancelling_a_delivery_closes_its_connection() -> None:
    """The app sees that nobody waits any more, and the cancellation is not swallowed."""
    came_in = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        came_in.set()
        await conversation.gone()

    async with RawServer(script) as server, Sender(server.origin) as sender:
        delivery = asyncio.get_running_loop().create_task(sender.send(server.origin))
        async with asyncio.timeout(10):
            await came_in.wait()
            delivery.cancel()
            with pytest.raises(asyncio.CancelledError):
                await delivery
        await wait_until(lambda: server.ended == 1)


async def test_two_hundred_deliveries_at_once(endpoint: Endpoint, sender: Sender) -> None:
    """All are in flight together, and each gets its own answer."""
    everybody = asyncio.Event()

    async def handler(received: Received) -> Reply:
        if endpoint.running == 200:
            everybody.set()
        await everybody.wait()
        return Reply(body=received.job_key)

    endpoint.handler = handler
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(sender.send(endpoint.url, job_key=f"key-{n}") for n in range(200)))
    assert [f"key-{n}".encode() for n in range(200)] == [answer.body for answer in answers]


async def test_connections_to_one_host_can_be_limited(endpoint: Endpoint) -> None:
    """The others wait for theirs."""
    async with Sender(endpoint.origin, limit_per_host=2) as sender:
        answers = await asyncio.gather(*(sender.send(endpoint.url) for _ in range(10)))
    assert ([CallbackResult.OK] * 10, True) == ([answer.result for answer in answers], endpoint.most_at_once <= 2)


# ── the guard ──


async def test_an_internal_address_is_blocked_before_a_connection() -> None:
    """In whatever spelling; the reason is counted."""
    async with RawServer(OK) as server, Sender() as sender:
        port = server.port
        hosts = ["127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0x7f.1", "2130706433", "0177.0.0.1", "0.0.0.0"]
        answers = [await sender.send(f"http://{host}:{port}/") for host in hosts]
        assert 0 == server.connections
    assert [CallbackResult.BLOCKED] * 7 == [answer.result for answer in answers]
    loopback, malformed = BlockedReason.LOOPBACK, BlockedReason.MALFORMED
    assert [*[loopback] * 3, *[malformed] * 3, BlockedReason.RESERVED] == sender.blocked
    assert answers[0].error == (
        f"the url's host is 127.0.0.1, this machine: add http://127.0.0.1:{port} to callbacks.allow if it may go there"
    )


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["169.254.169.254", "127.0.0.1"]])
async def test_a_name_that_leads_inside_is_blocked_before_a_connection(addresses: list[str]) -> None:
    """The URL looks harmless: the address is what counts."""
    async with RawServer(OK) as server, Sender(resolver=FakeResolver(*addresses)) as sender:
        answer = await sender.send(f"http://app.invalid:{server.port}/")
        assert 0 == server.connections
    assert (CallbackResult.BLOCKED, None) == (answer.result, answer.sent_after)
    assert 1 == len(sender.blocked)


async def test_an_allowed_name_may_lead_inside(endpoint: Endpoint) -> None:
    """`http://app:3000` of a compose file; addresses that no origin may have are passed over."""
    origin = f"http://app.invalid:{endpoint.origin.rpartition(':')[2]}"
    async with Sender(origin, resolver=FakeResolver("169.254.169.254", "127.0.0.1")) as sender:
        answer = await sender.send(f"{origin}/slayq")
    assert (CallbackResult.OK, 1) == (answer.result, len(endpoint.received))


class OtherMachine(AddressGuard):
    """Takes 127.0.0.2 for a public address, so that tests have one that they may connect to."""

    def check_address(self, address: str, target: Target) -> None:
        if address != "127.0.0.2":
            super().check_address(address, target)


async def test_dns_rebinding_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that led outside leads inside now: each connection is judged by its own address."""
    monkeypatch.setattr(posting, "NAMES_KEPT", 0)
    resolver = FakeResolver("127.0.0.2")
    said = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    async with (
        RawServer(said) as inside,
        RawServer(said, host="127.0.0.2", port=inside.port) as outside,
        Sender(guard=OtherMachine(), resolver=resolver) as sender,
    ):
        first = await sender.send(f"http://app.invalid:{inside.port}/")
        resolver.addresses = ["127.0.0.1"]
        second = await sender.send(f"http://app.invalid:{inside.port}/")
        assert (1, 0) == (outside.connections, inside.connections)
    assert [CallbackResult.OK, CallbackResult.BLOCKED] == [first.result, second.result]
    assert [BlockedReason.LOOPBACK] == sender.blocked


async def test_a_second_address_inside_is_not_tried() -> None:
    """A name with two addresses, of which the public one refuses connections."""
    async with RawServer(OK) as inside:
        resolver = FakeResolver("127.0.0.2", "127.0.0.1")
        async with Sender(guard=OtherMachine(), resolver=resolver) as sender:
            answer = await sender.send(f"http://app.invalid:{inside.port}/")
            assert (CallbackResult.CONNECT_ERROR, 0) == (answer.result, inside.connections)


async def test_new_rules_hold_for_kept_connections_too() -> None:
    """A connection that was fine under the old rules is not used under the new ones."""
    requests: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            requests.append(await conversation.request())
            await conversation.say(OK)

    async with RawServer(script) as server:
        origin = f"http://app.invalid:{server.port}"
        async with Sender(origin, resolver=FakeResolver("127.0.0.1")) as sender:
            first = await sender.send(origin)
            sender.callbacks.set_guard(AddressGuard())
            second = await sender.send(origin)
            assert (1, 1) == (server.connections, len(requests))
    assert [CallbackResult.OK, CallbackResult.BLOCKED] == [first.result, second.result]


async def test_an_origin_that_is_not_listed_is_blocked(endpoint: Endpoint) -> None:
    """Even if the address is that of a listed one."""
    async with Sender(endpoint.origin) as sender:
        answer = await sender.send(endpoint.url.replace("127.0.0.1", "localhost"))
    assert (CallbackResult.BLOCKED, [BlockedReason.NOT_ALLOWED]) == (answer.result, sender.blocked)


# ── TLS ──


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Issues certificates for these tests."""
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_https_with_a_trusted_certificate(authority: trustme.CA) -> None:
    """A job arrives over TLS; the connection's address is judged as well."""
    async with RawServer(OK, tls=server_tls(authority, "app.invalid")) as server:
        origin = f"https://app.invalid:{server.port}"
        resolver = FakeResolver("127.0.0.1")
        async with Sender(origin, tls=client_tls(authority), resolver=resolver) as sender:
            answer = await sender.send(f"{origin}/slayq")
    assert (CallbackResult.OK, 1) == (answer.result, len(server.requests))
    assert server.requests[0].startswith(b"POST /slayq HTTP/1.1\r\nHost: app.invalid:")


async def test_a_certificate_that_nobody_vouches_for_is_refused(authority: trustme.CA) -> None:
    """Nothing is sent to an endpoint that cannot prove its name."""
    async with RawServer(OK, tls=server_tls(authority, "127.0.0.1")) as server, Sender(server.origin) as sender:
        answer = await sender.send(server.origin)
    assert (CallbackResult.TLS_ERROR, None, []) == (answer.result, answer.sent_after, server.requests)
    assert answer.error is not None
    assert answer.error.startswith(f"127.0.0.1:{server.port}: its TLS certificate is not valid (")


async def test_a_certificate_for_another_name_is_refused(authority: trustme.CA) -> None:
    """The name in the URL is what counts."""
    async with (
        RawServer(OK, tls=server_tls(authority, "other.invalid")) as server,
        Sender(server.origin, tls=client_tls(authority)) as sender,
    ):
        answer = await sender.send(server.origin)
    assert (CallbackResult.TLS_ERROR, []) == (answer.result, server.requests)


async def test_a_server_without_tls_is_a_tls_error() -> None:
    """https:// to a port that speaks plain HTTP."""

    async def script(conversation: Conversation) -> None:
        await conversation.reader.read(1)
        await conversation.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await conversation.gone()

    async with RawServer(script) as server:
        origin = server.origin.replace("http:", "https:")
        async with Sender(origin) as sender:
            answer = await sender.send(origin)
    assert unsent(CallbackResult.TLS_ERROR, f"127.0.0.1:{server.port}: no TLS connection (wrong version number)") == (
        answer
    )


async def test_nothing_is_sent_once_the_lease_is_lost(endpoint: Endpoint) -> None:
    """A daemon that was frozen while it connected finds its lease gone: it sends not a byte, and says so."""
    held = True
    async with Sender(endpoint.origin, may_send=lambda: held) as sender:
        await sender.send(endpoint.url)
        held = False
        with pytest.raises(WorkerLost):
            await sender.send(endpoint.url)
    assert 1 == len(endpoint.received)
