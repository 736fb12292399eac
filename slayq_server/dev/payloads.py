"""Payloads of the sample jobs."""

from __future__ import annotations

import json
from typing import Any


def payload(event: str, url: str, data: dict[str, Any]) -> str:
    """The JSON text of a payload."""
    return json.dumps({"url": url, "retry": 0, "event": event, "data": data})
