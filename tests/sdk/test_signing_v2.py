"""Signatures of protocol v2, against an independent implementation of Standard Webhooks, in both directions."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from slayq.errors import InvalidSecret, InvalidSignature, StaleTimestamp
from slayq.signing import sign_v2, v2_headers, verify_v2

KEY = b"0123456789abcdefghijklmn"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
BODY = '{"v":2,"text":"größer"}'.encode()
NOW = 1_700_000_000.0


def headers(secrets: list[str], body: bytes = BODY, now: float = NOW) -> dict[str, str]:
    return v2_headers(secrets, body, message_id="msg.1", now=now)


def test_the_other_implementation_accepts_what_we_sign() -> None:
    """What we sign is a Standard Webhooks message, with a rotated secret as well."""
    now = datetime.now(UTC).timestamp()
    for secrets in ([SECRET], ["whsec_" + base64.b64encode(b"another").decode(), SECRET]):
        Webhook(SECRET).verify(BODY, headers(secrets, now=now))


def test_the_other_implementation_refuses_another_secret() -> None:
    """The comparison above is worth something: another secret is refused."""
    now = datetime.now(UTC).timestamp()
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, headers(["whsec_" + base64.b64encode(b"another").decode()], now=now))


def test_we_accept_what_the_other_implementation_signs() -> None:
    """A message that was signed by the other implementation is good."""
    when = datetime.fromtimestamp(NOW, UTC)
    signed = {
        "Webhook-Id": "msg.1",
        "Webhook-Timestamp": str(int(NOW)),
        "Webhook-Signature": Webhook(SECRET).sign("msg.1", when, BODY.decode()),
    }
    assert NOW == verify_v2([SECRET], signed, BODY, now=NOW)
    verify_v2(["new", SECRET], signed, BODY, now=NOW)


@pytest.mark.parametrize("secret", [SECRET, SECRET.rstrip("="), "plain text", "größer"])
def test_kinds_of_secret(secret: str) -> None:
    """Base64 with its prefix, with padding or without, and any other text sign and verify."""
    verify_v2([secret], headers([secret]), BODY, now=NOW)


def test_padding_of_a_secret_does_not_matter() -> None:
    """A secret is the same key with and without its padding."""
    padded = "whsec_" + base64.b64encode(b"0123").decode()
    assert padded.endswith("=")
    assert sign_v2([padded], "a", 1, BODY) == sign_v2([padded.rstrip("=")], "a", 1, BODY)


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_"], ["whsec_!"], ["whsec_a"], ["\udcff"]])
def test_bad_secrets(secrets: list[str]) -> None:
    """No secret, an empty one and broken base64 are errors that show nothing of it."""
    with pytest.raises(InvalidSecret) as caught:
        sign_v2(secrets, "a", 1, BODY)
    assert "whsec_!" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg.2"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(int(NOW) + 1)},
        {"webhook-timestamp": "+1700000000"},
        {"webhook-timestamp": "٣"},
        {"webhook-timestamp": ""},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1a,AAAA v2,BBBB"},
        {"webhook-signature": "v1,é"},
    ],
)
def test_changed_headers(change: dict[str, str]) -> None:
    """A header that is not as it was signed, or missing, or nonsense, is refused."""
    with pytest.raises(InvalidSignature):
        verify_v2([SECRET], headers([SECRET]) | change, BODY, now=NOW)


def test_changed_body_and_wrong_secret() -> None:
    """One byte more, or a secret that is not ours, is refused."""
    with pytest.raises(InvalidSignature):
        verify_v2([SECRET], headers([SECRET]), BODY + b" ", now=NOW)
    with pytest.raises(InvalidSignature):
        verify_v2(["other"], headers([SECRET]), BODY, now=NOW)


@pytest.mark.parametrize(("drift", "good"), [(300, True), (-300, True), (301, False), (-301, False)])
def test_timestamps(drift: int, good: bool) -> None:
    """A message is good for five minutes, either way."""
    signed = headers([SECRET])
    if good:
        verify_v2([SECRET], signed, BODY, now=NOW + drift)
    else:
        with pytest.raises(StaleTimestamp):
            verify_v2([SECRET], signed, BODY, now=NOW + drift)


def test_a_stale_message_with_a_bad_signature_is_just_unsigned() -> None:
    """Only who has the secret learns that the clocks differ."""
    with pytest.raises(InvalidSignature):
        verify_v2(["other"], headers([SECRET]), BODY, now=NOW + 1000)
