"""Signatures of protocol v1, against those that JavaScript made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slayq.errors import InvalidSecret, SlayQError
from slayq.signing import sign_v1, verify_v1

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "signature.json").read_text(encoding="utf-8")
)
BODY = b'{"job_key":"cron"}'
SIGNATURE = sign_v1("new", BODY)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """A body's signature is the one that the original makes, and is accepted."""
    body = vector["body_json_text"].encode()
    assert vector["sig"] == sign_v1(vector["secret"], body)
    assert verify_v1([vector["secret"]], body, vector["sig"])


@pytest.mark.parametrize("secret", ["new", "old"])
def test_any_of_several_secrets(secret: str) -> None:
    """While secrets are rotated, a signature under any of them is good."""
    assert verify_v1(["new", "old"], BODY, sign_v1(secret, BODY))


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        SIGNATURE.upper(),
        SIGNATURE[:-1],
        SIGNATURE[:64],
        SIGNATURE + "0",
        " " + SIGNATURE,
        SIGNATURE + "\n",
        "sha512=" + SIGNATURE,
        SIGNATURE[:-1] + ("0" if SIGNATURE[-1] != "0" else "1"),
        "é" * 128,
        "\udcff",
        sign_v1("other", BODY),
        sign_v1("new", BODY + b" "),
    ],
)
def test_refused(signature: str | None) -> None:
    """Anything but the exact lower-case hex digits is refused, and raises nothing."""
    assert not verify_v1(["new", "old"], BODY, signature)


def test_no_secret_verifies_nothing() -> None:
    """Without a secret no signature is good."""
    assert not verify_v1([], BODY, SIGNATURE)
    assert not verify_v1([], BODY, "")


def test_secret_as_utf8() -> None:
    """The key is the secret's UTF-8 bytes, and the message the body's bytes, whatever they are (made by Node)."""
    expected = (
        "fe9360dc4b97c4da244084c02d583f90f72fde44997f522ab26963946afab821"
        "8bfa9bb2835a970940869b18087b3534fa9b748111ed476ef53441125714da05"
    )
    assert expected == sign_v1("clé 🔑", b"\xff\x00")


@pytest.mark.parametrize("secret", ["", "s\udcff"])
def test_unusable_secret(secret: str) -> None:
    """An empty secret, or one that is no text, neither signs nor verifies; the error does not show it."""
    with pytest.raises(InvalidSecret, match="SLAY_Q_SECRET") as caught:
        sign_v1(secret, BODY)
    assert isinstance(caught.value, SlayQError)
    assert caught.value.__context__ is None
    with pytest.raises(InvalidSecret, match="SLAY_Q_SECRET"):
        verify_v1(["new", secret], BODY, SIGNATURE)
