"""Many runs at once: no wake-up is lost, and none comes twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.ops_app import SUSPEND, OpsApp, Request, done
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from tests.conftest import Connect
    from tests.support.daemon import Daemons

RUNS = 1000


async def send_all(connection: asyncpg.Connection, event: str, ids: Sequence[int]) -> None:
    """An event for each id, in one statement."""
    events = [{"event": event, "data": {"id": number}} for number in ids]
    await connection.fetch("select slayq.send_many($1)", json.dumps(events))


async def test_every_wait_is_woken_once(daemons: Daemons, connection: asyncpg.Connection, connect: Connect) -> None:
    """A thousand runs, each waiting for an event that is sent before, while or after its wait is registered."""
    ended: Counter[int] = Counter()

    async def script(request: Request) -> AsyncIterator[Any]:
        number = request.run["data"]["id"]
        paid = request.steps.get("paid")
        if paid is None:
            yield {"op": "wait", "name": "paid", "event": "paid", "match": {"key": "id", "value": number}}
            yield SUSPEND
        elif paid["state"] == "pending":
            yield SUSPEND
        else:
            assert {"id": number} == paid["output"]
            ended[number] += 1
            yield done(number)

    async with OpsApp() as app:
        app.script = script
        await app.register(connection, {"event": "order", "waits_on": [{"event": "paid", "match": "id"}]})
        await send_all(connection, "order", range(RUNS))
        await send_all(connection, "paid", range(0, RUNS, 3))
        queues = {"mail": {"concurrency": 40}}
        callbacks = {"allow": [app.origin]}
        await daemons.start(queues=queues, callbacks=callbacks, retention={"done": "1h"})
        await daemons.start(queues=queues, callbacks=callbacks, retention={"done": "1h"})

        async def meanwhile() -> None:
            other = await connect()
            for number in range(1, RUNS, 3):
                await other.fetchval("select slayq.send('paid', $1)", json.dumps({"id": number}))

        async def afterwards() -> None:
            other = await connect()
            waiting = "select count(*) from slayq.step where state = 'pending' and (match_value::int) % 3 = 2"

            async def all_wait() -> bool:
                return bool(await other.fetchval(waiting) == len(range(2, RUNS, 3)))

            await wait_until(all_wait, 60.0, "the last third waiting")
            await send_all(other, "paid", range(2, RUNS, 3))

        async with asyncio.TaskGroup() as group:
            group.create_task(meanwhile())
            group.create_task(afterwards())

        async def all_done() -> bool:
            return bool(await connection.fetchval("select count(*) from slayq.done_job") == RUNS)

        await wait_until(all_done, 60.0, "all runs being done")
    assert dict.fromkeys(range(RUNS), 1) == ended
    assert (0, 0) == tuple(
        await connection.fetchrow("select (select count(*) from slayq.job), (select count(*) from slayq.step)")
    )
