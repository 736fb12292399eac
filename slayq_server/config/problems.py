"""From pydantic's errors to what a person reads: a path, and what to write there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from pydantic import BaseModel

from slayq_server.config.rules import Made, Rule, nearest, printable, shown
from slayq_server.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

Loc = tuple[int | str, ...]
"""Where in a document: keys and indexes from its root."""

_KINDS: Final = {"dict_type": "an object { … }", "model_type": "an object { … }", "tuple_type": "a list [ … ]"}
_CONTAINER_MARKS: Final[Mapping[Any, str]] = {dict: ".*", tuple: "[]"}


def path_text(loc: Iterable[int | str]) -> str:
    """A place as people write it: `queues.mail.alias[0]`; keys that are no plain word stand in quotes."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part.replace("-", "_").isidentifier() and part.isascii()
            text += ("." if text else "") + (part if plain else shown(part))
    return text


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong with a document of `model`."""
    lines = []
    for found in error.errors(include_url=False, include_context=False):
        kind, loc = found["type"], found["loc"]
        if len(loc) > 2 and loc[-1] == "[key]" and kind != "extra_forbidden":
            loc = loc[:-1]  # how pydantic marks that a key is wrong, and not what is under it
        lines.append(f"{path_text(loc)}: {_what(kind, found['msg'], found['input'], loc, model)}")
    return lines


def failure(source: str, problems: Sequence[str]) -> ConfigurationError:
    """The error that tells of all problems with `source`, each once."""
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return ConfigurationError(f"{printable(source)}: {problems[0]}", problems)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigurationError(f"{printable(source)} has {len(problems)} problems:{lines}", problems)


def _what(kind: str, message: str, value: object, loc: Loc, root: type[BaseModel]) -> str:
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {shown(value)}"
    if kind == "missing":
        field = _model_at(loc[:-1], root).model_fields[str(loc[-1])]
        return f"is missing: give it {_wanted(field)}"
    if kind == "extra_forbidden":
        return _unknown_key(str(loc[-1]), _model_at(loc[:-1], root), root)
    return message


def _wanted(field: FieldInfo) -> str:
    rules = [each for each in field.metadata if isinstance(each, Rule)]
    if rules:
        return rules[0].wanted
    return _KINDS["tuple_type" if get_origin(field.annotation) is tuple else "dict_type"]


def _unknown_key(key: str, model: type[BaseModel], root: type[BaseModel]) -> str:
    near = nearest(key, model.model_fields)
    if near is not None:
        return f"is no setting: did you mean {shown(near)}?"
    elsewhere = [path for path, _ in walk(root) if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"is no setting here: did you mean {' or '.join(elsewhere)}?"
    return f"is no setting: the settings here are {', '.join(sorted(model.model_fields))}"


def walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a model and of those in it, by path: `grace`, `queues`, `queues.*.alias`, `cron[].id`."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        inner = model_in(field)
        if inner is not None:
            yield from walk(inner, f"{prefix}{name}{_CONTAINER_MARKS.get(get_origin(field.annotation), '')}.")


def model_in(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, alone or in a list or an object; None if it holds plain values."""
    written = [each.model for each in field.metadata if isinstance(each, Made)]
    for kind in (*written, field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _model_at(loc: Loc, root: type[BaseModel]) -> type[BaseModel]:
    """The model at a place of a document."""
    model, parts = root, iter(loc)
    for part in parts:
        field = model.model_fields[str(part)]
        inner = model_in(field)
        if inner is None:
            break
        if get_origin(field.annotation) in _CONTAINER_MARKS:
            next(parts, None)
        model = inner
    return model
