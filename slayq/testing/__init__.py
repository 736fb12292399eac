"""Runs functions in process, without a server and without Postgres, on a virtual clock.

    engine = Engine(sq)
    engine.stub("charge", CardDeclined("no funds"), "receipt-7")     # the first time, the second time
    run = await engine.start(placed(OrderPlaced(order_id=1)))
    await engine.send(paid(Payment(order_id=1)))
    await engine.advance("2 days")
    assert "receipt-7" == run.step("charge").output

Functions go through the same requests, the same segments and the same ops as in production; only what is on the other
side is a model of the server, in memory. `SyncEngine` is the same for tests that are not async.
"""

from slayq.testing.engine import Engine, SyncEngine
from slayq.testing.run import NotDeterministic, Run, StepView

__all__ = ["Engine", "NotDeterministic", "Run", "StepView", "SyncEngine"]
