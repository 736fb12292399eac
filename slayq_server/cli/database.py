"""How commands find the database and reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slayq_server import settings
from slayq_server.db.admin import Admin

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


def named_database(given: str | None) -> str:
    """The URL that the command line gives, or else the environment, or else the file .env.

    Raises:
        ConfigurationError: none does, or it is no URL of a database.
    """
    over: dict[str, Any] = {} if given is None else {"database_url": given}
    return settings.load(need_secrets=False, **over).database_url.get_secret_value()


def connected(given: str | None) -> AbstractAsyncContextManager[Admin]:
    """The statements of the command line, over a connection for the length of a command."""
    return Admin.connect(named_database(given))
