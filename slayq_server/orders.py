"""What the supervisor tells one of its processes at its start, and what it has heard of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slayq_server.config import Config
    from slayq_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Orders:
    """All that a process needs, so that it reads no file of its own: one that is started later is like the others."""

    number: int
    """Which of the processes it is, from 1."""
    config: Config
    """With this process's share of the limits."""
    settings: Settings
    sockets: tuple[int, ...]
    """File descriptors, bound to the address that all share."""
    colors: bool
    """Whether the log is for a terminal that shows them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a process has answered, or that it has not."""

    number: int
    answer: Any
    """None: nothing."""
    silent_for: float
    """Seconds since it last answered anything (or was to); 0 if it has answered now."""
    restarts: int
    """How often it has been started again."""
