"""Signatures of protocol v1: lower-case hex of HMAC-SHA512 over the body's bytes, keyed by the secret's UTF-8 bytes."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from slayq.errors import InvalidSecret

if TYPE_CHECKING:
    from collections.abc import Sequence


def sign_v1(secret: str, body: bytes) -> str:
    """The signature of a body: 128 lower-case hex digits. Raises InvalidSecret."""
    return hmac.digest(_key(secret), body, "sha512").hex()


def verify_v1(secrets: Sequence[str], body: bytes, signature: str | None) -> bool:
    """Whether `signature` is the body's under any of the secrets (several while they are rotated).

    The time it takes tells neither how much of a signature is right nor which secret made it. Raises InvalidSecret.
    """
    given = (signature or "").encode("utf-8", "surrogatepass")
    valid = False
    for secret in secrets:
        valid |= hmac.compare_digest(sign_v1(secret, body).encode("ascii"), given)
    return valid


def _key(secret: str) -> bytes:
    if not secret:
        raise InvalidSecret(
            "the signing secret is empty: set SLAY_Q_SECRET to the one that the app and the server share"
        )
    try:
        return secret.encode("utf-8")
    except UnicodeEncodeError:
        pass  # Left first: that error carries the secret.
    raise InvalidSecret("the signing secret is not valid UTF-8: set SLAY_Q_SECRET to plain text")
