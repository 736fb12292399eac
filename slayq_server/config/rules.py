"""What a setting may be: a rule for each kind of value, in the file (`check`) and in the environment (`read`).

A rule is put on a pydantic field with `Annotated[int, Whole(1, 10_000)]` and takes the place of pydantic's own
validation, so that every message says what is wanted, and what was found, in the same words.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import SecretStr
from pydantic_core import PydanticCustomError, core_schema

from slayq.duration import has_unit, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler

_LONGEST_SHOWN: Final = 60
_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?", re.ASCII)
_WHOLE: Final = re.compile(r"-?[0-9]{1,12}", re.ASCII)
_WORDS: Final = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}
_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class Refused(ValueError):
    """A value that a rule does not let pass. The message continues `<setting>: `, and never holds a secret."""


def refuse(what: str) -> NoReturn:
    """Refuse what pydantic is validating, with exactly these words."""
    raise PydanticCustomError("refused", "{what}", {"what": what})


def printable(text: str) -> str:
    """The text with all that would garble a terminal or a log escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """A value as a message shows it: as JSON, shortened; an object or a list only by its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is not None and not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        value = value[:_LONGEST_SHOWN] + "…"
    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= 2 * _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


def span(seconds: float) -> str:
    """A duration in words: "1.5 seconds", "5 minutes", "30 days"."""
    for size, unit in _SPANS:
        if seconds >= size and (seconds % size == 0 or size == 1):
            count = seconds / size
            return f"{count:g} {unit}" + ("" if count == 1 else "s")
    return "0 seconds" if seconds == 0 else f"{seconds * 1000:g} ms"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was most likely meant; case, `-` and `_` do not count."""
    plain = {re.sub(r"[-_\s]", "", name).lower(): name for name in known}
    close = difflib.get_close_matches(re.sub(r"[-_\s]", "", word).lower(), plain, n=1, cutoff=0.65)
    return plain[close[0]] if close else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """`: did you mean "…"?` where a known word is near, else nothing."""
    near = nearest(word, known)
    return f": did you mean {shown(near)}?" if near is not None else ""


def unusable_text(text: str) -> str | None:
    """Why Postgres cannot store a text; None if it can."""
    if "\0" in text:
        return "holds a NUL character, which Postgres cannot store: take it out"
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "holds what is no valid Unicode: write it anew"
    return None


class Rule(ABC):
    """What one setting may be."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What to give, as in "must be <wanted>"."""

    @abstractmethod
    def check(self, value: object) -> Any:
        """The setting from a value of the file, or Refused."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what `check` takes."""

    def read(self, text: str) -> Any:
        """The setting from the text of an environment variable, or Refused."""
        return self.check(text)

    def wrong(self, value: object) -> Refused:
        """The refusal of a value of the wrong kind."""
        return Refused(f"must be {self.wanted}, not {shown(value)}")

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.schema()

    def _validate(self, value: object) -> Any:
        try:
            return self.check(value)
        except Refused as refused:
            why = str(refused)
        # Outside of the handler: the error that is shown has no cause, which might hold what was refused.
        return refuse(why)


@dataclass(frozen=True, slots=True)
class Whole(Rule):
    """A whole number from `low` to `high`. In the file, neither 2.0 nor "2" is one."""

    low: int
    high: int

    @property
    def wanted(self) -> str:
        return f"a whole number of at least {self.low}"

    def check(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < self.low:
            raise self.wrong(value)
        if value > self.high:
            raise Refused(f"must be a whole number of at most {self.high}, not {shown(value)}")
        return value

    def read(self, text: str) -> int:
        return self.check(int(text) if _WHOLE.fullmatch(text) else text)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Number(Rule):
    """A number from `low` to `high`."""

    low: float
    high: float

    @property
    def wanted(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise self.wrong(value)
        return float(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Seconds(Rule):
    """A duration from `low` to `high` seconds: a number is seconds, a text has a unit (`slayq.duration`)."""

    low: float
    high: float

    @property
    def wanted(self) -> str:
        return 'a number of seconds, or a text such as "500ms", "5m" or "2 days"'

    def check(self, value: object) -> float:
        seconds = self._number(value)
        if not self.low <= seconds <= self.high:
            bound = f"at least {span(self.low)}" if seconds < self.low else f"at most {span(self.high)}"
            raise Refused(f"must be {bound}, not {shown(value)}")
        return float(seconds)

    def read(self, text: str) -> float:
        return self.check(float(text) if _NUMBER.fullmatch(text) else text)

    def schema(self) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "number", "minimum": self.low, "maximum": self.high, "description": "Seconds."},
                {"type": "string", "pattern": r"^[0-9]*\.?[0-9]+ *[A-Za-z]+$", "description": "With its unit."},
            ]
        }

    def _number(self, value: object) -> float:
        if isinstance(value, str):
            try:
                duration = parse_duration(value)
            except ValueError:
                raise self.wrong(value) from None
            if not has_unit(value):
                # In `ms` this is milliseconds, next to bare numbers that are seconds: a trap, not a convenience.
                raise Refused(f"must have a unit, as {shown(value + 's')}, or be a bare number, not {shown(value)}")
            return duration.total_seconds()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(value)
        if isinstance(value, float) and math.isnan(value):
            raise self.wrong(value)
        return value


@dataclass(frozen=True, slots=True)
class Flag(Rule):
    """true or false."""

    @property
    def wanted(self) -> str:
        return "true or false"

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise self.wrong(value)
        return value

    def read(self, text: str) -> bool:
        return self.check(_WORDS.get(text.lower(), text))

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Choice(Rule):
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def wanted(self) -> str:
        words = [shown(option) for option in self.options]
        return f"{', '.join(words[:-1])} or {words[-1]}"

    def check(self, value: object) -> str:
        if isinstance(value, str) and value in self.options:
            return value
        hint = suggestion(value, self.options) if isinstance(value, str) else ""
        raise Refused(f"{self.wrong(value)}{hint}")

    def read(self, text: str) -> str:
        return self.check(text.lower())

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.options)}


@dataclass(frozen=True, slots=True)
class Text(Rule):
    """A text of 1 to `longest` characters that Postgres can store, put in its normal form by `take` (or Refused)."""

    what: str
    longest: int
    take: Callable[[str], str] | None = field(default=None)

    @property
    def wanted(self) -> str:
        return self.what

    def check(self, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise self.wrong(value)
        if len(value) > self.longest:
            raise Refused(f"must have at most {self.longest} characters, not {len(value)}")
        why = unusable_text(value)
        if why is not None:
            raise Refused(why)
        return self.take(value) if self.take else value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": self.longest}


@dataclass(frozen=True, slots=True)
class Secret(Rule):
    """A text that no message and no page may show. `take` raises Refused in words that do not hold it."""

    what: str
    longest: int = 4096
    take: Callable[[str], str] | None = field(default=None)

    @property
    def wanted(self) -> str:
        return self.what

    def check(self, value: object) -> SecretStr:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str):
            raise Refused(f"must be {self.what}")
        if not text.strip():
            raise Refused(f"is empty: give it {self.what}")
        why = unusable_text(text)
        if len(text) > self.longest:
            why = f"must have at most {self.longest} characters"
        if why is not None:
            raise Refused(why)
        return SecretStr(self.take(text) if self.take else text)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": self.longest, "writeOnly": True}

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.to_string_ser_schema(when_used="json-unless-none")
        )


@dataclass(frozen=True, slots=True)
class JsonObject(Rule):
    """Any JSON object."""

    @property
    def wanted(self) -> str:
        return "an object { … }"

    def check(self, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(value)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class Maybe(Rule):
    """What `rule` takes, or one of `nothing`, which all mean None."""

    rule: Rule
    nothing: tuple[object, ...] = (None,)

    @property
    def wanted(self) -> str:
        words = [shown(value) for value in self.nothing]
        return f"{self.rule.wanted} (or {', '.join(words)} for none)"

    def check(self, value: object) -> Any:
        # `is` for all but numbers: 0 == False, and both are written differently in JSON.
        if any(value is word or (type(value) is type(word) and value == word) for word in self.nothing):
            return None
        return self.rule.check(value)

    def read(self, text: str) -> Any:
        return self.rule.read(text)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.rule.schema(), {"enum": list(self.nothing)}]}

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        serialization = (
            core_schema.to_string_ser_schema(when_used="json-unless-none") if isinstance(self.rule, Secret) else None
        )
        return core_schema.no_info_plain_validator_function(self._validate, serialization=serialization)


@dataclass(frozen=True, slots=True)
class Made:
    """What is written as `model`, but held as what `make` makes of that."""

    model: type[BaseModel]
    make: Callable[[Any], Any]
    dump: Callable[[Any], dict[str, Any]]

    def __get_pydantic_core_schema__(
        self, source: type[object], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def made(value: object, written: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return value if isinstance(value, source) else self.make(written(value))

        return core_schema.no_info_wrap_validator_function(
            made,
            handler.generate_schema(self.model),
            serialization=core_schema.plain_serializer_function_ser_schema(self.dump),
        )
