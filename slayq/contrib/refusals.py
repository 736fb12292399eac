"""What adapters answer by themselves, before a request has a body that `SlayQ.receive` could look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from slayq.protocol_v2 import REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is known from the start; its body is JSON, as that of `receive` is."""

    status: int
    code: str
    message: str
    allow: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers."""
        allow = {} if self.allow is None else {"allow": self.allow}
        return {"content-type": "application/json", "content-length": str(len(self.body)), **allow}

    @property
    def body(self) -> bytes:
        """The answer's body."""
        return json.dumps({"error": {"code": self.code, "message": self.message}}).encode() + b"\n"


TOO_LARGE: Final = Refusal(413, "size", f"the body has more than {REQUEST_BYTES} bytes")
WRONG_METHOD: Final = Refusal(405, "method", "Slay Q's server sends POST requests here", allow="POST")
BROKEN_OFF: Final = Refusal(400, "request", "the body broke off")


class BodyRefused(Exception):
    """A body that is not to be read any further."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Body:
    """A body that is read piece by piece, as long as it is not too large."""

    def __init__(self, length: str | None) -> None:
        """`length` is what the header content-length says. Raises BodyRefused."""
        self._read = bytearray()
        if length is not None and length.isdecimal() and int(length) > REQUEST_BYTES:
            raise BodyRefused(TOO_LARGE)

    def add(self, piece: bytes) -> None:
        """Takes the next piece. Raises BodyRefused."""
        if len(self._read) + len(piece) > REQUEST_BYTES:
            raise BodyRefused(TOO_LARGE)
        self._read += piece

    def whole(self) -> bytes:
        """All that came."""
        return bytes(self._read)
