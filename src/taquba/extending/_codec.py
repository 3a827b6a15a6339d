"""Values of one type, to and from MessagePack: values are read as they were written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaSerializer, SchemaValidator

from taquba._model.describing import describe, shown
from taquba._model.errors import InvalidArgument
from taquba._model.same import difference
from taquba.extending._schemas import (
    Nature,
    class_read_once,
    is_read_once,
    names_generator,
    nature,
    of_arguments,
    with_lists,
)
from taquba.extending._wire import Foreign, fingerprint, pack, pack_exact, pack_plain, unpack

T = TypeVar("T")

_REMEDY: Final = (
    "annotate the type that it is, give plain data, or do without what is lost in writing it"
)
_MOST_STEPS: Final = 20
"""How deep into a value errors name a place."""
_FIRST_KEY: Final = re.compile(r"^\['(\w+)'\]")
_UNPACKABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)


class Undecodable(ValueError):
    """A value does not fit its annotation, or stored bytes do not; the message says where."""


class Codec(Generic[T]):
    """Stores values of a type, and reads them as they were.

    Plain data is packed as it is. A value that pydantic writes is read again before it counts as
    stored, and must come back with the same types and content; whether an annotation needs that is
    decided here, once.

    Attributes:
        nature: What must be done so that a value comes back as it was.

    Args:
        kind: The type, or anything else that pydantic accepts as one.
        what: The name of its values in errors, such as ``the result``.
        owner: The beginning of errors about the annotation.
        arguments: Whether it is a TypedDict of a function's parameters.

    Raises:
        InvalidArgument: Values of the type cannot be stored, or can be read only once.
    """

    def __init__(self, kind: Any, what: str, owner: str, *, arguments: bool = False) -> None:
        self._what = what
        adapter = _adapter(kind, owner)
        given: Any = adapter.core_schema
        schema: Any = of_arguments(given) if arguments else given
        if is_read_once(schema):
            _check_lists_will_do(kind, schema, owner)
            # It is read more than once: to store it, to check it, and by the function.
            schema = with_lists(schema)
        self._validator = adapter.validator
        self._serializer = adapter.serializer
        if schema is not given:
            self._validator = SchemaValidator(schema)
            self._serializer = SchemaSerializer(schema)
        self.nature: Final = nature(schema)

    def validate(self, value: object) -> T:
        """A value as one of the type; raises pydantic's `ValidationError`."""
        return cast("T", self._validator.validate_python(value))

    def accept(self, value: object) -> T:
        """A value as one of the type; raises `Undecodable`."""
        try:
            return self.validate(value)
        except ValidationError as error:
            raise Undecodable(
                f"{self._what} does not fit its annotation: {explain(error)}"
            ) from None

    def pack(self, value: T) -> bytes:
        """An accepted value as bytes; raises `Undecodable` for one that would not come back."""
        try:
            if self.nature is Nature.PLAIN:
                return pack_plain(value)
            if self.nature is Nature.ANY:
                return pack_exact(value)
            packed = self._pack_written_out(value)
        except _UNPACKABLE as error:
            why = f"{_at(self._path_of_unpackable(value))}{error}"
            remedy = f"; {_REMEDY}" if isinstance(error, Foreign) else ""
            raise Undecodable(f"{self._what} cannot be stored: {why}{remedy}") from None
        self._check(value, packed)
        return packed

    def dump(self, value: object) -> bytes:
        """Any value as bytes, if it is of the type and would come back; raises `Undecodable`."""
        return self.pack(self.accept(value))

    def load(self, data: bytes) -> T:
        """Read packed bytes; raises `Undecodable`."""
        try:
            return self.read(unpack(data))
        except ValidationError as error:
            why = explain(error)
        except ValueError as error:
            why = str(error)
        raise Undecodable(f"{self._what} was stored as something else: {why}")

    def read(self, plain: object) -> T:
        """Unpacked data as a value of the type; raises pydantic's `ValidationError`."""
        # By name, because aliases for reading and writing may differ. Not strict, whatever a model
        # says: values for which the wire has no type were stored as text.
        return cast(
            "T",
            self._validator.validate_python(plain, strict=False, by_alias=False, by_name=True),
        )

    def fingerprint(self, value: T) -> bytes:
        """A fingerprint of an accepted value, whether it can be stored or not."""
        if self.nature is Nature.PLAIN:
            return fingerprint(value)
        try:
            return fingerprint(self._written_out(value))
        except _UNPACKABLE:
            return fingerprint(self._written_for_json(value))

    def shown(self, value: T) -> object:
        """An accepted value as plain data for people, including computed fields."""
        if self.nature is not Nature.COMPARED:
            return value
        return self._serializer.to_python(value, warnings=False)

    def _written_out(self, value: T) -> object:
        return self._serializer.to_python(value, by_alias=False, round_trip=True, warnings=False)

    def _written_for_json(self, value: T) -> object:
        """The same for types that can be written only as JSON."""
        return self._serializer.to_python(
            value, mode="json", by_alias=False, round_trip=True, warnings=False
        )

    def _pack_written_out(self, value: T) -> bytes:
        try:
            return pack(self._written_out(value))
        except _UNPACKABLE:
            return pack(self._written_for_json(value))

    def _path_of_unpackable(self, value: T) -> str:
        if self.nature is not Nature.COMPARED:
            return _path_of_unpackable(value)
        # For arguments: which one it is.
        for name, part in cast("dict[str, Any]", value).items() if type(value) is dict else ():
            try:
                self._pack_written_out(cast("T", {name: part}))
            except _UNPACKABLE:
                return f"['{name}']"
        return ""

    def _check(self, value: T, packed: bytes) -> None:
        """Raise `Undecodable` unless `packed` is read as the value."""
        try:
            found = difference(value, self.read(unpack(packed)))
        except ValidationError as error:
            why = f"{_kinds(value, error)} cannot be read back: {explain(error)}"
        except Exception as error:
            # An error of the user's code, which validates or compares.
            why = f"it cannot be read back: {describe(error)}"
        else:
            if found is None:
                return
            why = f"{_at(found.path)}{found}"
        raise Undecodable(f"{self._what} cannot be stored: {why}; {_REMEDY}")


def _adapter(kind: Any, owner: str) -> TypeAdapter[Any]:
    try:
        adapter = TypeAdapter[Any](kind)
        # If something in it is not defined, pydantic says so now.
        _ = adapter.core_schema["type"]
    except PydanticUserError as error:
        why = str(error).partition("\n")[0]
        raise InvalidArgument(f"{owner} that pydantic cannot store: {why}") from None
    return adapter


def _check_lists_will_do(kind: Any, schema: Any, owner: str) -> None:
    holder = class_read_once(schema)
    if names_generator(kind):
        why = "a generator"
    elif holder is not None:
        why = f"an Iterable in {holder}"
    else:
        return
    raise InvalidArgument(
        f"{owner} that can be read only once, {why}: annotate a list, or another collection"
    )


# -- texts --------------------------------------------------------------------------------------


def explain(error: ValidationError) -> str:
    """The mismatches and their places, as one line of text."""
    problems: list[str] = []
    for detail in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in detail["loc"]) or "the value"
        given = "" if detail["type"] == "missing" else f", got {_shortened(detail['input'])}"
        problems.append(f"{where}: {detail['msg']}{given}")
    return "; ".join(problems)


def _shortened(value: object) -> str:
    text = shown(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _at(path: str) -> str:
    """A place as a prefix of a message; an argument by its name alone."""
    named = _FIRST_KEY.sub(r"\1", path)
    return f"{named}: " if named else ""


def _kinds(value: object, error: ValidationError) -> str:
    """The types of the arguments, or of the value, that an error is about."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    named = cast("dict[object, object]", value)
    firsts = [detail["loc"][0] for detail in error.errors() if detail["loc"]]
    kinds = {type(named[name]).__name__ for name in firsts if name in named}
    return ", ".join(f"a {kind}" for kind in sorted(kinds)) or "a dict"


def _path_of_unpackable(value: object) -> str:
    """Where plain data contains something that the wire does not accept, down to a useful depth."""
    path = ""
    for _ in range(_MOST_STEPS):
        for step, part in _steps_into(value):
            if not _is_packable(part):
                path += step
                value = part
                break
        else:
            break
    return path


def _steps_into(value: object) -> Iterator[tuple[str, object]]:
    """The direct parts of a container, with their places."""
    if isinstance(value, dict):
        for key, part in cast("dict[object, object]", value).items():
            yield f"[{shown(key)}]", part
    elif isinstance(value, list | tuple):
        for place, part in enumerate(cast("list[object]", value)):
            yield f"[{place}]", part


def _is_packable(value: object) -> bool:
    try:
        pack_exact(value)
    except _UNPACKABLE:
        return False
    return True
