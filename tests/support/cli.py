"""The command line, run in the test's own process: quicker by far than a process for each command."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slayq_server.cli import main
from tests.support.process import Finished

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Cli:
    """Runs commands against the test's own database, which the environment names."""

    capsys: pytest.CaptureFixture[str]

    async def __call__(self, *arguments: str) -> Finished:
        """Runs a command to its end."""
        self.capsys.readouterr()
        code = await asyncio.to_thread(main, list(arguments))
        printed = self.capsys.readouterr()
        return Finished(code, printed.out, printed.err)

    async def ok(self, *arguments: str) -> Finished:
        """Runs a command that must succeed, and say nothing on its standard error."""
        finished = await self(*arguments)
        assert (0, "") == (finished.code, finished.stderr), finished
        return finished

    async def json(self, *arguments: str) -> Any:
        """What a command that must succeed prints with `--json`."""
        return (await self.ok(*arguments, "--json")).json
