"""Packages that only parts of the SDK need: what is said where one of them is not installed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from slayq.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around the import of a package: raises MissingExtra, which names the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"the package {error.name} is not installed: pip install 'slayq[{extra}]'", name=error.name
        ) from error
