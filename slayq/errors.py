"""The SDK's errors.

    SlayQError
    └── InvalidSecret (ValueError)      a secret cannot sign anything: it is empty, or no UTF-8 text

Each message says what is wrong and what to do about it. None holds a secret.
"""

from __future__ import annotations


class SlayQError(Exception):
    """Base of all errors that the SDK raises on purpose."""


class InvalidSecret(SlayQError, ValueError):
    """A signing secret that is empty or no UTF-8 text."""
