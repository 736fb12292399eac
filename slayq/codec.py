"""How values become JSON and come back as what an annotation says, by pydantic.

What a step returns goes through JSON on the first pass as on replay, so that a function cannot tell the two apart.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import typing
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, get_args, get_origin

from pydantic import PydanticUserError, SecretBytes, SecretStr, TypeAdapter, ValidationError

from slayq.errors import InvalidOutput, InvalidStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_MOST_PROBLEMS: Final = 3
_NAN: Final = "has a NaN or an infinity, which JSON cannot say"
_MASK: Final = b"**********"
_AWAITED: Final = (Awaitable, Coroutine)


class NotJson(ValueError):
    """A value that JSON cannot say; the message fits after what the value is."""


class Codec(Generic[T]):
    """Writes values of one annotated type as JSON values, and reads them back."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._adapter: TypeAdapter[T] = TypeAdapter(annotation)

    def dump(self, value: object) -> Any:
        """The value in terms of dict, list, str, int, float, bool and None. Raises NotJson."""
        if self.annotation is None:
            return None  # what a body gives back is nobody's business if it says that this is nothing
        try:
            # Without warnings: what is not of the annotated type is found out when it is read back.
            # For the round trip: computed fields are left out, which a model may not take, and Json fields are text.
            dumped = self._adapter.dump_python(
                cast("T", value), mode="json", by_alias=True, round_trip=self.annotation is not Any, warnings="none"
            )
            text = json_text(dumped)
            if b"null" in text or _MASK in text:
                self._refuse_losses(cast("T", value))
        except NotJson:
            raise
        except UnicodeDecodeError:
            raise NotJson("has bytes that are no UTF-8 text: write them in base64, or store them elsewhere") from None
        except Exception as error:  # serialisers of the user's may raise anything
            raise NotJson(f"is no JSON ({_first_line(error)})") from None
        return dumped

    def _refuse_losses(self, value: T) -> None:
        """Pydantic writes NaN and the infinities as null, and secrets as asterisks, if it is not told otherwise."""
        parts = list(_parts(self._adapter.dump_python(value, mode="python", warnings="none")))
        if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
            raise NotJson(_NAN)
        if any(isinstance(part, SecretStr | SecretBytes) and part.get_secret_value() for part in parts):
            raise NotJson(
                "has a pydantic secret, which would be written as asterisks: leave it out, and read it where it is used"
            )

    def load(self, value: Any) -> T:
        """What a JSON value stands for. Raises ValidationError."""
        if self.annotation is None:
            return cast("T", None)
        return self._adapter.validate_json(json_text(value))


def json_text(value: Any) -> bytes:
    """The shortest JSON text of a JSON value, in UTF-8. Raises NotJson, for NaN and infinity, too."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        problem = "has a text with half of a surrogate pair, which UTF-8 cannot say"
    except ValueError as error:
        problem = _NAN if "Out of range" in str(error) else "goes in circles"
    except RecursionError:
        problem = "nests too deep"
    except TypeError as error:
        problem = f"is no JSON ({_first_line(error)})"
    raise NotJson(problem)


def _parts(value: Any) -> Iterator[Any]:
    """A value's values, down to those that have none."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple | set | frozenset):
        yield value
        return
    for each in value:
        yield from _parts(each)


def codec_of_return(body: Callable[..., Any]) -> Codec[Any]:
    """The codec of what a function gives back, by its annotation; without one, plain JSON.

    Raises InvalidStep if the annotation cannot be resolved, or is of a kind that pydantic cannot handle.
    """
    annotation = return_annotation(body)
    try:
        return _codec(annotation)
    except PydanticUserError as error:
        raise InvalidStep(
            f"{name_of(body)} returns {_spelled(annotation)}, which cannot be recorded: return a pydantic model, a"
            f" dataclass or plain JSON ({_first_line(error)})"
        ) from None


def codec_of(annotation: Any) -> Codec[Any]:
    """The codec of a type, made once."""
    return _codec(annotation)


def _codec(annotation: Any) -> Codec[Any]:
    try:
        return _cached_codec(annotation)
    except TypeError:  # not hashable
        return Codec(annotation)


@functools.lru_cache(maxsize=1024)
def _cached_codec(annotation: Any) -> Codec[Any]:
    return Codec(annotation)


def return_annotation(body: Callable[..., Any]) -> Any:
    """What a function says it returns, awaited: a type, None, or Any if it does not say. Raises InvalidStep."""
    function = _function(body)
    annotations = getattr(function, "__annotations__", {})
    if "return" not in annotations:
        return function if isinstance(function, type) else Any
    hint = _resolved(function, "return", annotations["return"])
    if get_origin(hint) in _AWAITED:
        hint = get_args(hint)[-1]
    if hint in (type(None), typing.NoReturn, typing.Never):
        return None
    return hint


def parameter_annotation(body: Callable[..., Any], parameter: str) -> Any:
    """What a function says of a parameter; Any if it does not say, or if that cannot be resolved."""
    function = _function(body)
    annotations = getattr(function, "__annotations__", {})
    try:
        return _resolved(function, parameter, annotations[parameter])
    except (KeyError, InvalidStep):
        return Any


def _function(body: Callable[..., Any]) -> Any:
    """The function, or class, behind partials, methods, decorators and callable objects."""
    while isinstance(body, functools.partial):
        body = body.func
    body = inspect.unwrap(body)
    if inspect.isroutine(body) or isinstance(body, type):
        return getattr(body, "__func__", body)
    return getattr(type(body), "__call__", body)  # noqa: B004 - the method itself is wanted


def _resolved(function: Any, name: str, annotation: Any) -> Any:
    """One annotation of a function. The others may name what is only there for type checkers."""
    if not isinstance(annotation, str):
        return annotation
    holder = type("Holder", (), {"__annotations__": {name: annotation}})
    try:
        return typing.get_type_hints(
            holder, getattr(function, "__globals__", {}), _closure(function), include_extras=True
        )[name]
    except Exception as error:  # an annotation may be any expression
        raise InvalidStep(
            f"the annotation {annotation!r} of {name_of(function)} cannot be resolved ({_first_line(error)}): import"
            f" what it names outside of `if TYPE_CHECKING`, and define it at the top of a module"
        ) from None


def _closure(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return found


def settled_output(codec: Codec[Any], value: object, what: str) -> tuple[Any, Any]:
    """An output as a JSON value, and as it will be read back. Raises InvalidOutput."""
    output = encoded_output(codec, value, what)
    try:
        return output, decoded_output(codec, output, what, given=type_name(value))
    except InvalidOutput as error:
        if not isinstance(codec.annotation, type) or not isinstance(value, codec.annotation):
            raise
        misread = str(error)
    raise InvalidOutput(f"{misread}. It cannot read what it writes: look at its aliases, and at what it leaves out")


def encoded_output(codec: Codec[Any], value: object, what: str) -> Any:
    """A step's or function's output as a JSON value. Raises InvalidOutput, which names it and the value's type."""
    try:
        return codec.dump(value)
    except NotJson as error:
        raise InvalidOutput(f"{what} returned a value of type {type_name(value)}, which {error}") from None


def decoded_output(codec: Codec[Any], output: Any, what: str, *, given: str | None = None) -> Any:
    """What an output stands for.

    Raises InvalidOutput if `given`, the type of what was returned just now, does not fit the annotation; InvalidStep if
    something that was recorded earlier does not: an annotation that was changed by mistake can be changed back.
    """
    try:
        return codec.load(output)
    except ValidationError as error:
        problems = problems_of(error)
    except Exception as error:  # validators of the user's may raise anything
        problems = _first_line(error)
    misfit = f"does not fit its annotation {_spelled(codec.annotation)}: {problems}"
    if given is not None:
        raise InvalidOutput(f"{what} returned a value of type {given} that {misfit}")
    raise InvalidStep(
        f"{what} has a recorded outcome that {misfit}. Let the annotation read what was recorded before, or give what"
        f" is new a name of its own"
    )


def problems_of(error: ValidationError) -> str:
    """What pydantic found wrong, in a line, without the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    texts = [f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in found[:_MOST_PROBLEMS]]
    rest = len(found) - len(texts)
    return "; ".join(texts) + (f"; and {rest} more" if rest else "")


def name_of(body: Any) -> str:
    """What a function is called in messages."""
    while isinstance(body, functools.partial):
        body = body.func
    return str(getattr(body, "__qualname__", None) or type(body).__qualname__)


def type_name(value: object) -> str:
    """The name of a value's class, with its module unless it is built in."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _spelled(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
