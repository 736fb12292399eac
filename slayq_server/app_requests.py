"""What apps ask of the daemon over HTTP: carried out in Postgres, and gone by here, so that nobody need be notified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slayq_server.engine.leasing import CANCEL_WORD, EVENTS_WORD, SCHEDULES_WORD

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from slayq_server.db.rpc import AppCalls
    from slayq_server.protocol.rpc_v1 import Call


class AppRequests:
    """Carries them out."""

    def __init__(
        self,
        calls: AppCalls,
        *,
        own_words: Callable[[], Sequence[str]],
        hear: Callable[[Collection[str]], None],
        go_by: Callable[[str], None],
    ) -> None:
        """Does nothing yet.

        Args:
            calls: the statements.
            own_words: the words by which this daemon goes at once.
            hear: called with those of them that came of a request.
            go_by: does what a word that is no queue's name asks for.
        """
        self._calls = calls
        self._own_words = own_words
        self._hear = hear
        self._go_by = go_by

    async def carry_out(self, call: Call) -> None:
        """Does what an app asks for (protocol v1)."""
        self._hear(await self._calls.carry_out(call, self._own_words()))

    async def send(self, events: str) -> list[str | None]:
        """Sends an app's events (JSON text of an array); the ids of their runs."""
        runs, heard = await self._calls.send(events, self._own_words())
        self._hear(heard)
        return runs

    async def register_app(self, manifest: str) -> str:
        """Registers an app's functions; JSON text of what it is told."""
        result, heard = await self._calls.register(manifest, self._own_words())
        self._hear(heard)
        self._go_by(SCHEDULES_WORD)  # where nothing listens, this daemon at least knows
        return result

    async def cancel_run(self, run: str) -> bool:
        """Cancels a run; whether there was one."""
        cancelled, heard = await self._calls.cancel(run, self._own_words())
        self._hear(heard)
        self._go_by(CANCEL_WORD)
        self._go_by(EVENTS_WORD)  # as when a run dies
        return cancelled
