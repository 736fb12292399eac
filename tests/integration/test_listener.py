"""LISTEN while Postgres is away: when it is tried again."""

from __future__ import annotations

import asyncio

from slayq_server.db.listener import Listener

TRIES = 14
"""By themselves they would take more than half a minute."""


async def test_it_is_tried_again_as_soon_as_the_database_answers_somebody(unused_port: int) -> None:
    """The pause between two tries grows up to 5 s; word that Postgres is back ends each of them."""
    tries: list[bool] = []
    enough = asyncio.Event()

    def changed(connected: bool) -> None:
        tries.append(connected)
        if len(tries) == TRIES:
            enough.set()
        asyncio.get_running_loop().call_later(0.01, listener.database_answers)

    async def knock(channel: str) -> None:
        raise AssertionError(f"nothing can listen to {channel}")

    url = f"postgresql://nobody:nothing@127.0.0.1:{unused_port}/nowhere"
    listener = Listener(url, lambda _: None, changed, knock=knock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(listener.run())
        async with asyncio.timeout(15):
            await enough.wait()
        task.cancel()
    assert not any(tries)
