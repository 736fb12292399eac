"""docs/start.md, from its first command to its last: with the real server, the real app, and nothing in between."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
import urllib.request
from typing import TYPE_CHECKING

from tests.docs.pages import PAGES, blocks_of
from tests.support.process import Program, run_program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Connect

PAGE = PAGES["start.md"].read_text(encoding="utf-8")
ORIGIN = "http://127.0.0.1:8000"
ASLEEP = """
select s.state = 'pending' from slayq.step s join slayq.job j on j.id = s.job_id
where j.run_id = $1::text::uuid and s.name = 'rest'
"""


async def test_the_five_minutes(tmp_path: Path, empty_database_url: str, connect: Connect, unused_port: int) -> None:
    """The app prints what the page says it prints, killed or not, and the commands that look at runs find it."""
    origin = f"http://127.0.0.1:{unused_port}"
    (code,) = [block.code for block in blocks_of("start.md", "python") if block.module == "shop"]
    home = tmp_path / "app"
    home.mkdir()
    (home / "shop.py").write_text(code.replace(ORIGIN, origin))
    allow = re.findall(r"^    slayq-server dev (.*)$", PAGE, re.MULTILINE)[0].replace(ORIGIN, origin).split()
    connection = await connect(empty_database_url)
    with Program(tmp_path / "dev", "dev", "--database", empty_database_url, *allow) as dev:
        await dev.wait_for_output("sent a first job", timeout=60)
        exported = (tmp_path / "dev" / ".slayq" / "env").read_text()
        env = dict(words.split("=", 1) for line in exported.splitlines() for words in shlex.split(line)[1:])
        uvicorn = (sys.executable, "-u", "-m", "uvicorn", "shop:app", "--port", str(unused_port))
        with Program(home, env={**env, "PATH": os.environ["PATH"]}, command=uvicorn) as app:
            await app.wait_for_output("Uvicorn running on")
            await order(origin, "A-17")
            await app.wait_for_output("mailing", timeout=60)
            assert printed("A-17") == said(app, "A-17")

            functions = await run_program(tmp_path / "functions", "functions", "--json", env=env)
            apps = {each["event"]: each["app"] for each in functions.json["functions"]}
            assert ["shop/order.placed"] == [event for event, app_name in apps.items() if app_name == "shop"]
            listed = await run_program(tmp_path / "runs", "runs", "list", "--json", env=env)
            assert 0 == listed.code

            # And killed in the middle of its sleep: it goes on where it was.
            run = await order(origin, "A-18")
            await app.wait_for_output("for 3 units of A-18")
            await wait_until(lambda: connection.fetchval(ASLEEP, run), 30)
            app.send_signal(signal.SIGKILL)
            await app.wait()
        with Program(tmp_path / "again", env={**env, "PYTHONPATH": str(home)}, command=uvicorn) as app:
            await app.wait_for_output("mailing receipt-A-18", timeout=60)
            assert ["mailing receipt-A-18 to ann@example.com"] == said(app, "A-18")
        dev.terminate()
        assert 0 == await dev.wait()


def said(app: Program, order_id: str) -> list[str]:
    """What it has printed of an order, without uvicorn's lines."""
    return [line for line in app.stdout.splitlines() if order_id in line and not line.startswith("INFO")]


def printed(order_id: str) -> list[str]:
    """What the page says the app prints."""
    block = PAGE[PAGE.index("the app prints:") :]
    lines = re.findall(r"^    (.*)$", block[: block.index("\n- ")], re.MULTILINE)
    assert len(lines) == 5
    return [line.replace("A-17", order_id) for line in lines]


async def order(origin: str, order_id: str) -> str:
    """What the page does with curl; the run's id."""
    request = urllib.request.Request(f"{origin}/orders/{order_id}", method="POST")

    def post() -> str:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read())

    return re.findall(r'"run":"([^"]+)"', await asyncio.to_thread(post))[0]
