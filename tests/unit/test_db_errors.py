"""What Postgres says, in the server's words: what passes, and what is at fault."""

from __future__ import annotations

import asyncpg
import pytest

from slayq_server.db.errors import error_kind, translated
from slayq_server.errors import DatabaseUnavailable, StatementFailed


def of_state(state: str) -> asyncpg.PostgresError:
    """The error as the driver raises it."""
    return asyncpg.PostgresError.new({"C": state, "M": "it says so"})


@pytest.mark.parametrize(
    ("state", "reason", "kind"),
    [
        ("25006", "read_only", "read_only"),
        ("53100", "disk_full", "storage"),
        ("53300", "too_many_connections", "connection"),
        ("57014", "timeout", "timeout"),
        ("57P01", "shutting_down", "connection"),
        ("57P03", "starting", "connection"),
        ("58030", "io_error", "storage"),
        ("40P01", "40P01", "statement"),
    ],
)
async def test_what_passes_is_a_database_that_is_away(state: str, reason: str, kind: str) -> None:
    """It is waited for, and no statement is to blame."""
    error = of_state(state)
    with pytest.raises(DatabaseUnavailable) as raised, translated():
        raise error
    assert not isinstance(raised.value, StatementFailed)
    assert (reason, kind) == (raised.value.reason, error_kind(error))


async def test_a_refused_statement_is_named_by_its_state() -> None:
    """It would be refused again."""
    with pytest.raises(StatementFailed) as raised, translated():
        raise of_state("23514")
    assert "23514" == raised.value.reason
