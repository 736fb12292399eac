"""The environment over the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slayq_server.config.document import Config
from slayq_server.config.problems import failure, path_text, problems_of

if TYPE_CHECKING:
    from slayq_server.settings import Settings

_SOURCE = "the configuration, with the environment over it"


def effective(config: Config, settings: Settings) -> Config:
    """The configuration that counts: what the environment sets goes over what the file says.

    Every schedule has its URL afterwards. Raises ConfigurationError for what is wrong only together.
    """
    homeless = [path_text(("cron", index, "url")) for index, entry in enumerate(config.cron) if entry.url is None]
    if homeless and settings.cron_url is None:
        why = "is missing: set it, or SLAY_Q_CRON_URL for all schedules without one"
        raise failure(_SOURCE, [f"{path}: {why}" for path in homeless])
    http = {"bind": settings.http_bind, "port": settings.http_port, "tokens": settings.http_tokens}
    database = {
        "pool_size": settings.pool_size,
        "poll_only": settings.poll_only,
        "listen_url": settings.listen_url,
    }
    document = {
        **dict(config),
        "cron": tuple(entry.model_copy(update={"url": entry.url or settings.cron_url}) for entry in config.cron),
        "http": {**dict(config.http), **_given(http)},
        "database": {**dict(config.database), **_given(database)},
        **_given({"grace": settings.grace}),
    }
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        problems = problems_of(error, Config)
    raise failure(_SOURCE, problems)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
