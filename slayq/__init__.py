"""Slay Q in Python: durable functions and their events.

    from slayq import Event, SlayQ, Step

Nothing is imported before it is asked for, so that a program that needs a part of it does not wait for all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slayq.client import SlayQ as SlayQ
    from slayq.drivers import Driver as Driver
    from slayq.drivers import OutgoingEvent as OutgoingEvent
    from slayq.drivers import Registered as Registered
    from slayq.errors import InvalidDefinition as InvalidDefinition
    from slayq.errors import InvalidEvent as InvalidEvent
    from slayq.errors import InvalidStep as InvalidStep
    from slayq.errors import NoRetry as NoRetry
    from slayq.errors import RetryAfter as RetryAfter
    from slayq.errors import SendFailed as SendFailed
    from slayq.errors import SlayQError as SlayQError
    from slayq.errors import SlayQNoRetryError as SlayQNoRetryError
    from slayq.errors import StepFailed as StepFailed
    from slayq.errors import StepTimedOut as StepTimedOut
    from slayq.errors import Suspended as Suspended
    from slayq.errors import Unavailable as Unavailable
    from slayq.errors import UnknownEvent as UnknownEvent
    from slayq.events import Event as Event
    from slayq.function import Function as Function
    from slayq.receiver import Reply as Reply
    from slayq.receiver import SyncReply as SyncReply
    from slayq.step import Step as Step
    from slayq.sync_step import SyncStep as SyncStep

__version__ = "0.1.0"

_MODULES = {
    "client": ("SlayQ",),
    "drivers": ("Driver", "OutgoingEvent", "Registered"),
    "errors": (
        *("InvalidDefinition", "InvalidEvent", "InvalidStep", "NoRetry", "RetryAfter", "SendFailed", "SlayQError"),
        *("SlayQNoRetryError", "StepFailed", "StepTimedOut", "Suspended", "Unavailable", "UnknownEvent"),
    ),
    "events": ("Event",),
    "function": ("Function",),
    "receiver": ("Reply", "SyncReply"),
    "step": ("Step",),
    "sync_step": ("SyncStep",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # for a type checker, what is not there is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'slayq' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"slayq.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
