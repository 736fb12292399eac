"""The server's errors.

    SlayQServerError
    ├── ConfigurationError      slay-config.json or the environment is wrong (exit 78)
    ├── SchemaError             the database's schema is missing, newer, or was changed by hand (exit 78)
    ├── DatabaseUnavailable     Postgres cannot be reached, or went away (exit 69)
    │   └── StatementFailed     it is there, and refused a statement that it should have carried out (exit 1)
    ├── WorkerLost              this daemon's worker row has expired or is gone: nothing it holds may be trusted
    ├── ProcessesFailed         the processes of a server end as soon as they have started (exit as they do)
    ├── RequestRefused          the SQL API refused an argument (SQLSTATE class SQ0)
    └── NotFound                what a command names does not exist (exit 3)

Each message says what is wrong and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


_REFUSES_ALL = frozenset(
    {"disk_full", "io_error", "login_refused", "read_only", "shutting_down", "starting", "too_many_connections"}
)


class SlayQServerError(Exception):
    """Base of all errors that the server raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigurationError(SlayQServerError):
    """The configuration file or the environment is wrong; `problems` has one line for each thing to put right."""

    exit_code = 78

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class SchemaError(SlayQServerError):
    """The schema in the database does not fit this server."""

    exit_code = 78


class DatabaseUnavailable(SlayQServerError):
    """Postgres cannot be reached, does not answer, or cannot serve for now; `reason` says which, in a word or two."""

    exit_code = 69

    def __init__(self, message: str, reason: str = "unreachable") -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def refuses_all(self) -> bool:
        """However little it was asked for, it would have been too much."""
        return self.reason in _REFUSES_ALL

    @property
    def cannot_store(self) -> bool:
        """It is there, and some writes may still succeed where others find no room."""
        return self.reason in ("disk_full", "io_error")


class StatementFailed(DatabaseUnavailable):
    """Postgres refused a statement of this server's: a fault of the server, or of the database.

    The daemon deals with it as with an outage, because a loop that goes on trying is worth more to the other jobs than
    a daemon that dies of it; who could get stuck behind one bad row looks closer.
    """

    exit_code = 1


class WorkerLost(SlayQServerError):
    """The worker row has expired: its leases are no longer ours."""


class ProcessesFailed(SlayQServerError):
    """No process of the server stays up; the last one ended with `exit_code`, or was killed (1)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RequestRefused(SlayQServerError):
    """The SQL API refused an argument; `sqlstate` is one of class SQ0. `hint` says what to do, where there is one."""

    def __init__(self, reason: str, sqlstate: str, hint: str | None = None) -> None:
        super().__init__(reason if hint is None else f"{reason}. {hint}")
        self.sqlstate = sqlstate
        self.reason = reason
        self.hint = hint


class NotFound(SlayQServerError):
    """What was named does not exist."""

    exit_code = 3
