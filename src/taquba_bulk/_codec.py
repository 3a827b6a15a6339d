"""Values of a batch's types, as the bytes that are stored and as the JSON that people read."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import to_json

from taquba.extending.typed import Codec, Undecodable


def codec_for(kind: Any, what: str) -> Codec[Any]:
    """Stores values of a type, or of anything else that pydantic takes for one."""
    return Codec(kind, what, f"{what} is of a type")


ANYTHING: Final = codec_for(Any, "the value")


def check_json(plain: object) -> None:
    """Raise `Undecodable` for plain data that a row of output cannot hold."""
    try:
        json_of({"output": plain})
    except ValueError as error:
        raise Undecodable(f"the output cannot be written as JSON: {error}") from None


def json_of(plain: object) -> bytes:
    """Plain data as JSON on one line; what JSON has no type for becomes text."""
    return to_json(plain, bytes_mode="base64", inf_nan_mode="null")
