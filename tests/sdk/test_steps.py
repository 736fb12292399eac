"""Steps: what comes back, what fails and how, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, Field, Json, SecretStr, computed_field

from slayq import Event, InvalidEvent, NoRetry, RetryAfter, SlayQ, Step, StepFailed, StepTimedOut, SyncStep
from slayq.errors import InvalidStep, RepeatedStep
from tests.support.segments import RUN, brief, done, ops, pending

if TYPE_CHECKING:
    from collections.abc import Callable


class Money(BaseModel):
    amount: Decimal
    at: datetime


@dataclass
class Point:
    x: int
    tags: set[str]


class Squares(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: int
    sides: Json[list[int]]

    @computed_field
    def area(self) -> int:
        return self.side * self.side


class Login(BaseModel):
    password: SecretStr


class OneWay(BaseModel):
    order_id: int = Field(serialization_alias="orderId")


class Pair(NamedTuple):
    left: int
    right: bytes


class Order(BaseModel):
    order_id: int


paid = Event("shop/paid", Order)
SQUARES = Squares.model_validate({"side": 2, "sides": "[2,2]"})
MONEY = Money(amount=Decimal("1.10"), at=datetime(2030, 1, 1, tzinfo=UTC))


def money() -> Money:
    return MONEY


async def point() -> Point | None:
    return Point(1, {"a"})


def squares() -> Squares:
    return SQUARES


def pair() -> Pair:
    return Pair(1, b"two")


def table() -> dict[int, tuple[timedelta, ...]]:
    return {1: (timedelta(seconds=1), timedelta(0))}


def nothing() -> None:
    return "something"  # type: ignore[return-value]


def unsaid():  # type: ignore[no-untyped-def]
    return MONEY


@pytest.fixture
def sq() -> SlayQ:
    return SlayQ(url="https://app.test/slayq", secret="secret")


def define(sq: SlayQ, body: Callable[[Step], Any], **options: Any) -> Any:
    options.setdefault("event", "test/event")
    return sq.function(**options)(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (money, MONEY),
        (point, Point(1, {"a"})),
        (pair, Pair(1, b"two")),
        (squares, SQUARES),
        (table, {1: (timedelta(seconds=1), timedelta(0))}),
        (nothing, None),
        (unsaid, {"amount": "1.10", "at": "2030-01-01T00:00:00Z"}),
        (lambda: (1, {"a": {2}}), [1, {"a": [2]}]),
    ],
)
async def test_results_are_the_same_on_replay(sq: SlayQ, body: Callable[[], Any], expected: object) -> None:
    """A result is what the annotation says, on the first pass and on replay; without one, plain JSON."""
    seen: list[object] = []

    async def function(step: Step) -> None:
        seen.append(await step.run("body", body))

    made = define(sq, function)
    first = await ops(made)
    await ops(made, done("body", first[0]["output"]))
    assert [expected, expected] == seen
    assert [type(expected)] * 2 == [type(each) for each in seen]


def handle() -> object:
    return object()


def nan() -> dict[str, float]:
    return {"a": float("nan")}


def optional_infinity() -> float | None:
    return float("inf")


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def surrogate() -> str:
    return "\ud800"


def wrong() -> int:
    return "seven"  # type: ignore[return-value]


def binary() -> dict[str, bytes]:
    return {"a": b"\xff"}


def login() -> list[Login]:
    return [Login(password=SecretStr("hunter2"))]


def one_way() -> OneWay:
    return OneWay(order_id=1)


def large() -> str:
    return "x" * 1_048_576


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (handle, "returned a value of type object, which is no JSON"),
        (nan, "NaN"),
        (optional_infinity, "infinity"),
        (circle, "returned a value of type list"),
        (surrogate, "returned a value of type str"),
        (wrong, "returned a value of type str that does not fit its annotation int"),
        (binary, "has bytes that are no UTF-8 text: write them in base64"),
        (login, "has a pydantic secret"),
        (one_way, "OneWay: order_id: Field required. It cannot read what it writes: look at its aliases"),
        (large, "1,048,576 are the limit"),
    ],
)
async def test_output_that_cannot_be_recorded_fails_the_step(sq: SlayQ, body: Callable[[], Any], says: str) -> None:
    """The step fails for good, the function may catch it, and the error names the step and the value's type."""

    async def function(step: Step) -> str:
        try:
            await step.run("bad", body)
        except StepFailed as failed:
            return failed.error_message
        return "passed"

    answer = await ops(define(sq, function))
    assert ["step_failed bad", "done"] == brief(answer)
    assert answer[0]["final"]
    assert "InvalidOutput" == answer[0]["error"]["type"]
    assert "step 'bad'" in answer[1]["output"]
    assert says in answer[1]["output"]


async def test_a_function_s_own_output_that_cannot_be_recorded(sq: SlayQ) -> None:
    """The function fails without a retry, and the error names it."""

    async def function(step: Step) -> object:
        return object()

    (failed,) = await ops(define(sq, function))
    assert ("failed", False) == (failed["op"], failed["retry"])
    assert "function 'function' returned a value of type object" in failed["error"]["message"]


async def test_a_function_s_output_that_is_not_what_it_says(sq: SlayQ) -> None:
    """It fails there, and not in whoever invokes it: a forgotten `return`, too."""

    async def wrong_kind(step: Step) -> int:
        return "seven"  # type: ignore[return-value]

    async def forgotten(step: Step) -> Money:  # type: ignore[empty-body]
        pass

    for function, says in ((wrong_kind, "str that does not fit its annotation int"), (forgotten, "type NoneType")):
        (failed,) = await ops(define(SlayQ(), function))
        assert ("failed", False, "InvalidOutput") == (failed["op"], failed["retry"], failed["error"]["type"])
        assert says in failed["error"]["message"]


def failing() -> int:
    raise ValueError("no funds")


async def test_a_step_without_retries_takes_an_attempt_of_the_function(sq: SlayQ) -> None:
    """It is noted as not final, and the attempt ends; bodies that run beside it come to their end first."""
    gate = asyncio.Event()

    async def slow() -> str:
        await gate.wait()
        return "slow"

    def first() -> None:
        raise ValueError("no funds")

    async def function(step: Step) -> None:
        asyncio.get_running_loop().call_later(0.01, gate.set)
        await asyncio.gather(step.run("slow", slow), step.run("fails", first))

    answer = await ops(define(sq, function))
    assert ["step_failed fails", "step slow", "failed"] == brief(answer)
    assert (1, False, "retry_after" in answer[0]) == (answer[0]["attempt"], answer[0]["final"], False)
    assert ("ValueError", "no funds", True) == (
        answer[2]["error"]["type"],
        answer[2]["error"]["message"],
        answer[2]["retry"],
    )
    assert "in first" in answer[0]["error"]["trace"]
    assert "slayq/segment" not in answer[0]["error"]["trace"]


async def test_on_the_last_attempt_the_function_may_catch_it(sq: SlayQ) -> None:
    """The failure is the step's outcome, then and on replay; uncaught, it ends the run without a retry."""

    async def catches(step: Step) -> str:
        try:
            await step.run("fails", failing)
        except StepFailed as failed:
            return f"{failed.step} {failed.error_type} {failed.error_message}"
        return "passed"

    async def lets_pass(step: Step) -> None:
        await step.run("fails", failing)

    catching = define(sq, catches)
    answer = await ops(catching, pending("fails", attempts=2, retry_in_ms=0), attempt=3)
    assert (3, True) == (answer[0]["attempt"], answer[0]["final"])
    assert "fails ValueError no funds" == answer[1]["output"]
    recorded = {"name": "fails", "kind": "run", "state": "failed", "error": answer[0]["error"]}
    assert [answer[1]] == await ops(catching, recorded)
    (failed,) = await ops(define(sq, lets_pass, event="test/other"), recorded)
    assert ("failed", "StepFailed", False) == (failed["op"], failed["error"]["type"], failed["retry"])


async def test_a_step_with_retries_of_its_own(sq: SlayQ) -> None:
    """Failures up to its retries only suspend, with a growing delay; one more is final."""

    async def function(step: Step) -> str:
        try:
            await step.options(retries=2).run("fails", failing)
        except StepFailed:
            return "caught"
        return "passed"

    made = define(sq, function)
    delays = []
    for failures in (0, 1):
        answer = await ops(made, *([pending("fails", attempts=failures, retry_in_ms=0)] if failures else []))
        assert ["step_failed fails", "suspend"] == brief(answer)
        assert (failures + 1, False) == (answer[0]["attempt"], answer[0]["final"])
        delays.append(answer[0]["retry_after"])
    assert [1.0, 2.0] == delays
    assert ["suspend"] == brief(await ops(made, pending("fails", attempts=1, retry_in_ms=60_000)))
    last = await ops(made, pending("fails", attempts=2, retry_in_ms=-5))
    assert (3, True, "caught") == (last[0]["attempt"], last[0]["final"], last[1]["output"])


class Declined(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        NoRetry("no"),
        Declined("no"),
        ExceptionGroup("of a TaskGroup", [NoRetry("no")]),
        ExceptionGroup("of a TaskGroup", [ValueError(), ExceptionGroup("in it", [Declined("no")])]),
    ],
)
async def test_errors_that_end_a_step(sq: SlayQ, error: Exception) -> None:
    """NoRetry, and what `give_up_on` names, are final at once, out of a TaskGroup, too."""

    def body() -> None:
        raise error

    async def function(step: Step) -> None:
        await step.options(retries=5, give_up_on=Declined).run("fails", body)

    answer = await ops(define(sq, function))
    assert [("step_failed", True), ("failed", False)] == [
        (answer[0]["op"], answer[0]["final"]),
        (answer[1]["op"], answer[1]["retry"]),
    ]


async def test_retry_after_sets_the_delay(sq: SlayQ) -> None:
    """Of a step's retry, of the function's attempt after a step, and after the function itself; all are shortened."""

    def body() -> None:
        raise RetryAfter("1h", "busy")

    async def own(step: Step) -> None:
        await step.options(retries=1).run("fails", body)

    async def function(step: Step) -> None:
        await step.run("fails", body)

    async def raises(step: Step) -> None:
        body()

    assert 3600 == (await ops(define(sq, own, event="a")))[0]["retry_after"]
    assert 3600 == (await ops(define(sq, function, event="b")))[1]["retry_after"]
    made = define(sq, raises, event="c")
    assert 3600 == (await ops(made))[0]["retry_after"]
    assert 36 == (await ops(made, time_multiplier=0.01))[0]["retry_after"]


async def test_a_step_s_timeout(sq: SlayQ) -> None:
    """A body that takes too long is cancelled, and fails with TimeoutError."""
    cancelled = []

    async def body() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.append(True)

    async def function(step: Step) -> None:
        await step.options(retries=0, timeout="10ms").run("slow", body)

    answer = await ops(define(sq, function))
    assert "TimeoutError" == answer[0]["error"]["type"]
    assert "step 'slow' took longer than 0.01 s" in answer[0]["error"]["message"]
    assert [True] == cancelled


async def test_odd_errors_are_recorded(sq: SlayQ) -> None:
    """Whatever a body raises becomes the step's error: no text, no UTF-8, endless, SystemExit, a stray cancellation."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def exits() -> None:
        raise SystemExit(3)

    def long() -> None:
        raise ValueError("\ud800\0" * 100_000)

    def mute() -> None:
        raise Mute

    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        task.cancel()
        await task

    async def function(step: Step) -> list[str]:
        found = []
        for name, body in {"exits": exits, "long": long, "mute": mute}.items():
            with contextlib.suppress(StepFailed):
                await step.options(retries=0).run(name, body)
            found.append(name)
        with contextlib.suppress(StepFailed):
            await step.options(retries=0).run("cancelled", cancelled)
        return found

    answer = await ops(define(sq, function))
    expected = ["SystemExit", "ValueError", "Mute", "CancelledError"]
    assert expected == [op["error"]["type"] for op in answer[:-1]]
    assert all(len(op["error"]["message"]) <= 4000 and len(op["error"]["trace"]) <= 8000 for op in answer[:-1])
    assert "\0" not in answer[1]["error"]["message"]


@pytest.mark.parametrize("event", ["test/async", "test/plain"])
async def test_a_function_that_exits(sq: SlayQ, event: str) -> None:
    """It fails, and the app goes on."""

    @sq.function(event="test/async")
    async def function(step: Step) -> None:
        raise SystemExit(3)

    @sq.function(event="test/plain")
    def plain(step: SyncStep) -> None:
        raise SystemExit(3)

    (failed,) = await ops(sq.functions[event])
    assert ("failed", True) == (failed["op"], failed["retry"])
    assert "the function raised SystemExit(3)" == failed["error"]["message"]
    assert "test_steps.py" in failed["error"]["trace"]


async def test_a_name_used_twice_is_refused(sq: SlayQ) -> None:
    """In a row or at once, for recorded steps, too; the error says where both are."""

    async def function(step: Step) -> None:
        await asyncio.gather(*(step.run("charge", money) for _ in range(2)))

    failed = (await ops(define(sq, function), done("charge", {"amount": "1", "at": "2030-01-01T00:00:00Z"})))[-1]
    assert ("failed", "RepeatedStep") == (failed["op"], failed["error"]["type"])
    assert "'charge'" in failed["error"]["message"]
    assert 2 == failed["error"]["message"].count("test_steps.py:")


async def test_a_step_in_a_body_is_refused(sq: SlayQ) -> None:
    """In async bodies and in threads; the error names both steps."""

    async def function(step: Step) -> None:
        async def body() -> None:
            await step.run("inner", money)

        await step.run("outer", body)

    def plain(step: SyncStep) -> None:
        step.run("outer", lambda: step.run("inner", money))

    for made in (define(sq, function), sq.function(event="test/plain")(plain)):
        answer = await ops(made)
        assert ["step_failed outer", "failed"] == brief(answer)
        assert "step 'inner' was asked for in the body of step 'outer'" in answer[0]["error"]["message"]


async def test_a_step_in_another_event_loop_is_refused(sq: SlayQ) -> None:
    """In a thread's own loop, which could never be woken."""

    async def function(step: Step) -> None:
        await asyncio.to_thread(lambda: asyncio.run(step.run("a", money)))

    (failed,) = await ops(define(sq, function))
    assert "InvalidStep" == failed["error"]["type"]
    assert "step 'a' was asked for in another event loop than its function's" in failed["error"]["message"]


@pytest.mark.parametrize(
    ("take", "says"),
    [
        (lambda step: step.sleep_until("a", datetime(2030, 1, 1)), "has no time zone"),  # noqa: DTZ001
        (lambda step: step.sleep_until("a", "2030-01-01"), "pass a datetime"),
        (lambda step: step.sleep("a", "-1s"), "negative"),
        (lambda step: step.sleep("a", timedelta(seconds=-1)), "negative"),
        (lambda step: step.sleep("a", timedelta.max), "longer than a thousand years"),
        (lambda step: step.sleep("a", "soon"), '"30s"'),
        (lambda step: step.sleep("a", 5), "not a duration"),
        (lambda step: step.sleep("", "1s"), "1 to 512"),
        (lambda step: step.sleep("a\0", "1s"), "1 to 512"),
        (lambda step: step.sleep("a" * 513, "1s"), "1 to 512"),
        (lambda step: step.sleep("slayq:a", "1s"), "SDK's own"),
        (lambda step: step.sleep(None, "1s"), "is NoneType"),
        (lambda step: step.wait_for_event("a", paid), "waits_on=[('shop/paid'"),
        (lambda step: step.invoke("a", paid, {}), "takes Order"),
        (lambda step: step.invoke("a", money, {}), "invokes function: pass one that @sq.function has made"),
        (lambda step: step.run("a", point()), "has been called already (point): pass the function, and its arguments"),
        (lambda step: step.run("a", 7), "is int: pass the function, and its arguments after it"),
        (lambda step: step.run(money, "a"), "the name of a step is function"),
        (lambda step: step.options(retries=-1).run("a", money), "retries"),
        (lambda step: step.options(timeout="-1s").run("a", money), "negative"),
        (lambda step: step.options(give_up_on=(1,)).run("a", money), "give_up_on"),
    ],
)
async def test_bad_asks(sq: SlayQ, take: Callable[[Step], Any], says: str) -> None:
    """Each is an error in the function that says what to do."""
    caught: list[str] = []

    async def function(step: Step) -> None:
        try:
            await take(step)
        except InvalidStep as error:
            caught.append(str(error))

    assert ["done"] == brief(await ops(define(sq, function)))
    assert says in caught[0]


def test_a_plain_function_s_body_that_is_called_already(sq: SlayQ) -> None:
    """As in an async one."""

    def function(step: SyncStep) -> None:
        step.run("a", money())  # type: ignore[arg-type]

    (failed,) = asyncio.run(ops(define(sq, function)))
    assert "the body of step 'a' is tests.sdk.test_steps.Money: pass the function" in failed["error"]["message"]


@pytest.mark.parametrize(
    ("take", "says"),
    [
        (lambda step: step.send_event("a", "x", {"x": "\0"}), "holds a NUL character"),
        (lambda step: step.invoke("a", "x", {"x": ["\0"]}), "holds a NUL character"),
        (lambda step: step.send_events("a", [{"event": "x"}] * 1001), "1,001 events, and 1,000 are the most"),
    ],
)
async def test_events_that_the_server_would_not_take(sq: SlayQ, take: Callable[[Step], Any], says: str) -> None:
    """They are refused at the step, where the function can catch it."""
    caught: list[str] = []

    async def function(step: Step) -> None:
        try:
            await take(step)
        except InvalidEvent as error:
            caught.append(str(error))

    assert ["done"] == brief(await ops(define(sq, function)))
    assert says in caught[0]


async def test_a_step_that_was_of_another_kind(sq: SlayQ) -> None:
    """A function that was changed under a run, so that a name means another thing, is told so."""

    async def function(step: Step) -> None:
        await step.sleep("a", "1s")

    failed = (await ops(define(sq, function), done("a", 1)))[0]
    assert "recorded it as one of kind run" in failed["error"]["message"]


async def test_a_recorded_output_that_does_not_fit_any_more(sq: SlayQ) -> None:
    """A changed annotation fails the attempt, and may be mended before the next."""

    async def function(step: Step) -> None:
        await step.run("body", money)

    (failed,) = await ops(define(sq, function), done("body", {"amount": "much"}))
    assert ("InvalidStep", True) == (failed["error"]["type"], failed["retry"])
    assert "step 'body' has a recorded outcome that does not fit its annotation Money" in failed["error"]["message"]
    assert failed["error"]["message"].endswith("or give what is new a name of its own")


async def test_waits(sq: SlayQ) -> None:
    """A wait matches by the run's own value, and gives the event's data, or None when it timed out."""

    async def function(order: Order, step: Step) -> int | None:
        payment = await step.wait_for_event("payment", paid, timeout="48h")
        return None if payment is None else payment.order_id

    made = sq.function(event="test/event", schema=Order, waits_on=[(paid, "order_id")])(function)
    data = {"order_id": 7}
    match = {"key": "order_id", "value": 7}
    wait = {"op": "wait", "name": "payment", "event": "shop/paid", "match": match, "timeout_ms": 172_800_000}
    assert [wait, {"op": "suspend"}] == await ops(made, data=data)
    assert [{"op": "done", "output": 7}] == await ops(made, done("payment", {"order_id": 7}, "wait"), data=data)
    timed_out = {"name": "payment", "kind": "wait", "state": "timed_out"}
    assert [{"op": "done", "output": None}] == await ops(made, timed_out, data=data)


async def test_invocations(sq: SlayQ) -> None:
    """The callee's result comes as its annotation says; its failure and a time-out are errors to catch."""

    @sq.function(event="test/callee", schema=Order)
    async def callee(order: Order, step: Step) -> Money:
        return MONEY

    async def function(step: Step) -> str:
        try:
            return str((await step.invoke("call", callee, Order(order_id=1), timeout="1s")).amount)
        except StepTimedOut:
            return "timed out"
        except StepFailed as failed:
            return failed.error_type

    made = define(sq, function)
    invoke = {"op": "invoke", "name": "call", "event": "test/callee", "data": {"order_id": 1}, "timeout_ms": 1000}
    assert [invoke, {"op": "suspend"}] == await ops(made)
    output = MONEY.model_dump(mode="json")
    assert "1.10" == (await ops(made, done("call", output, "invoke")))[0]["output"]
    failed = {"name": "call", "kind": "invoke", "state": "failed"}
    error = {"type": "InvocationFailed", "message": "it died"}
    assert "InvocationFailed" == (await ops(made, failed | {"error": error}))[0]["output"]
    assert "timed out" == (await ops(made, failed | {"state": "timed_out"}))[0]["output"]


async def test_sending(sq: SlayQ) -> None:
    """Events are sent by a step, and the function goes on; on replay nothing is sent."""

    async def function(step: Step) -> None:
        await step.send_event("one", paid(Order(order_id=1), id="once"))
        await step.send_event("two", "test/other", {"a": 1}, priority=3)
        await step.send_events("many", [paid(Order(order_id=2)), {"event": "test/bare"}])

    made = define(sq, function)
    answer = await ops(made)
    assert [{"event": "shop/paid", "data": {"order_id": 1}, "id": "once"}] == answer[0]["events"]
    assert [{"event": "test/other", "data": {"a": 1}, "priority": 3}] == answer[1]["events"]
    assert ["shop/paid", "test/bare"] == [each["event"] for each in answer[2]["events"]]
    sent = [done(name, [None], "send") for name in ("one", "two", "many")]
    assert [{"op": "done", "output": None}] == await ops(made, *sent)


async def test_the_limit_of_ops(sq: SlayQ) -> None:
    """A segment that has used up its ops ends, to be continued; with something pending, it has itself called anew."""

    async def function(step: Step) -> None:
        for number in range(10):
            await step.run(f"step {number}", int)

    async def beside(step: Step) -> None:
        await asyncio.gather(step.sleep("long", "1y"), function(step))

    few = {"line_bytes": 1_048_576, "ops": 8}
    expected = [f"step step {number}" for number in range(5)]
    assert [*expected, "suspend"] == brief(await ops(define(sq, function), limits=few))
    answer = await ops(define(sq, beside, event="test/beside"), limits=few)
    assert ["sleep long", *expected[:4], "sleep slayq:continue:1", "suspend"] == brief(answer)


async def test_time_multiplier(sq: SlayQ) -> None:
    """Sleeps and time-outs are shortened; a sleep until some time becomes one that lasts as long."""

    async def function(step: Step) -> None:
        await asyncio.gather(
            step.sleep("a", "10s"),
            step.sleep_until("b", datetime.now(UTC) + timedelta(seconds=100)),
            step.invoke("c", "test/other", timeout="1h"),
        )

    a, b, c, _ = await ops(define(sq, function), time_multiplier=0.1)
    assert 1000 == a["ms"]
    assert 9_000 < b["ms"] <= 10_000
    assert 360_000 == c["timeout_ms"]


async def test_what_a_step_knows_of_its_run(sq: SlayQ) -> None:
    """The run's id, attempt and creation are there, the same on each replay."""

    async def function(step: Step) -> list[str]:
        return [str(step.run_id), str(step.attempt), str(step.max_attempts), step.created_at.isoformat()]

    answer = await ops(define(sq, function), attempt=2)
    assert [RUN, "2", "3", "2030-01-01T00:00:00+00:00"] == answer[0]["output"]


async def test_data_that_does_not_fit_the_schema(sq: SlayQ) -> None:
    """The run ends without a retry, with an error that shows no values."""

    @sq.function(event="test/event", schema=Order)
    async def function(order: Order, step: Step) -> None:
        raise AssertionError("ran")

    (failed,) = await ops(function, data={"order_id": "secret"})
    assert ("InvalidData", False) == (failed["error"]["type"], failed["retry"])
    assert "order_id" in failed["error"]["message"]
    assert "secret" not in failed["error"]["message"]


def test_errors_can_be_copied() -> None:
    """A StepFailed goes through pickle, as some test runners and loggers want."""
    import pickle

    for error in (StepFailed("a", "ValueError", "no", "trace"), StepTimedOut("a")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(error), str(error), error.step) == (type(copy), str(copy), copy.step)
    assert issubclass(RepeatedStep, InvalidStep)
