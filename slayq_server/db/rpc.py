"""Carries out what apps ask over HTTP: one statement each, through the functions behind the SQL API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from slayq_server.errors import DatabaseUnavailable, RequestRefused, StatementFailed
from slayq_server.protocol.rpc_v1 import AddJob, Cancel, TriggerEvent, TriggerInvoker, WaitForEvent, WaitForInvocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slayq_server.db.pool import Pool
    from slayq_server.protocol.rpc_v1 import Call


class AppCalls:
    """The calls' statements over a pool, of which they use no more than half, so that the engine has the rest."""

    def __init__(self, pool: Pool, *, at_once: int, turn_timeout: float = 10.0, lock_timeout: float = 5.0) -> None:
        """`at_once` calls are carried out at a time. The time limits are seconds: for a call's turn, and for a row or a
        lock that somebody else holds."""
        self._pool = pool
        self._turns = asyncio.Semaphore(at_once)
        self._turn_timeout = turn_timeout
        self._lock_timeout = f"{round(lock_timeout * 1000)}ms"

    async def carry_out(self, call: Call, own_words: Sequence[str]) -> tuple[str, ...]:
        """Carries a call out; which of its own words the caller is to go by now. Those are said to nobody else.

        Raises:
            RequestRefused: the SQL API refused an argument, or Postgres cannot read JSON that deep.
            DatabaseUnavailable: Postgres is away, or too busy, or something that the call needs is locked for too long.
            StatementFailed: Postgres refused for another reason.
        """
        statement, *arguments = _statement(call)
        (heard,) = await self._call(statement, own_words, *arguments)
        return tuple(heard)

    async def send(self, events: str, own_words: Sequence[str]) -> tuple[list[str | None], tuple[str, ...]]:
        """Sends events (JSON text of an array): the runs' ids, and the words. Raises as `carry_out`."""
        runs, heard = await self._call("send_events", own_words, events)
        return [None if run is None else str(run) for run in runs], tuple(heard)

    async def register(self, manifest: str, own_words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Registers an app's functions: JSON text of what the app is told, and the words. Raises as `carry_out`."""
        result, heard = await self._call("register_app", own_words, manifest)
        return result, tuple(heard)

    async def cancel(self, run: str, own_words: Sequence[str]) -> tuple[bool, tuple[str, ...]]:
        """Cancels a run: whether there was one, and the words. Raises as `carry_out`."""
        cancelled, heard = await self._call("cancel_run", own_words, run)
        return cancelled, tuple(heard)

    async def _call(self, statement: str, own_words: Sequence[str], *arguments: object) -> asyncpg.Record:
        try:
            async with asyncio.timeout(self._turn_timeout):
                await self._turns.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable("too many calls are waiting for the database") from error
        try:
            row = await self._pool.fetchrow(statement, list(own_words), self._lock_timeout, *arguments)
        except StatementFailed as error:
            if isinstance(error.__cause__, asyncpg.StatementTooComplexError):
                raise RequestRefused("the JSON is nested more deeply than Postgres can read", "SQ002") from error
            raise
        finally:
            self._turns.release()
        assert row is not None
        return row


def _statement(call: Call) -> tuple[str, *tuple[object, ...]]:
    """The name of a call's statement, and its arguments."""
    match call:
        case AddJob():
            return (
                "rpc_add_job",
                call.identifier,
                call.payload,
                call.queue_name,
                call.run_at,
                call.max_attempts,
                call.job_key,
                call.priority,
                None if call.flags is None else list(call.flags),
                call.job_key_mode,
            )
        case WaitForEvent():
            # Its time-out is its continuation's run_at, as in SQL.
            return (
                "rpc_wait_for_event",
                call.job_key,
                call.event,
                call.match_key,
                call.match_value,
                call.step_name,
            )
        case WaitForInvocation():
            return "rpc_wait_for_invocation", call.invoker_key, call.target_key, call.step_name
        case TriggerEvent():
            return "rpc_trigger_event", call.event, call.match_key, call.match_value
        case TriggerInvoker():
            return "rpc_trigger_invoker", call.job_key, call.result
        case Cancel():
            return "rpc_cancel", call.event, call.match_key, call.match_value
