"""What can be defined, what is refused where it is defined, and what the server is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel, Field, SecretStr

import slayq
from slayq import Event, InvalidDefinition, InvalidEvent, SlayQ, Step, SyncStep
from slayq.errors import InvalidSecret
from slayq.settings import driver_from, secrets_from

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Order(BaseModel):
    order_id: int
    email: str = Field(default="", alias="e-mail")


class Payment(BaseModel):
    amount: int


placed = Event("shop/placed", Order)
paid = Event("shop/paid", Payment)


def new() -> SlayQ:
    return SlayQ(url="https://app.test/slayq", secret="secret")


async def takes_order(order: Order, step: Step) -> None: ...
async def takes_step(step: Step) -> None: ...
def plain_with_step(step: Step) -> None: ...
async def with_sync_step(step: SyncStep) -> None: ...
async def takes_three(a: Any, b: Any, step: Step) -> None: ...
async def takes_none() -> None: ...
async def takes_no_step(order: Order) -> None: ...
async def takes_step_first(step: Step, order: dict[str, Any]) -> None: ...
async def generates(step: Step) -> Any:
    yield 1


def defines(body: Any = takes_step, **options: Any) -> Callable[[SlayQ], Any]:
    return lambda sq: cast("Any", sq).function(**options)(body)


@pytest.mark.parametrize(
    ("define", "says"),
    [
        (defines(), "has no event: write @sq.function(event='shop/order.placed')"),
        (lambda sq: sq.function(takes_step), "(takes_step) has no event"),
        (defines(event=""), "has no event"),
        (defines(event=7), "pass a text"),
        (defines(event="a\0"), "1 to 512 characters"),
        (defines(event="a" * 513), "1 to 512 characters"),
        (defines(takes_order, event="a", schema=int), "the event 'a' is int: pass a pydantic model"),
        (defines(takes_order, event="a", schema={"type": "object"}), "pass a pydantic model"),
        (defines(takes_order, event="a"), "pass schema=Order"),
        (defines(takes_order, event=paid), "has the schema Payment"),
        (defines(takes_order, event=placed, schema=Order), "leave out schema="),
        (defines(takes_order, event=placed, cron="0 3 * * *"), "a tick brings no data"),
        (defines(event="a", cron=""), "TZ=Asia/Singapore"),
        (defines(takes_order, event=placed, waits_on=[(paid, "order_id")]), "has no such property: name one"),
        (defines(takes_order, event=placed, waits_on=[("x", "amount")]), "Event('shop/placed', Order)"),
        (defines(takes_order, event=placed, cancel_on=[(paid, "order_id")]), "cancel_on of function 'takes_order'"),
        (defines(takes_order, event=placed, cancel_on=[("x", "email")]), "(order_id, e-mail)"),
        (defines(event="a", waits_on=[paid]), "a list of pairs"),
        (defines(event="a", waits_on=[("x", "k"), ("x", "k")]), "twice"),
        (defines(event="a", invokes=[takes_step]), "name functions of Slay Q"),
        (defines(event="a", invokes="shop/placed"), "invokes of function 'takes_step' is 'shop/placed': pass a list"),
        (defines(event="a", invokes=placed), "is Event('shop/placed', Order): pass a list"),
        (defines(event="a", waits_on="shop/paid"), "waits_on of function 'takes_step' is 'shop/paid': pass a list"),
        (defines(event="a", name=""), "name of function"),
        (defines(event="a", name=7), "name of function"),
        (defines(event="a", queue=""), "queue of function"),
        (defines(event="a", retries=-1), "retries of function"),
        (defines(event="a", retries="3"), "retries of function"),
        (defines(event="a", priority=True), "priority of function"),
        (defines(plain_with_step, event="a"), "annotate the last as SyncStep"),
        (defines(with_sync_step, event="a"), "annotate the last as Step"),
        (defines(takes_three, event="a"), "takes 3 arguments"),
        (defines(takes_none, event="a"), "takes 0 arguments"),
        (defines(takes_no_step, event=placed), "takes (order): let it take (data, step)"),
        (defines(takes_step_first, event="a"), "takes (step, order): let it take (data, step)"),
        (defines(generates, event="a"), "is a generator"),
        (defines(7, event="a"), "is no function"),
    ],
)
def test_refused_definitions(define: Callable[[SlayQ], Any], says: str) -> None:
    """Each ends where it is defined, as an error that says what to do, and leaves no function behind."""
    sq = new()
    with pytest.raises(InvalidDefinition) as caught:
        define(sq)
    assert says in str(caught.value)
    assert {} == dict(sq.functions)


def test_a_function_registered_twice() -> None:
    """The error names both functions, and where they are."""
    sq = new()
    sq.function(event="shop/placed")(takes_step)
    with pytest.raises(InvalidDefinition) as caught:
        sq.function(event=placed)(takes_order)
    assert "'takes_step'" in str(caught.value)
    assert "'takes_order'" in str(caught.value)
    assert 2 == str(caught.value).count("test_definitions.py:")


def test_the_manifest() -> None:
    """It has all that was said of each function, with the JSON Schema of its data."""
    sq = new()
    render = sq.function(event="shop/render")(takes_step)
    sq.function(
        event=placed,
        queue="orders",
        retries=5,
        priority=10,
        cancel_on=[("shop/cancelled", "order_id")],
        waits_on=[("shop/paid", "order_id")],
        invokes=[render, "other/audit", paid],
        name="fulfil",
    )(takes_order)
    sq.function(event="shop/nightly", cron="TZ=Asia/Singapore 0 3 * * *")(takes_step)
    manifest = sq.manifest()
    assert ("app.test/slayq", "https://app.test/slayq", f"slayq-python/{slayq.__version__}") == (
        manifest["app"],
        manifest["url"],
        manifest["sdk"],
    )
    assert {
        "event": "shop/placed",
        "name": "fulfil",
        "queue": "orders",
        "retries": 5,
        "priority": 10,
        "cron": None,
        "cancel_on": [{"event": "shop/cancelled", "match": "order_id"}],
        "waits_on": [{"event": "shop/paid", "match": "order_id"}],
        "invokes": ["shop/render", "other/audit", "shop/paid"],
        "schema": Order.model_json_schema(),
    } == manifest["functions"][1]
    assert ("general", 25, 0, None) == tuple(
        manifest["functions"][0][key] for key in ("queue", "retries", "priority", "schema")
    )
    assert "TZ=Asia/Singapore 0 3 * * *" == manifest["functions"][2]["cron"]


def test_what_a_manifest_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL there is none; the name comes from the argument, the environment or the URL."""
    monkeypatch.delenv("SLAY_Q_APP", raising=False)
    with pytest.raises(InvalidDefinition, match="url="):
        SlayQ(app="shop").manifest()
    assert "shop" == SlayQ(app="shop", url="https://app.test").manifest()["app"]
    monkeypatch.setenv("SLAY_Q_APP", "named")
    assert "named" == new().manifest()["app"]


def test_a_bad_return_annotation_is_found_at_registration() -> None:
    """What no codec can write is an error before any run of it."""

    class Opaque: ...

    async def function(step: Step) -> Opaque:
        return Opaque()

    sq = new()
    sq.function(event="a")(function)
    with pytest.raises(slayq.InvalidStep, match="return a pydantic model"):
        sq.manifest()


@pytest.mark.parametrize("options", [{"url": "app.test"}, {"url": "ftp://app.test"}, {"time_multiplier": -1}])
def test_refused_clients(options: dict[str, Any]) -> None:
    """A URL that is none, and a negative multiplier."""
    with pytest.raises(InvalidDefinition):
        SlayQ(**options)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: placed(cast("Any", Payment(amount=1))), "takes Order"),
        (lambda: Event("a")({"x": float("nan")}), "NaN"),
        (lambda: Event("a")(cast("Any", [1])), "pass a pydantic model or a dict"),
        (lambda: Event("a")({"x": object()}), "no JSON"),
        (lambda: Event("a")({"x": SecretStr("hunter2")}), "has a pydantic secret"),
        (lambda: Event("a")({"x": b"\xff"}), "base64"),
        (lambda: Event("a")({}, run_at=__import__("datetime").datetime(2030, 1, 1)), "time zone"),
        (lambda: Event("a")({}, priority=-1), "0 is the highest"),
        (lambda: Event("a")({}, id=""), "id of the event"),
    ],
)
def test_refused_events(make: Callable[[], Any], says: str) -> None:
    """An event that cannot be sent is refused where it is made."""
    with pytest.raises(InvalidEvent, match=says):
        make()


def test_an_event_goes_by_its_aliases() -> None:
    """Data is written as its JSON Schema says."""
    event = placed(Order.model_validate({"order_id": 1, "e-mail": "a@b"}), id="x", traceparent="00-a")
    assert {"event": "shop/placed", "data": {"order_id": 1, "e-mail": "a@b"}, "id": "x", "traceparent": "00-a"} == (
        event.wire()
    )


def test_secrets(tmp_path: Path) -> None:
    """One secret or a JSON array of them, of either variable, or the lines of a file; none is an error."""
    file = tmp_path / "secrets"
    file.write_text("new\n\n old \n")
    assert ("a,b",) == secrets_from({"SLAY_Q_SECRET": "a,b"})
    assert ("new", "old") == secrets_from({"SLAY_Q_WORKER_SECRET": '["new", "old", "new"]'})
    assert ("new", "old") == secrets_from({"SLAY_Q_SECRET_FILE": str(file)})
    for bad in ({}, {"SLAY_Q_SECRET": "[nonsense"}, {"SLAY_Q_SECRET": "[]"}, {"SLAY_Q_SECRET_FILE": "/nowhere"}):
        with pytest.raises(InvalidSecret) as caught:
            secrets_from(bad)
        assert "nonsense" not in str(caught.value)


def test_drivers_by_the_environment() -> None:
    """The database first, then the daemon, then Supabase; with none of them, the error names all."""
    secret = {"SLAY_Q_SECRET": "s"}
    database = {"SLAY_Q_DATABASE_URL": "postgresql://localhost/app"}
    daemon = {"SLAY_Q_RPC_URL": "http://localhost:8080"}
    supabase = {"SLAY_Q_SUPABASE_URL": "http://localhost:8000", "SLAY_Q_SUPABASE_KEY": "k"}
    assert "PostgresDriver" == type(driver_from(secret | supabase | daemon | database)).__name__
    assert "RpcDriver" == type(driver_from(secret | supabase | daemon)).__name__
    assert "SupabaseDriver" == type(driver_from(secret | supabase)).__name__
    with pytest.raises(InvalidDefinition, match="SLAY_Q_SUPABASE_KEY"):
        driver_from({"SLAY_Q_SUPABASE_URL": "http://localhost:8000"})
    with pytest.raises(InvalidDefinition, match="SLAY_Q_RPC_URL"):
        driver_from(secret)


def test_public_names() -> None:
    """All that `slayq` offers can be imported, and nothing else seems to be there."""
    for name in slayq._HOMES:
        assert name in dir(slayq)
        assert getattr(slayq, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = cast("Any", slayq).nothing_such
