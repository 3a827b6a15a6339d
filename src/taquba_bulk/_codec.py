"""Values of one type: checked, as plain data, and as the bytes that are stored."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from taquba import InvalidArgument
from taquba.extending.typed import Undecodable, explain, pack, unpack

T = TypeVar("T")


class Codec(Generic[T]):
    """Stores values of a type, and finds them again as such.

    Args:
        kind: The type, or anything else that pydantic takes for one.
        what: What errors call it.
    """

    def __init__(self, kind: Any, what: str) -> None:
        self._what = what
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        except PydanticUserError as error:
            why = str(error).partition("\n")[0]
            raise InvalidArgument(
                f"{what} is of a type that pydantic cannot store: {why}"
            ) from None

    def plain(self, value: object) -> object:
        """A value as plain data, if it is of the type.

        Raises:
            Undecodable: It is not.
        """
        try:
            return self._adapter.dump_python(self._adapter.validate_python(value))
        except ValidationError as error:
            raise Undecodable(f"{self._what} is not what is annotated: {explain(error)}") from None

    def dump(self, value: object) -> bytes:
        """A value as bytes; raises `Undecodable`."""
        return self.pack(self.plain(value))

    def pack(self, plain: object) -> bytes:
        """Plain data as bytes; raises `Undecodable`."""
        try:
            return pack(plain)
        except (TypeError, ValueError, OverflowError) as error:
            raise Undecodable(f"{self._what} cannot be stored: {error}") from None

    def check_json(self, plain: object) -> None:
        """Raise `Undecodable` for plain data that a row of output cannot hold."""
        try:
            json_of({"output": plain})
        except ValueError as error:
            raise Undecodable(f"{self._what} cannot be written as JSON: {error}") from None

    def load(self, data: bytes) -> T:
        """What `dump` was given; raises `Undecodable`."""
        return self.typed(unpack(data))

    def typed(self, plain: object) -> T:
        """Plain data as a value of the type; raises `Undecodable`."""
        try:
            # Not strict, whatever a model says: a moment was stored as a text.
            return self._adapter.validate_python(plain, strict=False)
        except ValidationError as error:
            raise Undecodable(
                f"{self._what} was stored as something else: {explain(error)}"
            ) from None


ANYTHING: Final[Codec[Any]] = Codec(Any, "the value")


def json_of(plain: object) -> bytes:
    """Plain data as JSON on one line; what JSON has no type for becomes text."""
    return to_json(plain, bytes_mode="base64", inf_nan_mode="null")
