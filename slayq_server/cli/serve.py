"""`slayq-server serve`: the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import click
import structlog

from slayq_server import logs, settings
from slayq_server.cli.options import duration
from slayq_server.config import load
from slayq_server.errors import SchemaError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--grace", type=duration, metavar="DURATION", help="How long deliveries may run on once told to stop.")
@click.option(
    "--processes",
    type=click.IntRange(1, settings.MOST_PROCESSES),
    metavar="N",
    help="How many processes deliver, one a core at the most; a queue's limit is that of all of them together.",
)
@click.option("--host", metavar="ADDRESS", help="The address to listen on, over http.bind.")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port to listen on, over http.port; 0: any free one.")
@click.option("--log-format", type=click.Choice(settings.LOG_FORMATS), help="auto: pretty on a terminal, else JSON.")
@click.option("--log-level", type=click.Choice(settings.LOG_LEVELS), help="The least that is logged.")
@click.option(
    "--skip-migrate", is_flag=True, help="Refuse to start on a schema that is not up to date, in place of migrating it."
)
def serve(
    config: Path,
    grace: float | None,
    processes: int | None,
    host: str | None,
    port: int | None,
    log_format: str | None,
    log_level: str | None,
    skip_migrate: bool,
) -> int:
    """Run the daemon.

    The database and the secret come from SLAY_Q_DATABASE_URL and SLAY_Q_SECRET, also from a .env file here. SIGTERM
    and Ctrl-C drain, a second one hurries; SIGHUP loads CONFIG, .env and the file of secrets again. A database that is
    away is waited for, but with --skip-migrate it must be there at the start. With --processes, signals are for all.
    """
    options = {
        "grace": grace,
        "processes": processes,
        "http_bind": host,
        "http_port": port,
        "log_format": log_format,
        "log_level": log_level,
    }
    given: dict[str, Any] = {name: str(value) for name, value in options.items() if value is not None}

    def load_settings() -> settings.Settings:
        return settings.load(**given)

    environment = load_settings()
    logs.configure(cast("logs.LogFormat", environment.log_format), cast("logs.LogLevel", environment.log_level))
    loaded = load(config)
    for warning in settings.unknown_variables():
        structlog.get_logger().warning("unknown_variable", message=warning)
    if skip_migrate:
        asyncio.run(_require_schema(environment.database_url.get_secret_value()))
    if environment.processes > 1:
        from slayq_server import supervisor

        return asyncio.run(supervisor.supervise(loaded, environment, config_path=config, reload_settings=load_settings))
    from slayq_server import daemon  # not for `--help`, or for a configuration that is wrong
    from slayq_server.loop import run_fast

    return run_fast(daemon.serve(loaded, environment, config_path=config, reload_settings=load_settings))


async def _require_schema(url: str) -> None:
    """Raises SchemaError unless the schema is up to date, so that the daemon will find nothing to migrate."""
    from slayq_server.db.admin import Admin  # the supervisor needs no database

    async with Admin.connect(url) as admin:
        pending = await admin.pending_migrations()
    if pending:
        raise SchemaError(f"the schema lacks {', '.join(pending)}. Run, as its owner: slayq-server migrate")
