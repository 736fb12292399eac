"""`slayq-server healthcheck`: asks a running daemon; for Docker's HEALTHCHECK, so it exits 0 or 1."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from slayq_server import settings
from slayq_server.cli.options import json_option
from slayq_server.cli.output import print_json, say
from slayq_server.config import HttpConfig, load
from slayq_server.errors import SlayQServerError

_MOST_READ = 64 * 1024
_PATH = "/healthz"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what a daemon that listens everywhere answers on)


@click.command()
@click.option("--url", metavar="URL", help="The daemon's address; default: from SLAY_Q_HTTP_BIND and SLAY_Q_HTTP_PORT.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="The daemon's configuration, which may say another port."
)
@click.option("--timeout", type=click.FloatRange(0.1, 300), default=3.0, show_default=True, help="Seconds to wait.")
@json_option
def healthcheck(url: str | None, config: Path | None, timeout: float, as_json: bool) -> int:
    """Ask a daemon whether it is healthy: GET /healthz. Exits 0 or 1."""
    if url is not None and not url.lower().startswith(("http://", "https://")):
        raise click.UsageError(f"--url wants http://HOST:PORT, not {url!r}", click.get_current_context())
    address = _configured_url(config) if url is None else url
    if not urlsplit(address).path.strip("/"):
        address = address.rstrip("/") + _PATH
    status, report, problem = _ask(address, timeout)
    healthy = status == 200
    if as_json:
        print_json({"url": address, "healthy": healthy, "status": status, "problem": problem, "report": report})
    elif healthy:
        say(f"{address} is healthy.")
    if not healthy:
        raise SlayQServerError(f"{address} is not healthy: {problem}")
    return 0


def _configured_url(config: Path | None) -> str:
    """Where the daemon of this environment, and of this configuration, listens."""
    environment = settings.load(need_database=False, need_secrets=False)
    http = load(config).http if config is not None else HttpConfig()
    bind = environment.http_bind or http.bind
    port = http.port if environment.http_port is None else environment.http_port
    host = _LOOPBACK.get(bind, bind)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _ask(url: str, timeout: float) -> tuple[int | None, Any, str | None]:
    """The status, the report, and what is wrong. Without a proxy, whatever the environment says."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        answer = connection.getresponse()
        body = answer.read(_MOST_READ)
    except (OSError, http.client.HTTPException) as error:
        return None, None, f"no answer: {error or type(error).__name__}"
    finally:
        connection.close()
    try:
        report = json.loads(body)
    except ValueError:
        report = None
    if answer.status == 200:
        return 200, report, None
    checks = report.get("checks", {}) if isinstance(report, dict) else {}
    failed = ", ".join(name for name, good in checks.items() if not good)
    return answer.status, report, f"it answers {answer.status}" + (f" (not so: {failed})" if failed else "")
