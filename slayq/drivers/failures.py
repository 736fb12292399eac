"""What a driver's failure means, in one place: SQLSTATEs, codes of the HTTP API and of PostgREST, HTTP statuses.

The same mistake is the same error, with the same code, message and hint, whichever driver it was made with.
"""

from __future__ import annotations

import contextlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from slayq.errors import (
    InvalidEvent,
    RegistrationFailed,
    SendFailed,
    SlayQError,
    Unauthorized,
    Unavailable,
    UnknownEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Doing(Enum):
    """What was asked of the server."""

    SEND = "send"
    CANCEL = "cancel"
    REGISTER = "register"

    @property
    def refused(self) -> type[SendFailed]:
        """The error for an argument that cannot be taken."""
        return {Doing.SEND: InvalidEvent, Doing.REGISTER: RegistrationFailed}.get(self, SendFailed)


class NothingSent(Unavailable):
    """The server cannot be reached, and did not get to hear what was asked of it: asking again is safe."""


_BY_CODE: Final[dict[str, type[SendFailed]]] = {
    "SQ010": UnknownEvent,
    "SQ012": RegistrationFailed,
    "SQ013": RegistrationFailed,
    "42501": Unauthorized,
    "signature": Unauthorized,
    "timestamp": Unauthorized,
}
_BY_PREFIX: Final[tuple[tuple[tuple[str, ...], type[SendFailed]], ...]] = (
    (("PGRST0",), Unavailable),
    (("PGRST3", "28"), Unauthorized),
    # Classes of SQLSTATE that pass: connections, read-only after a failover, rollbacks, resources, locks, operators,
    # the system. Classes, because newer servers have conditions that are not known here.
    (("08", "25006", "40", "53", "55", "57", "58", "XX"), Unavailable),
)
_BAD_ARGUMENT: Final = ("SQ0", "22", "54", "PGRST102")
"""An error that depends on what was asked. 22 is a value that Postgres cannot read, 54 one that is too deep."""
_NO_SCHEMA: Final = ("42883", "42P01", "3F000", "PGRST202", "PGRST205", "PGRST106")
_ADVICE: Final = {
    "42501": "run, as the owner of the schema: slayq-server migrate --app-role ROLE",
    "25P02": "a statement before this one failed: roll the transaction back",
    "3D000": "check the name of the database",
}


def failure(
    code: str | None, message: str, hint: str | None = None, *, doing: Doing, status: int | None = None
) -> SendFailed:
    """The error for what a server said: an SQLSTATE or a code of an HTTP API, else the HTTP status."""
    if code in _NO_SCHEMA:
        return SendFailed(
            f"the database has no Slay Q schema, or an older one than this SDK needs: {message}",
            code=code,
            hint="run: slayq-server migrate",
        )
    error = _class_of(code, doing) or _class_of_status(status, doing) or SendFailed
    return error(message, code=code or None, hint=hint or _ADVICE.get(code or ""))


def _class_of(code: str | None, doing: Doing) -> type[SendFailed] | None:
    if not code:
        return None
    if code in _BY_CODE:
        return _BY_CODE[code]
    for prefixes, error in _BY_PREFIX:
        if code.startswith(prefixes):
            return error
    return doing.refused if code.startswith(_BAD_ARGUMENT) else None


def _class_of_status(status: int | None, doing: Doing) -> type[SendFailed] | None:
    match status:
        case 401 | 403:
            return Unauthorized
        case 400 | 413 | 422:
            return doing.refused
        case 408 | 429 | 502 | 503 | 504:
            return Unavailable
        case int() if 520 <= status < 530:  # Cloudflare's, for a server behind it that is away
            return Unavailable
        case _:
            return None


@contextlib.contextmanager
def translated(doing: Doing) -> Iterator[None]:
    """Raises our errors in place of those of a Postgres driver, of SQLAlchemy or of Django; lets all others pass."""
    try:
        yield
    except SlayQError:
        raise
    except Exception as error:
        ours = of_postgres(error, doing)
        if ours is None:
            raise
        raise ours from error


def of_postgres(error: BaseException, doing: Doing) -> SendFailed | None:
    """Our error for one of a Postgres driver, whichever it is; None for one that says nothing of the database.

    Drivers are told apart by what their errors have, as none of them need be installed.
    """
    said = [each for each in _chain(error) if _state(each)]
    if said:
        # The innermost has the server's own words; what is around it quotes them.
        return _of_statement(said[-1], doing)
    if isinstance(error, TimeoutError):
        return Unavailable("Postgres did not answer in time")
    if isinstance(error, OSError) or any(map(_is_of_the_connection, _chain(error))):
        return Unavailable(f"there is no working connection to Postgres: {error or type(error).__name__}")
    return None


def _is_of_the_connection(error: BaseException) -> bool:
    """Whether it is one of the two that the DB-API has for this, or of the two that asyncpg has."""
    names = {base.__name__ for base in type(error).__mro__}
    return not names.isdisjoint({"OperationalError", "InterfaceError", "InternalClientError"})


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it: SQLAlchemy keeps the driver's as `orig`, Django and dialects as the cause."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = getattr(each, "orig", None) or each.__cause__


def _state(error: Any) -> str | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def _of_statement(error: Any, doing: Doing) -> SendFailed:
    diagnosis = getattr(error, "diag", None)  # psycopg has them apart, asyncpg as the error itself
    message = getattr(diagnosis, "message_primary", None) or str(error.args[0] if error.args else error)
    hint = getattr(diagnosis, "message_hint", None) or getattr(error, "hint", None)
    return failure(_state(error), message, hint, doing=doing)
