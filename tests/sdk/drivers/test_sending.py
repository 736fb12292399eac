"""What every way to send does, and that the same mistake is the same error whichever way it is made."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from slayq.drivers import Driver, OutgoingEvent, Registered
from slayq.drivers.rpc import RpcDriver
from slayq.drivers.wording import events_text
from slayq.errors import InvalidEvent, RegistrationFailed, SendFailed, Unauthorized, UnknownEvent
from tests.sdk.drivers.shop import CANCELLED, PLACED, SHOP, function, manifest, placed, runs
from tests.sdk.drivers.ways import closing
from tests.support.endpoint import SECRET

if TYPE_CHECKING:
    import asyncpg

    from tests.sdk.drivers.ways import Way
    from tests.support.daemon import Daemons

LATER = datetime(2100, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
DATA = {"text": 'Zürich 🜚 "\\', "numbers": [0, -1, 2**53, 1.5e-300], "nested": {"a": [None, True, {}]}, "": ""}


async def test_events_become_runs_in_their_order(way: Way, connection: asyncpg.Connection) -> None:
    """One call, a run for each event that has a function; None for one that only cancels. Data arrives as it was."""
    sent = await way.send(
        [placed(1), OutgoingEvent(CANCELLED, {"order_id": 0}), OutgoingEvent(PLACED, DATA), placed(3, priority=7)]
    )
    found = await runs(connection)
    assert [sent[0], None, sent[2], sent[3]] == sent
    assert [sent[0], sent[2], sent[3]] == [run["run"] for run in found]
    assert [{"order_id": 1}, DATA, {"order_id": 3}] == [json.loads(run["data"]) for run in found]
    assert [0, 0, 7] == [run["priority"] for run in found]


async def test_a_run_may_be_for_later_and_carry_a_trace(way: Way, connection: asyncpg.Connection) -> None:
    """The time is an instant, whatever zone it is written in."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await way.send([placed(run_at=LATER.astimezone(), traceparent=trace)])
    run = (await runs(connection))[0]
    assert (LATER, trace) == (run["run_at"], run["traceparent"])


async def test_nothing_to_send_is_nothing(way: Way) -> None:
    """An empty list is no mistake."""
    assert [] == await way.send([])


async def test_an_id_makes_one_run(way: Way, connection: asyncpg.Connection) -> None:
    """However often it is sent, within a call and in several."""
    first = await way.send([placed(id="order-1"), placed(id="order-1"), placed(id="order-2")])
    again = await way.send([placed(id="order-2"), placed(id="order-1")])
    assert first[0] == first[1]
    assert [first[2], first[0]] == again
    assert 2 == len(await runs(connection))


async def test_a_run_is_cancelled_once(way: Way, connection: asyncpg.Connection) -> None:
    """True for a run that there is; False afterwards, and for one that there never was."""
    (run,) = await way.send([placed()])
    assert isinstance(run, UUID)
    assert [True, False, False] == [await way.cancel(run), await way.cancel(run), await way.cancel(uuid4())]
    assert [] == await runs(connection)


MISTAKES: dict[str, tuple[OutgoingEvent, type[SendFailed], str | None]] = {
    "unknown": (OutgoingEvent("shop/order.plcaed", {}), UnknownEvent, "SQ010"),
    "a list": (OutgoingEvent(PLACED, []), InvalidEvent, "SQ011"),  # type: ignore[arg-type]
    "NUL": (placed("\0"), InvalidEvent, "SQ011"),
    "too large": (placed("x" * 4_194_304), InvalidEvent, "SQ002"),
    "no name": (OutgoingEvent("", {}), InvalidEvent, "SQ007"),
    "a long name": (OutgoingEvent("e" * 513, {}), InvalidEvent, "SQ007"),
    "a long id": (placed(id="i" * 513), InvalidEvent, "SQ007"),
    "another's id": (placed(id="taken"), InvalidEvent, "SQ014"),
    "priority": (placed(priority=99_999), InvalidEvent, "SQ005"),
    "no JSON": (placed(object()), InvalidEvent, None),
    "NaN": (placed(float("nan")), InvalidEvent, None),
    "half a pair": (placed("\ud800"), InvalidEvent, "SQ011"),
}


SAID_BY_THE_SDK = {"NUL", "half a pair"}
HARMLESS = [r"\u0000", "\\\\u0000", "\\", "\U0001f71a"]


async def test_what_only_looks_like_a_mistake_is_sent(way: Way, connection: asyncpg.Connection) -> None:
    """A backslash before u0000 is text like any other."""
    await way.send([placed(HARMLESS)])
    assert [{"order_id": HARMLESS}] == [json.loads(run["data"]) for run in await runs(connection)]


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_the_same_mistake_is_the_same_error(way: Way, connection: asyncpg.Connection, mistake: str) -> None:
    """Class, code, words and advice, as the SQL API gives them; and nothing of the call is sent."""
    await way.send([OutgoingEvent(CANCELLED, {}, id="taken")])
    event, error, code = MISTAKES[mistake]
    if isinstance(event.data, list):
        event = _raw(event)
    with pytest.raises(SendFailed) as raised:
        await way.send([placed(1), event])
    assert (error, code) == (type(raised.value), raised.value.code)
    assert [] == await runs(connection)
    if code is not None and mistake not in SAID_BY_THE_SDK:
        message, hint = await _said(connection, event)
        assert (f"{message} ({hint})", hint) == (str(raised.value), raised.value.hint)


class _Raw(OutgoingEvent):
    """An event whose data goes as it is."""

    def wire(self) -> dict[str, Any]:
        return {"event": self.event, "data": self.data}


def _raw(event: OutgoingEvent) -> OutgoingEvent:
    """What an app that is not typed may pass."""
    return _Raw(event.event, event.data)


async def _said(connection: asyncpg.Connection, event: OutgoingEvent) -> tuple[str, str]:
    try:
        await connection.fetch("select * from slayq.send_many($1)", events_text([event]))
    except Exception as error:
        return error.args[0], error.hint  # type: ignore[attr-defined]
    raise AssertionError("it was sent")


async def test_the_real_daemon_says_the_same(shop: str, connection: asyncpg.Connection, daemons: Daemons) -> None:
    """Every mistake over HTTP; and what is none."""
    running = await daemons.start()
    async with closing(RpcDriver(running.url, [SECRET])) as driver:
        warning = "'shop/order.placed' invokes 'shop/print', which no app has registered yet"
        changed = manifest(function(PLACED, invokes=["shop/print"]), function(CANCELLED))
        assert Registered(2, (warning,)) == await driver.register(changed)
        await driver.send([OutgoingEvent(CANCELLED, {}, id="taken", run_at=LATER)])
        for event, error, code in MISTAKES.values():
            with pytest.raises(SendFailed) as raised:
                await driver.send([placed(1, run_at=LATER), event if isinstance(event.data, dict) else _raw(event)])
            assert (error, code) == (type(raised.value), raised.value.code)
        for given, code in REFUSED.values():
            with pytest.raises(RegistrationFailed) as refused:
                await driver.register(given)
            assert code == refused.value.code
        first, second = await driver.send([placed(DATA, run_at=LATER), placed(2, run_at=LATER)])
        assert [{"order_id": DATA}, {"order_id": 2}] == [
            json.loads(run["data"]) for run in (await runs(connection))[1:]
        ]
        assert first is not None
        assert [True, False] == [await driver.cancel(first), await driver.cancel(first)]
        assert [second] == [run["run"] for run in (await runs(connection))[1:]]
    async with closing(RpcDriver(running.url, ["another"])) as stranger:
        with pytest.raises(Unauthorized):
            await stranger.cancel(uuid4())


# Only drivers register


async def test_an_app_is_registered(driver: Driver) -> None:
    """The answer has the server's warnings."""
    assert isinstance(driver, Driver)
    warning = "'shop/order.placed' invokes 'shop/print', which no app has registered yet"
    changed = manifest(function(PLACED, invokes=["shop/print", "shop/mail"]), function("shop/mail"))
    assert Registered(2, (warning,)) == await driver.register(changed)
    assert Registered(0, ()) == await driver.register(manifest())


REFUSED: dict[str, tuple[dict[str, Any], str | None]] = {
    "no list": ({**SHOP, "functions": 5}, "SQ012"),
    "twice": (manifest(function(PLACED), function(PLACED)), "SQ012"),
    "another app's": (manifest(function(PLACED), app="thief"), "SQ013"),
    "too large": (manifest(function(PLACED, schema={"x": "x" * 4_194_304})), "SQ002"),
    "no JSON": (manifest(function(PLACED, schema=object())), None),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_manifest_that_is_refused(driver: Driver, mistake: str) -> None:
    """RegistrationFailed with the server's code."""
    given, code = REFUSED[mistake]
    with pytest.raises(RegistrationFailed) as raised:
        await driver.register(given)
    assert (RegistrationFailed, code) == (type(raised.value), raised.value.code)


async def test_a_driver_works_again_after_it_was_closed(driver: Driver, connection: asyncpg.Connection) -> None:
    """Closing lets go of connections, and no more; it may be done twice."""
    await driver.send([placed(1)])
    await driver.close()
    await driver.close()
    await driver.send([placed(2)])
    assert 2 == len(await runs(connection))


async def test_many_events_are_one_call(driver: Driver, connection: asyncpg.Connection) -> None:
    """A thousand at once, all there, in order."""
    sent = await driver.send([placed(n) for n in range(1000)])
    assert sent == [run["run"] for run in await runs(connection)]
