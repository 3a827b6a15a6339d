"""A function's arguments and result: checked against its annotations, to and from MessagePack.

For packages whose users write typed functions. It needs pydantic and typing-extensions, which
taquba itself does not: such a package depends on both.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple, NotRequired, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba.extending._wire import fingerprint, pack, unpack

__all__ = ["Arguments", "Signature", "Undecodable", "explain", "fingerprint", "pack", "unpack"]

_Parameter = inspect.Parameter

# Made at the import: the first adapter of a process has pydantic look for plugins on the disk.
_ANYTHING: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class Undecodable(ValueError):
    """Stored bytes do not fit the function; the message says where."""


class Arguments(NamedTuple):
    """Arguments of a call."""

    args: list[Any]
    kwargs: dict[str, Any]


class Signature:
    """What a function takes, and what it returns.

    Annotations are read when they are needed first: they may name what its module defines later.

    Args:
        name: What errors call it, such as ``job 'email.send'``.
        function: The function.
        context: Name of the class of its first parameter, which is no argument; None where all
            parameters are arguments.
    """

    def __init__(
        self, name: str, function: Callable[..., object], *, context: str | None = None
    ) -> None:
        self._name = name
        self._function = function
        parameters = list(inspect.signature(function).parameters.values())
        self._context = None
        if context is not None:
            self._context = _context_of(name, parameters, context)
            parameters = parameters[1:]
        self._signature = inspect.Signature(parameters)
        self._parameters = parameters

    def resolve(self) -> None:
        """Read the annotations now, to find out what is wrong with them."""
        _ = self._arguments, self._result

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """The arguments of a call by name, defaults filled in, of the types annotated."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgumentType(f"{self._name}: {error}") from None
        bound.apply_defaults()
        values = bound.arguments
        for parameter in self._parameters:
            if parameter.kind is _Parameter.VAR_POSITIONAL:
                values[parameter.name] = list(values[parameter.name])
        try:
            return _by_name(self._arguments.validate_python(values))
        except ValidationError as error:
            raise InvalidArgument(f"{self._name}: {explain(error)}") from None

    def call(self, values: Mapping[str, Any]) -> Arguments:
        """The call that `values` stand for; defaults stand in for those that are missing."""
        call = Arguments([], {})
        for parameter in self._parameters:
            name = parameter.name
            if parameter.kind is _Parameter.VAR_POSITIONAL:
                call.args.extend(values.get(name, ()))
            elif parameter.kind is _Parameter.VAR_KEYWORD:
                call.kwargs.update(values.get(name, {}))
            elif parameter.kind is _Parameter.KEYWORD_ONLY:
                call.kwargs[name] = values.get(name, parameter.default)
            else:
                call.args.append(values.get(name, parameter.default))
        return call

    def plain(self, values: dict[str, Any]) -> Any:
        """Bound arguments as plain data, of which equal arguments make equal data."""
        return self._arguments.dump_python(values)

    def decode(self, values: object) -> dict[str, Any]:
        """Stored arguments, unpacked, as what `bind` returned."""
        try:
            # Not strict, whatever a model says: a moment was stored as a text.
            return _by_name(self._arguments.validate_python(values, strict=False))
        except ValidationError as error:
            raise Undecodable(explain(error)) from None

    def pack_result(self, value: object) -> bytes:
        """A result as MessagePack, if it is of the type annotated."""
        try:
            return pack(self._result.dump_python(self._result.validate_python(value)))
        except ValidationError as error:
            raise Undecodable(f"the result is not what is annotated: {explain(error)}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise Undecodable(f"the result cannot be stored: {error}") from None

    def unpack_result(self, data: bytes) -> Any:
        """What `pack_result` was given, or what the annotation makes of it by now."""
        try:
            return self._result.validate_python(unpack(data), strict=False)
        except ValidationError as error:
            raise Undecodable(
                f"the stored result is not what is annotated: {explain(error)}"
            ) from None

    @cached_property
    def _hints(self) -> dict[str, Any]:
        function = inspect.unwrap(self._function)
        function = getattr(function, "__func__", function)
        assert isinstance(function, types.FunctionType)
        # The context's type is often imported for type checkers only.
        bare = types.FunctionType(
            function.__code__, function.__globals__, closure=function.__closure__
        )
        bare.__annotations__ = {
            name: hint for name, hint in function.__annotations__.items() if name != self._context
        }
        try:
            return get_type_hints(bare, include_extras=True)
        except NameError as error:
            raise InvalidArgument(
                f"an annotation of {self._name} cannot be read: {error}; "
                "what it names has to be defined or imported at the top of the function's module"
            ) from None

    @cached_property
    def _arguments(self) -> TypeAdapter[Any]:
        fields = {parameter.name: self._field(parameter) for parameter in self._parameters}
        # To type checkers a TypedDict is known before the program runs.
        make: Any = TypedDict
        kind = make(f"Arguments of {self._name}", fields)
        kind.__pydantic_config__ = ConfigDict(extra="forbid")
        return self._adapter(kind)

    @cached_property
    def _result(self) -> TypeAdapter[Any]:
        return self._adapter(self._hints.get("return", Any))

    def _field(self, parameter: inspect.Parameter) -> Any:
        hint: Any = self._hints.get(parameter.name, Any)
        if parameter.kind is _Parameter.VAR_POSITIONAL:
            return NotRequired[types.GenericAlias(list, hint)]
        if parameter.kind is _Parameter.VAR_KEYWORD:
            return NotRequired[types.GenericAlias(dict, (str, hint))]
        return hint if parameter.default is _Parameter.empty else NotRequired[hint]

    def _adapter(self, kind: Any) -> TypeAdapter[Any]:
        if kind is Any:
            return _ANYTHING
        try:
            return TypeAdapter(kind)
        except PydanticUserError as error:
            why = str(error).partition("\n")[0]
            raise InvalidArgument(
                f"{self._name} has an annotation that pydantic cannot store: {why}"
            ) from None


def _context_of(name: str, parameters: list[inspect.Parameter], context: str) -> str:
    first = parameters[0] if parameters else None
    if first is None or first.kind not in (
        _Parameter.POSITIONAL_ONLY,
        _Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidArgumentType(
            f"the function of {name} takes its context first: def function(ctx: {context}, ...)"
        )
    return first.name


def _by_name(values: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", values)


def explain(error: ValidationError) -> str:
    """What does not fit, and where, as one line of text."""
    problems: list[str] = []
    for detail in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in detail["loc"]) or "the value"
        given = "" if detail["type"] == "missing" else f", got {_shortened(detail['input'])}"
        problems.append(f"{where}: {detail['msg']}{given}")
    return "; ".join(problems)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
