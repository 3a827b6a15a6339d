"""Values of a batch's types: as stored bytes, and as JSON for people."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import to_json

from taquba.extending.typed import Codec, Undecodable


def codec_for(kind: Any, what: str) -> Codec[Any]:
    """A codec for values of a type, or of anything else that pydantic accepts as one."""
    return Codec(kind, what, f"{what} is of a type")


ANYTHING: Final = codec_for(Any, "the value")


def check_json(plain: object) -> None:
    """Raise `Undecodable` for plain data that a row of output cannot hold."""
    try:
        json_of({"output": plain})
    except ValueError as error:
        raise Undecodable(f"the output cannot be written as JSON: {error}") from None


def json_of(plain: object) -> bytes:
    """Plain data as JSON on one line; values for which JSON has no type become text."""
    return to_json(plain, bytes_mode="base64", inf_nan_mode="null")
