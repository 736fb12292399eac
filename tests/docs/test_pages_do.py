"""The functions on the pages do what the text beside them says, run by `slayq.testing`."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from slayq.signing import v2_headers
from slayq.testing import Engine
from tests.docs.pages import blocks_of
from tests.docs.running import importable, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import ModuleType


@asynccontextmanager
async def page(name: str, folder: Path) -> AsyncIterator[ModuleType]:
    """All that the page's blocks define."""
    with importable(name, folder) as module:
        for block in blocks_of(name, "python"):
            if block.mark is None:
                await run(block, module)
        yield module


async def test_functions(tmp_path: Path) -> None:
    """functions.md: each kind of step."""
    async with page("functions.md", tmp_path) as module:
        shop: Any = module
        engine = Engine(shop.sq, replay_every_step=True)
        order = shop.Order(order_id="A-17", email="ann@example.com")
        assert 3 == (await engine.start(shop.hold_goods, order)).result
        counted = await engine.start(shop.note_stock, {"nut": 3})
        assert ["let it settle"] == [step.name for step in counted.steps]
        assert await engine.finish(counted)
        assert "receipt-A-17" == (await engine.start(shop.charge_card, order)).result
        reminded = await engine.start(shop.remind, order)
        assert "done" == (await engine.finish(reminded)).status

        unpaid = await engine.start(shop.await_payment, order)
        await engine.advance("48h")
        assert unpaid.result is None
        paying = await engine.start(shop.await_payment, order)
        await engine.send(shop.paid(shop.Payment(order_id="A-17", cents=5)))
        assert 5 == paying.result

        assert 7 == (await engine.start(shop.bill, order)).result
        closed = await engine.start(shop.close, order)
        assert "done" == closed.status
        sent = [event.event for event in engine.sent]
        assert ["shop/order.fulfilled", "shop/order.placed", "shop/stock.counted"] == sent
        at_once = await engine.start(shop.all_at_once, order)
        assert "receipt-A-17" == at_once.result
        assert {"invoice", "charge", "mail ann@example.com", "mail bob@example.com"} == {
            step.name for step in at_once.steps
        }


async def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """errors.md: attempts, retries of a step, what is caught, NoRetry, RetryAfter, invocations."""
    async with page("errors.md", tmp_path) as module:
        shop: Any = module
        engine = Engine(shop.sq)
        order = shop.Order(order_id="A-17")
        run = await engine.finish(await engine.start(shop.fulfil, order))
        assert ("failed", 6, 6) == (run.status, run.attempt, run.step("charge").attempts)

        paying = await engine.start(shop.pay, order)
        await engine.finish(paying)
        assert "other-receipt-A-17" == paying.result
        assert (4, 1) == (paying.step("charge").attempts, paying.attempt)
        assert "charge: ConnectionError: the bank is away" in capsys.readouterr().out

        assert "other-receipt-A-17" == (await engine.finish(await engine.start(shop.bill, order))).result
        engine.stub("pay", shop.NoRetry("no such card"))
        assert "unpaid" == (await engine.finish(await engine.start(shop.bill, order))).result
        with pytest.raises(shop.NoRetry):
            await shop.ask_strict_bank("")
        with pytest.raises(shop.RetryAfter) as later:
            await shop.ask_strict_bank("A-17")
        assert 600 == later.value.seconds


async def test_cancelling(tmp_path: Path) -> None:
    """cancelling.md: by an event; the debounce, in which the last one is done."""
    async with page("cancelling.md", tmp_path) as module:
        shop: Any = module
        engine = Engine(shop.sq)
        run = await engine.start(shop.placed(shop.Order(order_id="A-17")))
        other = await engine.start(shop.placed(shop.Order(order_id="A-18")))
        await engine.send(shop.cancelled(shop.Order(order_id="A-17")))
        assert ("cancelled", "running") == (run.status, other.status)
        runs = [await engine.start(shop.changed(shop.Order(order_id="A-17"))) for _ in range(3)]
        await engine.advance("1m")
        assert ["cancelled", "cancelled", "done"] == [run.status for run in runs]


@pytest.mark.parametrize("name", ["from-inngest.md", "from-typescript.md", "README.md"])
async def test_the_whole_example(name: str, tmp_path: Path) -> None:
    """An order that is paid, and one that is not."""
    async with page(name, tmp_path) as module:
        shop: Any = module
        if name == "README.md":
            import shop  # type: ignore[import-not-found, no-redef]  # the page's file
        data = {"order_id": "A-17", "email": "ann@example.com"}
        engine = Engine(shop.sq, replay_every_step=True)
        run = await engine.start("shop/order.placed", data)
        await engine.send("shop/order.paid", data)
        await engine.finish(run)
        assert run.result in ("invoice-A-17", "parcel-A-17")
        unpaid = await engine.finish(await engine.start("shop/order.placed", data))
        if name == "from-typescript.md":
            assert unpaid.error is not None
            assert ("failed", "NoRetry") == (unpaid.status, unpaid.error.type)
        else:
            assert unpaid.result is None


async def test_guarantees_and_cron(tmp_path: Path) -> None:
    """The key has the run in it; a tick's function needs no data."""
    async with page("guarantees.md", tmp_path) as module:
        shop: Any = module
        run = await Engine(shop.sq).start(shop.charge_once, shop.Order(order_id="A-17", cents=5))
        assert f"paid, {run.id}:charge" == run.result
    async with page("cron.md", tmp_path) as module:
        shop = module
        assert "done" == (await Engine(shop.sq).start("shop/nightly")).status


async def test_on_lambda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """receiving.md's handler answers a signed request with a journal, and refuses one that is not signed."""
    monkeypatch.setenv("SLAY_Q_SECRET", "a-secret")
    async with page("receiving.md", tmp_path):
        import on_lambda  # type: ignore[import-not-found]  # the page's file

        body = json.dumps(
            {
                "v": 2,
                "audience": "https://app.example.com/slayq",
                "lease": {"token": "t", "deadline": 0},
                "run": {
                    "id": str(uuid4()),
                    "event": "shop/order.placed",
                    "data": {"order_id": "A-17"},
                    "attempt": 1,
                    "max_attempts": 26,
                    "created_at": "2026-01-31T08:30:00Z",
                },
                "steps": [],
            }
        )
        signed = v2_headers(["a-secret"], body.encode(), message_id="m", now=time.time())
        event = {"headers": signed, "body": base64.b64encode(body.encode()).decode(), "isBase64Encoded": True}
        answer = await asyncio.to_thread(on_lambda.handler, event, None)
        assert 200 == answer["statusCode"]
        assert ["hello", "step", "done"] == [json.loads(line)["op"] for line in answer["body"].splitlines()]
        assert 401 == (await on_lambda.answer({"headers": {}, "body": body}))["statusCode"]
