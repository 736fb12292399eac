"""The loop in the background, for code that is not async: who may wait for it, and what a fork leaves of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slayq import SlayQ
from slayq.background import background

FORKED = """
import asyncio, os, signal
from slayq.background import background
from slayq.drivers.loops import PerLoop

closed = []

async def close(thing):
    closed.append(thing)

things = PerLoop(object, close)

async def mine():
    return things.get()

parents = background.run(mine())
child = os.fork()
if not child:
    signal.alarm(30)  # a child that hangs is ended by it

    async def end():
        await things.close()

    asyncio.run(end())
    childs = background.run(mine())
    background.run(end())
    os._exit(0 if closed == [childs] and childs is not parents else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), background.run(mine()) is parents)
"""


def test_a_fork_leaves_the_parent_s_connections_alone() -> None:
    """As under a server that loads the app and then forks: a child closes its own, and does not wait for the parent's
    loop, which does not run there."""
    found = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True)
    assert "0 True\n" == found.stdout


def test_a_sync_method_in_the_background_s_own_loop_is_refused() -> None:
    """There, as in coroutine functions under WSGI, it would wait for itself for ever, and all other runs with it."""
    sq = SlayQ(secret="secret")

    async def body() -> None:
        sq.send_event_sync("shop/placed")

    with pytest.raises(RuntimeError, match="await the method that does not end in _sync"):
        background.run(body())
