"""The six functions that stock apps call, as the catalogue has them: PostgREST calls them by these names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import asyncpg

SIGNATURES = {
    "add_worker_job": (
        "identifier text, payload json, queue_name text, run_at timestamp with time zone, max_attempts integer,"
        " job_key text, priority integer, flags text[], job_key_mode text"
    ),
    "wait_for_worker_event": (
        "_job_key text, _event text, _match_key text, _match_value text, _step_name text,"
        " _expires_at timestamp with time zone"
    ),
    "wait_for_invocation": "_invoker_job_key text, _target_job_key text, _step_name text",
    "trigger_waiting_workers": "_event text, _match_key text, _match_value text",
    "trigger_waiting_invoker": "_job_key text, _result json",
    "cancel_pending_tasks": "event text, matchkey text, matchval text",
}


@pytest.mark.parametrize("name", SIGNATURES)
async def test_signatures(connection: asyncpg.Connection, name: str) -> None:
    """Argument names, their order and types, and a void result; one function of each name."""
    (function,) = await connection.fetch(
        "select pg_get_function_identity_arguments(oid) as arguments, pg_get_function_result(oid) as result"
        " from pg_proc where pronamespace = 'public'::regnamespace and proname = $1",
        name,
    )
    assert (SIGNATURES[name], "void") == (function["arguments"], function["result"])


async def test_defaults(connection: asyncpg.Connection) -> None:
    """All but the first argument of add_worker_job may be left out: null, and replace."""
    defaults = await connection.fetchval(
        "select pg_get_expr(proargdefaults, 0) from pg_proc where proname = 'add_worker_job'"
    )
    nulls = [
        f"NULL::{type}" for type in ("json", "text", "timestamp with time zone", "integer", "text", "integer", "text[]")
    ]
    assert ", ".join([*nulls, "'replace'::text"]) == defaults
