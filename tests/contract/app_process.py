"""The stand-in's process: started, told what to do, and its log read."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.endpoint import SECRET
from tests.support.npm import node, npm_project
from tests.support.process import Program
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack

HERE = Path(__file__).parent
Entry = dict[str, Any]
"""A line of the log."""


@dataclass(frozen=True)
class Setting:
    """What a world is made of."""

    variant: str
    """`python` or `node`."""
    driver: str
    """`postgres` or `rpc`."""
    daemons: int = 1
    kills: int = 0
    """How many daemons are killed while the scenarios run; they run again and again until then."""

    def __str__(self) -> str:
        return f"{self.variant}-{self.driver}" + (f"-{self.daemons}-daemons" if self.daemons > 1 else "")


@dataclass
class App:
    """The stand-in: its process, and what its log says so far."""

    setting: Setting
    database_url: str
    folder: Path
    stack: ExitStack
    command: list[str] = field(init=False)
    environment: dict[str, str] = field(init=False)
    """What the process needs of its own."""
    entries: list[Entry] = field(default_factory=list)
    port: int = 0
    program: Program | None = None
    _bases: list[str] = field(default_factory=list)
    _read: int = 0
    _starts: int = 0

    def __post_init__(self) -> None:
        """Skips or fails the test where Node is needed and missing."""
        if self.setting.variant == "node":
            self.command = [node(), str(HERE / "node" / "app.mjs")]
            self.environment = {"STANDIN_PACKAGES": str(npm_project(HERE / "node"))}
        else:
            self.command = [sys.executable, "-m", "tests.contract.app"]
            self.environment = {}

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where callbacks go."""
        return f"{self.origin}/slayq"

    async def start(self) -> None:
        """Starts the process, again at the same port, and waits until it listens."""
        env = {
            "STANDIN_DRIVER": self.setting.driver,
            "STANDIN_LOG": str(self._log),
            **self.environment,
            "STANDIN_PATIENCE": "30" if self.setting.kills else "0",
            "STANDIN_PORT": str(self.port),
            "STANDIN_BASES": json.dumps(self._bases),
            "SLAY_Q_DATABASE_URL": self.database_url,
            "SLAY_Q_WORKER_SECRET": SECRET,
        }
        self._starts += 1
        self.program = program = self.stack.enter_context(
            Program(self.folder / f"app-{self._starts}", command=self.command, env=env)
        )

        def listening() -> list[int]:
            assert program.code is None, program.report()
            self.entries += self.news()
            ports = [entry["port"] for entry in self.entries if entry["kind"] == "listening"]
            return ports if len(ports) == self._starts else []

        self.port = (await wait_until(listening, 20.0, "the app to listen"))[-1]
        await self.connect(self._bases)

    @property
    def _log(self) -> Path:
        return self.folder / "app.log"

    def news(self) -> list[Entry]:
        """What has been logged since the last time; the caller adds it to `entries`."""
        if not self._log.exists():
            return []
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    async def control(self, **asked: Any) -> Any:
        """Tells the app to do something; what it gives."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
            session.post(f"{self.origin}/control", json=asked) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def connect(self, bases: list[str]) -> None:
        """Tells the app where the daemons' HTTP servers are."""
        self._bases = bases
        await self.control(do="connect", bases=bases)
