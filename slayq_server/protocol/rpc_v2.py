"""What an app asks over HTTP (protocol v2): from the bytes of a body to what the SQL functions take, and nothing else.

Texts of JSON are cut out of the body as they are spelled. All rules but the outermost form are those of the SQL
functions, which apply to whoever calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from slayq_server.protocol.js_json import kind_of, parse
from slayq_server.protocol.rpc_v1 import InvalidBody, members_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_events(body: bytes) -> str:
    """The JSON text of the array of events that a body holds; raises InvalidBody."""
    text = members_of(body).get("events")
    if text is None:
        raise InvalidBody("events: is missing: send an array of events")
    if not text.startswith("["):
        raise InvalidBody(f"events: must be an array of events, not {kind_of(parse(text))}")
    return text


def read_manifest(body: bytes) -> str:
    """The JSON text of a manifest; raises InvalidBody."""
    members_of(body)
    return body.decode("utf-8")


def crons_of(manifest: str) -> Iterator[tuple[str, str]]:
    """The events and cron lines of a manifest's functions, as far as there are such."""
    value = parse(manifest)
    functions = value.get("functions") if isinstance(value, dict) else None
    for function in functions if isinstance(functions, list) else []:
        match function:
            case {"event": str(event), "cron": str(cron)}:
                yield event, cron


def read_cancel(body: bytes) -> str:
    """The id of the run that is to be cancelled; raises InvalidBody."""
    value = parse(members_of(body).get("run", "null"))
    try:
        return str(UUID(value if isinstance(value, str) else ""))
    except ValueError:
        raise InvalidBody("run: must be the id of a run, as sending its event returned it") from None
