"""A function's arguments and result: checked against its annotations, to and from MessagePack.

This is for packages whose users write typed functions. It needs pydantic and typing-extensions,
which taquba itself does not need: such a package must depend on both.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, NotRequired, get_type_hints

from pydantic import ValidationError
from typing_extensions import TypedDict

from taquba._model.errors import InvalidArgument, InvalidArgumentType
from taquba.extending._codec import Codec, Undecodable, explain
from taquba.extending._functions import written_function
from taquba.extending._wire import digest, fingerprint, pack, unpack

__all__ = [
    "Arguments",
    "Codec",
    "Signature",
    "Undecodable",
    "digest",
    "explain",
    "fingerprint",
    "pack",
    "unpack",
]

_Parameter = inspect.Parameter


class Arguments(NamedTuple):
    """Arguments of a call."""

    args: list[Any]
    kwargs: dict[str, Any]


class Signature:
    """The parameters and the result of a function.

    Annotations are read when they are first needed: they may use names that its module defines
    later.

    Args:
        name: Its name in errors, such as ``job 'email.send'``.
        function: The function.
        context: Name of the class of its first parameter, which is not an argument; None if all
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
        """Read the annotations now, to find errors in them."""
        _ = self._arguments, self._result

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """The arguments of a call by name, with defaults, converted to the annotated types."""
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
            return self._arguments.validate(values)
        except ValidationError as error:
            raise InvalidArgument(f"{self._name}: {explain(error)}") from None

    def call(self, values: Mapping[str, Any]) -> Arguments:
        """The call for `values`; defaults replace missing ones."""
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

    def pack(self, values: dict[str, Any]) -> bytes:
        """Bound arguments as MessagePack: a dict by name.

        Raises:
            InvalidArgument: One of them would not come back as it was.
        """
        try:
            return self._arguments.pack(values)
        except Undecodable as error:
            raise InvalidArgument(str(error)) from None

    def fingerprint(self, values: dict[str, Any]) -> bytes:
        """A fingerprint of bound arguments.

        Raises:
            InvalidArgument: They have none.
        """
        try:
            return self._arguments.fingerprint(values)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidArgument(
                f"an argument of {self._name} cannot be recorded: {error}"
            ) from None

    def decode(self, values: object) -> dict[str, Any]:
        """Stored arguments, unpacked, as `bind` returned them."""
        try:
            return self._arguments.read(values)
        except ValidationError as error:
            raise Undecodable(explain(error)) from None

    def pack_result(self, value: object) -> bytes:
        """A result as MessagePack.

        Raises:
            Undecodable: It does not fit the annotation, or would not come back as it was.
        """
        return self._result.dump(value)

    def unpack_result(self, data: bytes) -> Any:
        """The value that was given to `pack_result`, as the annotation reads it now."""
        return self._result.load(data)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        function = written_function(self._function)
        if function is None:
            return {}
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
                "define or import its names at the top of the function's module"
            ) from None

    @cached_property
    def _arguments(self) -> Codec[dict[str, Any]]:
        fields = {parameter.name: self._field(parameter) for parameter in self._parameters}
        # To type checkers a TypedDict is known before the program runs.
        make: Any = TypedDict
        kind = make(f"Arguments of {self._name}", fields)
        return Codec(kind, f"an argument of {self._name}", self._owner, arguments=True)

    @cached_property
    def _result(self) -> Codec[Any]:
        return Codec(self._hints.get("return", Any), "the result", self._owner)

    @property
    def _owner(self) -> str:
        return f"{self._name} has an annotation"

    def _field(self, parameter: inspect.Parameter) -> Any:
        hint: Any = self._hints.get(parameter.name, Any)
        if parameter.kind is _Parameter.VAR_POSITIONAL:
            return NotRequired[types.GenericAlias(list, hint)]
        if parameter.kind is _Parameter.VAR_KEYWORD:
            return NotRequired[types.GenericAlias(dict, (str, hint))]
        return hint if parameter.default is _Parameter.empty else NotRequired[hint]


def _context_of(name: str, parameters: list[inspect.Parameter], context: str) -> str:
    first = parameters[0] if parameters else None
    if first is None or first.kind not in (
        _Parameter.POSITIONAL_ONLY,
        _Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidArgumentType(
            f"the function of {name} must take its context first: def function(ctx: {context}, ...)"
        )
    return first.name
