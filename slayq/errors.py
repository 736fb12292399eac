"""The SDK's errors.

    SlayQError
    ├── InvalidSecret (ValueError)      a secret cannot sign anything: it is empty, or no UTF-8 text, or no base64
    ├── InvalidSignature                a message is not from somebody who has the secret
    ├── StaleTimestamp                  a message is signed well, but too old, or from the future
    ├── BadRequest (ValueError)         a signed request is not one of protocol v2
    ├── InvalidDefinition (ValueError)  a function, an event or the client cannot be what it is said to be
    ├── MissingExtra (ImportError)      a package that this part of the SDK needs is not installed
    ├── SendFailed                      what was to be sent, cancelled or registered was not
    │   ├── UnknownEvent                no app has registered a function for the event
    │   ├── InvalidEvent (ValueError)   the event's data, size, name, id or time cannot be taken
    │   ├── Unavailable                 the server or its database is away: trying again later may help
    │   ├── Unauthorized                the server or its database does not know the secret or the login
    │   └── RegistrationFailed          the server refused the app's functions
    ├── InvalidData (ValueError)        a run's data does not fit the schema of its function
    ├── InvalidStep (ValueError)        a step cannot be taken as it was asked for
    │   ├── RepeatedStep                the run has a step of that name already
    │   └── InvalidOutput               a step or function gave back what cannot be recorded: no JSON, or too large
    ├── StepFailed                      a step failed for good; the function may catch it
    │   └── StepTimedOut                an invocation took longer than the step allowed
    ├── SwallowedSuspension             a function caught what suspends it and went on; it ends the attempt
    ├── NoRetry = SlayQNoRetryError     for functions to raise: fail now, and do not try again
    └── RetryAfter                      for functions to raise: fail now, and try again after this long

    BaseException
    └── Suspended                       parts a function from its segment; nobody need catch it

Each message says what is wrong and what to do about it. None holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slayq.duration import seconds_of

if TYPE_CHECKING:
    from datetime import timedelta


class SlayQError(Exception):
    """Base of all errors that the SDK raises on purpose."""


# Messages between server and app


class InvalidSecret(SlayQError, ValueError):
    """A signing secret that is empty, no UTF-8 text, or said to be base64 (`whsec_…`) without being it."""


class InvalidSignature(SlayQError):
    """A message without a signature, or with none that one of the secrets made."""


class StaleTimestamp(SlayQError):
    """A message whose signature is good, but whose time is too far from now."""


class BadRequest(SlayQError, ValueError):
    """A request that is not one of protocol v2. The message says which part of it, and nothing of its content."""


# Definitions


class InvalidDefinition(SlayQError, ValueError):
    """A function, an event or a client that cannot be: raised where it is defined."""


class MissingExtra(SlayQError, ImportError):
    """A driver or an adapter was asked for whose package is not installed. The message names the extra to install."""


# Sending


class SendFailed(SlayQError):
    """What was to be sent, cancelled or registered was not.

    `code` is the server's SQLSTATE (such as "SQ010") where it gave one, and `hint` its advice.
    """

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.hint = hint


class UnknownEvent(SendFailed):
    """No app has registered a function for the event, and no run waits for it or is cancelled by it."""


class InvalidEvent(SendFailed, ValueError):
    """The event cannot be taken: its data is no JSON object or too large, or its name, id, time or priority is bad."""


class Unavailable(SendFailed):
    """The server or its database is away or busy. Nothing was sent as far as is known; trying again may help."""


class Unauthorized(SendFailed):
    """The server or its database does not know the secret, the key or the login, or the clocks disagree."""


class RegistrationFailed(SendFailed):
    """The server refused the app's functions, such as an event that belongs to another app."""


# Steps


class InvalidData(SlayQError, ValueError):
    """A run's data does not fit the schema of the function that is to take it. It ends the run."""


class InvalidStep(SlayQError, ValueError):
    """A step that cannot be taken as it was asked for: its name, its time, its options, or where it was asked."""


class RepeatedStep(InvalidStep):
    """A run asked for a second step of the same name. A name is what a step's outcome is recorded under."""


class InvalidOutput(InvalidStep):
    """A step or a function gave back what cannot be recorded: it is no JSON, or longer than a line may be."""


class StepFailed(SlayQError):
    """A step failed for good: it, or the run, had no retry left, or an invoked function died or was cancelled.

    `step` is the step's name; `error_type` the name of the class that its body raised ("InvocationFailed" for an
    invoked function that ended badly), `error_message` what it said, and `trace` its shortened traceback, if any.
    """

    def __init__(self, step: str, error_type: str, error_message: str, trace: str | None = None) -> None:
        super().__init__(step, error_type, error_message, trace)
        self.step = step
        self.error_type = error_type
        self.error_message = error_message
        self.trace = trace

    def __str__(self) -> str:
        return f"step {self.step!r} failed: {self.error_type}: {self.error_message}"


class StepTimedOut(StepFailed):
    """The function that a step invoked did not end within the step's time-out. It goes on, but nobody listens."""

    def __init__(self, step: str) -> None:
        super().__init__(step, "TimeoutError", "the invoked function did not end in time")

    def __reduce__(self) -> tuple[type[StepTimedOut], tuple[str]]:
        return type(self), (self.step,)


class SwallowedSuspension(SlayQError):
    """A function caught `Suspended` or a cancellation and went on. Let both pass: `except Exception` does."""


class NoRetry(SlayQError):
    """Raise it in a function or a step: it has failed, and trying again will not help."""


SlayQNoRetryError = NoRetry
"""What `NoRetry` is called in Slay Q."""


class RetryAfter(SlayQError):
    """Raise it in a function or a step: it has failed, and is to be tried again after `delay`, if a retry is left.

    `delay` is a timedelta, or a text such as "30s" or "2 hours". Raises ValueError for one that is negative or no
    duration. `seconds` is its length.
    """

    def __init__(self, delay: timedelta | str, message: str = "to be tried again later") -> None:
        super().__init__(message)
        self.seconds = seconds_of(delay)


class Suspended(BaseException):
    """Ends what a function does until a step that it waits for has an outcome. The server then calls it again.

    It is no `Exception`, so that `except Exception` lets it pass. A `finally` runs; do not await in it.
    """
