"""The environment: SLAY_Q_… variables, also from a `.env` in the working directory (the environment counts more).

What can stand in slay-config.json as well goes over it: see `slayq_server.config.effective`. An empty variable is as
good as none. In a duration a bare number is seconds, as in the file.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from slayq_server.config.addresses import postgres_url
from slayq_server.config.cron import HTTP_URL
from slayq_server.config.problems import failure
from slayq_server.config.process import GRACE, HTTP_BIND, HTTP_PORT, HTTP_TOKEN, LISTEN_URL, POLL_ONLY, POOL_SIZE
from slayq_server.config.rules import Choice, Refused, Rule, Secret, Text, Whole, nearest, printable, unusable_text

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "SLAY_Q_"
ENV_FILE: Final = Path(".env")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("json", "pretty", "auto")
MOST_PROCESSES: Final = 64
PROCESSES: Final = Whole(1, MOST_PROCESSES)
_MOST_SECRETS: Final = 10
_LARGEST_FILE: Final = 65_536
_OURS: Final = re.compile(r"SLAY_?Q_?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment sets. None: it does not, and the file or the default counts. No secret is in its repr."""

    database_url: SecretStr
    secrets: tuple[SecretStr, ...]
    """Newest first: callbacks are signed with the first, what comes in may be signed with any."""
    cron_url: str | None = None
    listen_url: SecretStr | None = None
    http_bind: str | None = None
    http_port: int | None = None
    http_tokens: tuple[SecretStr, ...] | None = None
    log_level: str = "info"
    log_format: str = "auto"
    grace: float | None = None
    """Seconds."""
    poll_only: bool | None = None
    pool_size: int | None = None
    processes: int = 1


@dataclass(frozen=True, slots=True)
class _FromText(Rule):
    """A rule for the text of a variable."""

    rule: Rule

    @property
    def wanted(self) -> str:
        return self.rule.wanted

    def check(self, value: object) -> Any:
        if not isinstance(value, str):
            return self.rule.check(value)
        # Blanks may be a part of a secret, but of nothing else.
        return self.rule.read(value if isinstance(self.rule, Secret | _Secrets) else value.strip())

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class _Secrets(Rule):
    """One secret, or a JSON array of them, newest first."""

    rule: Secret

    @property
    def wanted(self) -> str:
        return f'{self.rule.wanted}, or several, newest first, as a JSON array: ["new", "old"]'

    def check(self, value: object) -> tuple[SecretStr, ...]:
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = self._array(value)
        items = value if isinstance(value, list | tuple) else [value]
        if not 1 <= len(items) <= _MOST_SECRETS:
            raise Refused(f"must have 1 to {_MOST_SECRETS} values, not {len(items)}")
        return tuple(dict.fromkeys(self.rule.check(item) for item in items))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "writeOnly": True}

    def _array(self, text: str) -> list[object]:
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if not isinstance(items, list):
            raise Refused('begins with [ but is no JSON array: write ["new", "old"], or for one such value ["[…"]')
        return items


_SECRET: Final = Secret("the secret that the app has, too")


class Environment(BaseSettings):
    """The variables as they are, each checked on its own."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        validate_default=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: Annotated[
        SecretStr | None, _FromText(Secret("postgresql://user:password@host:5432/database", take=postgres_url))
    ] = None
    """The database."""
    secret: Annotated[tuple[SecretStr, ...], NoDecode, _FromText(_Secrets(_SECRET))] = ()
    """What callbacks are signed with, or a JSON array of such, newest first."""
    worker_secret: Annotated[tuple[SecretStr, ...], NoDecode, _FromText(_Secrets(_SECRET))] = ()
    """The same, by the name that the app side has for it."""
    secret_file: Annotated[str | None, _FromText(Text("the path of a file with a secret on each line", 4096))] = None
    """A file with one secret a line, newest first, in place of the two above."""
    cron_url: Annotated[str | None, _FromText(HTTP_URL)] = None
    """Where the minute tick goes, and what a schedule without a URL posts to."""
    listen_url: Annotated[SecretStr | None, _FromText(LISTEN_URL)] = None
    """Over database.listen_url."""
    http_bind: Annotated[str | None, _FromText(HTTP_BIND)] = None
    """Over http.bind."""
    http_port: Annotated[int | None, _FromText(HTTP_PORT)] = None
    """Over http.port."""
    http_tokens: Annotated[tuple[SecretStr, ...] | None, NoDecode, _FromText(_Secrets(HTTP_TOKEN))] = None
    """Over http.tokens: one, or a JSON array, newest first."""
    log_level: Annotated[str, _FromText(Choice(LOG_LEVELS))] = "info"
    """The least that is logged."""
    log_format: Annotated[str, _FromText(Choice(LOG_FORMATS))] = "auto"
    """How: auto is pretty on a terminal, JSON elsewhere."""
    grace: Annotated[float | None, _FromText(GRACE)] = None
    """Over grace."""
    poll_only: Annotated[bool | None, _FromText(POLL_ONLY)] = None
    """Over database.poll_only."""
    pool_size: Annotated[int | None, _FromText(POOL_SIZE)] = None
    """Over database.pool_size."""
    processes: Annotated[int, _FromText(PROCESSES)] = 1
    """How many processes deliver."""


VARIABLES: Final = tuple(PREFIX + name.upper() for name in Environment.model_fields)
"""Every variable that is read."""


def load(
    env_file: Path | None = ENV_FILE, *, need_database: bool = True, need_secrets: bool = True, **given: str | None
) -> Settings:
    """Reads the environment.

    Args:
        env_file: read where it is there; the environment counts more.
        need_database: that there is none is an error; else `database_url` may be empty.
        need_secrets: that there is none is an error; else `secrets` may be.
        given: variables by their names without the prefix, in lower case, over all others: from the command line. None
            stands for one that was not given.

    Raises:
        ConfigurationError: a variable is wrong or missing; the message names it and never shows a secret.
    """
    environment = _read(env_file, {name: value for name, value in given.items() if value is not None})
    secrets, problems = _secrets(environment)
    if need_secrets and not secrets and not problems:
        problems.append("SLAY_Q_SECRET: is not set, or empty: set it to the secret that the app has, too")
    if need_database and environment.database_url is None:
        problems.append(
            "SLAY_Q_DATABASE_URL: is not set, or empty: set it to postgresql://user:password@host:5432/database"
        )
    if problems:
        raise failure("the environment", problems)
    values = environment.model_dump(exclude={"database_url", "secret", "worker_secret", "secret_file"})
    return Settings(database_url=environment.database_url or SecretStr(""), secrets=secrets, **values)


def unknown_variables(environ: Mapping[str, str] | None = None, env_file: Path | None = ENV_FILE) -> list[str]:
    """A warning for each variable that looks like one of ours and is none, with the one that may have been meant."""
    names = [*(os.environ if environ is None else environ), *_file_names(env_file)]
    warnings = []
    for name in dict.fromkeys(names):
        match = _OURS.match(name)
        if match is None or name.upper() in VARIABLES:
            continue
        known = {variable.removeprefix(PREFIX): variable for variable in VARIABLES}
        near = _nearest_variable(name[match.end() :].upper(), known)
        hint = f"did you mean {near}?" if near else f"the variables are {', '.join(VARIABLES)}"
        warnings.append(f"{printable(name)} is no setting, and does nothing: {hint}")
    return warnings


def _nearest_variable(rest: str, known: Mapping[str, str]) -> str | None:
    """The variable that ends in this word (PORT: HTTP_PORT), or else the one nearest to it."""
    near = rest if rest in known else next((name for name in known if rest and name.endswith(f"_{rest}")), None)
    near = near or nearest(rest, known)
    return known[near] if near else None


def _read(env_file: Path | None, given: Mapping[str, str]) -> Environment:
    try:
        return Environment(_env_file=env_file, **given)  # type: ignore[call-arg,arg-type]
    except ValidationError as error:
        problems = [
            f"{PREFIX}{str(found['loc'][0]).upper()}: {found['msg']}"
            for found in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    except UnicodeDecodeError:
        problems = [f"{env_file}: is not UTF-8: save it as UTF-8"]
    except OSError as error:
        problems = [f"{env_file}: cannot be read ({error.strerror}): let this user read it, or take it away"]
    raise failure("the environment", problems)


def _secrets(environment: Environment) -> tuple[tuple[SecretStr, ...], list[str]]:
    """The secrets of the one place that has them, and what is wrong."""
    places = {
        "SLAY_Q_SECRET": environment.secret,
        "SLAY_Q_WORKER_SECRET": environment.worker_secret,
    }
    problems = []
    if environment.secret_file is not None:
        try:
            places["SLAY_Q_SECRET_FILE"] = _secrets_in(Path(environment.secret_file))
        except Refused as refused:
            problems.append(f"SLAY_Q_SECRET_FILE: {printable(environment.secret_file)} {refused}")
    found = {name: secrets for name, secrets in places.items() if secrets}
    if len(set(found.values())) > 1:
        problems.append(f"{' and '.join(found)} have different secrets: set only one of them")
    return next(iter(found.values()), ()), problems


def _secrets_in(path: Path) -> tuple[SecretStr, ...]:
    """The lines of a file that are not blank, without the blanks round them. Raises Refused."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise Refused("is not there: create it, or correct the path") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no path"
        raise Refused(f"cannot be read ({why}): let this user read it") from None
    try:
        lines = [line.strip() for line in content.decode("utf-8").split("\n")]
    except UnicodeDecodeError:
        lines = None
    if lines is None or len(content) > _LARGEST_FILE or any(unusable_text(line) for line in lines):
        raise Refused("is no text file of one secret a line")
    secrets = tuple(dict.fromkeys(SecretStr(line) for line in lines if line))
    if not 1 <= len(secrets) <= _MOST_SECRETS:
        raise Refused(f"must have 1 to {_MOST_SECRETS} secrets, one a line, not {len(secrets)}")
    return secrets


def _file_names(env_file: Path | None) -> list[str]:
    """The names that a .env file sets; none where it cannot be read, which `load` tells."""
    try:
        return list(dotenv_values(env_file)) if env_file is not None and env_file.is_file() else []
    except (OSError, UnicodeDecodeError):
        return []
