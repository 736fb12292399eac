"""The channel between the supervisor and a process: questions both ways over one socket."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from slayq_server.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def joined(
    group: asyncio.TaskGroup, *answers: Callable[[str, Any], Awaitable[Any]]
) -> tuple[list[Channel], list[asyncio.Task[None]]]:
    """Both ends, open and running."""
    ends = [Channel(end, answer) for end, answer in zip(socket.socketpair(), answers, strict=True)]
    for end in ends:
        await end.open()
    return ends, [group.create_task(end.run()) for end in ends]


async def echo(what: str, data: Any) -> Any:
    """Answers what was asked."""
    return what, data


async def never(what: str, data: Any) -> Any:
    """Does not answer."""
    await asyncio.Event().wait()


async def test_both_ask_and_both_answer() -> None:
    """Many at a time, large ones too, each its own answer."""
    async with asyncio.TaskGroup() as group:
        (one, two), tasks = await joined(group, echo, echo)
        large = b"x" * 3_000_000
        asked = [end.ask("what", number, timeout=10) for number in range(50) for end in (one, two)]
        assert [("what", number) for number in range(50) for _ in range(2)] == await asyncio.gather(*asked)
        assert ("large", large) == await one.ask("large", large, timeout=10)
        tasks[0].cancel()
        await tasks[1]  # which sees the end


async def test_a_question_has_a_time_limit_and_holds_up_no_other() -> None:
    """One that is not answered."""

    async def some(what: str, data: Any) -> Any:
        return await (never if what == "never" else echo)(what, data)

    async with asyncio.TaskGroup() as group:
        (one, _), tasks = await joined(group, echo, some)
        with pytest.raises(TimeoutError):
            await one.ask("never", timeout=0.01)
        assert ("again", 1) == await one.ask("again", 1, timeout=10)
        for task in tasks:
            task.cancel()


async def test_whoever_waits_is_told_that_the_other_end_is_gone() -> None:
    """As is whoever asks later; what needs no answer is dropped."""
    async with asyncio.TaskGroup() as group:
        (one, _), tasks = await joined(group, echo, never)
        waiting = group.create_task(asyncio.wait_for(asyncio.shield(asked := group.create_task(_asks(one))), 10))
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert "closed" == await waiting == asked.result()
        await tasks[0]
        with pytest.raises(ChannelClosed):
            await one.ask("what", timeout=1)
        one.tell("what")


async def _asks(channel: Channel) -> str:
    try:
        await channel.ask("what", timeout=10)
    except ChannelClosed:
        return "closed"
    return "answered"
