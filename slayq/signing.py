"""Signatures of both protocols.

v1: lower-case hex of HMAC-SHA512 over the body's bytes, keyed by the secret's UTF-8 bytes.
v2: Standard Webhooks, which is HMAC-SHA256 over an id, a time and the body, in base64, once for each secret.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import TYPE_CHECKING, Final

from slayq.errors import InvalidSecret, InvalidSignature, StaleTimestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


# Protocol v2: Standard Webhooks


ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER_V2: Final = "webhook-signature"

_MOST_SIGNATURES: Final = 32
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)


def sign_v2(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,<base64 of HMAC-SHA256>` a secret, over `id.timestamp.body`.

    `timestamp` is in seconds since 1970. A secret `whsec_…` is base64, with or without padding; any other is its UTF-8
    bytes. Raises InvalidSecret, also when there is no secret at all.
    """
    if not secrets:
        raise InvalidSecret(
            "there is no signing secret: set SLAY_Q_SECRET to the one that the app and the server share"
        )
    signed = b"%s.%d.%s" % (message_id.encode("utf-8", "surrogatepass"), timestamp, body)
    return " ".join(f"v1,{_digest_v2(secret, signed)}" for secret in secrets)


def v2_headers(secrets: Sequence[str], body: bytes, *, message_id: str, now: float) -> dict[str, str]:
    """The three headers that sign a body: id, timestamp and signature. `now` is in seconds since 1970."""
    timestamp = int(now)
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER_V2: sign_v2(secrets, message_id, timestamp, body),
    }


def verify_v2(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float = 300.0
) -> int:
    """When the body was signed, if that was under any of the secrets and within `tolerance` seconds of `now`.

    Times are in seconds since 1970, the returned one by the sender's clock. Header names may be in any case. The time
    it takes tells neither how much of a signature is right nor which secret made it.

    Raises InvalidSignature, InvalidSecret, and StaleTimestamp for a good signature from another time.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, time_text, signatures = (
        given.get(name, "") for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER_V2)
    )
    if not (message_id and time_text and signatures):
        raise InvalidSignature(
            f"the headers {ID_HEADER}, {TIMESTAMP_HEADER} and {SIGNATURE_HEADER_V2} are not all there"
        )
    if not _TIMESTAMP.fullmatch(time_text):
        raise InvalidSignature(f"the header {TIMESTAMP_HEADER} is not a number of seconds")
    # The text and not the number: what was signed may have been spelled with leading zeros.
    signed = b".".join((message_id.encode("utf-8", "surrogatepass"), time_text.encode("ascii"), body))
    if not _is_signed(secrets, signed, signatures):
        raise InvalidSignature("the signature is not one that the secret makes: do the app and the server share one?")
    if not abs(now - int(time_text)) <= tolerance:
        raise StaleTimestamp(f"the message was signed more than {tolerance:g} s ago or ahead: compare the clocks")
    return int(time_text)


def _is_signed(secrets: Sequence[str], signed: bytes, signatures: str) -> bool:
    candidates = [
        value.encode("utf-8", "surrogatepass")
        for version, _, value in (part.partition(",") for part in signatures.split(" ", _MOST_SIGNATURES))
        if version == "v1"
    ]
    valid = False
    for secret in secrets:
        good = _digest_v2(secret, signed).encode("ascii")
        for candidate in candidates:
            valid |= hmac.compare_digest(good, candidate)
    return valid


def _digest_v2(secret: str, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(_key_v2(secret), signed, "sha256")).decode("ascii")


def _key_v2(secret: str) -> bytes:
    encoded = secret.removeprefix("whsec_")
    if encoded == secret:
        return _key(secret)
    bare = encoded.rstrip("=")
    if not _BASE64.fullmatch(encoded) or len(bare) % 4 == 1:
        raise InvalidSecret("the signing secret begins with whsec_, but what follows is no base64: copy it again")
    return base64.b64decode(bare + "=" * (-len(bare) % 4))
