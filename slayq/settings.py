"""What the SDK reads from the environment: secrets as the server reads them, and the way to the server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slayq.errors import InvalidDefinition, InvalidSecret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slayq.drivers import Driver

SECRET_VARIABLES: Final = ("SLAY_Q_SECRET", "SLAY_Q_WORKER_SECRET")
SECRET_FILE_VARIABLE: Final = "SLAY_Q_SECRET_FILE"  # noqa: S105 - a name, no secret


def secrets_from(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The signing secrets, newest first: of SLAY_Q_SECRET or SLAY_Q_WORKER_SECRET, else of SLAY_Q_SECRET_FILE.

    A variable holds one secret or a JSON array of them, a file one a line. Raises InvalidSecret if there is none.
    """
    for variable in SECRET_VARIABLES:
        if environment.get(variable):
            return secrets_of(environment[variable])
    path = environment.get(SECRET_FILE_VARIABLE)
    if path:
        try:
            lines = Path(path).read_text("utf-8").split("\n")
        except (OSError, ValueError):
            raise InvalidSecret(f"the file that {SECRET_FILE_VARIABLE} names cannot be read as text") from None
        return secrets_of([line.strip() for line in lines if line.strip()])
    raise InvalidSecret("there is no signing secret: set SLAY_Q_SECRET to the one that the server has, too")


def secrets_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Secrets, newest first, from one text (a secret, or a JSON array of them) or several. Raises InvalidSecret."""
    secrets: object = given
    if isinstance(given, str):
        secrets = [given]
        if given.lstrip().startswith("["):
            try:
                secrets = json.loads(given)
            except ValueError:
                raise InvalidSecret(
                    'the signing secret begins with [ but is no JSON array: write ["new", "old"]'
                ) from None
    if (
        not isinstance(secrets, list | tuple)
        or not secrets
        or not all(isinstance(each, str) and each for each in secrets)
    ):
        raise InvalidSecret("the signing secrets are not one or more texts, none of them empty: set SLAY_Q_SECRET")
    return tuple(dict.fromkeys(secrets))


def driver_from(environment: Mapping[str, str] = os.environ) -> Driver:
    """The driver that the environment asks for. Raises InvalidDefinition if it does for none, and MissingExtra.

    SLAY_Q_DATABASE_URL: the database. Else SLAY_Q_RPC_URL: the daemon over HTTP. Else SLAY_Q_SUPABASE_URL with
    SLAY_Q_SUPABASE_KEY: Supabase.
    """
    if environment.get("SLAY_Q_DATABASE_URL"):
        from slayq.drivers.postgres import PostgresDriver

        return PostgresDriver(environment["SLAY_Q_DATABASE_URL"])
    if environment.get("SLAY_Q_RPC_URL"):
        from slayq.drivers.rpc import RpcDriver

        return RpcDriver(environment["SLAY_Q_RPC_URL"], secrets_from(environment))
    if environment.get("SLAY_Q_SUPABASE_URL"):
        from slayq.drivers.supabase import SupabaseDriver

        if not environment.get("SLAY_Q_SUPABASE_KEY"):
            raise InvalidDefinition(
                "SLAY_Q_SUPABASE_URL is set without SLAY_Q_SUPABASE_KEY: set that to a secret key, too"
            )
        return SupabaseDriver(environment["SLAY_Q_SUPABASE_URL"], environment["SLAY_Q_SUPABASE_KEY"])
    raise InvalidDefinition(
        "there is no way to the server: pass driver=, or set SLAY_Q_DATABASE_URL, SLAY_Q_RPC_URL or SLAY_Q_SUPABASE_URL"
    )
