"""Values as MessagePack, the same bytes for equal values where that is asked for."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, cast

import msgpack
from pydantic_core import to_jsonable_python

_TUPLE: Final = 1


def pack(value: object) -> bytes:
    """A value as MessagePack; what that has no type for becomes what JSON would make of it."""
    # strict: a subclass such as an Enum's member is no text, and a tuple comes back as one.
    packed = msgpack.packb(value, default=_substitute, strict_types=True)
    assert packed is not None
    return packed


def unpack(data: bytes) -> object:
    """What `pack` was given, in MessagePack's types; raises `ValueError`."""
    try:
        return msgpack.unpackb(data, ext_hook=_extension, strict_map_key=False)
    except (TypeError, RecursionError, msgpack.StackError) as error:
        raise ValueError(f"it is no MessagePack that this version can read: {error}") from error


def fingerprint(value: object) -> bytes:
    """SHA-256 of a value; the order of a dict's items or of a set does not matter."""
    return sha256(pack(_ordered(value))).digest()


def _substitute(value: Any) -> Any:
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, pack(list(cast("tuple[object, ...]", value))))
    if isinstance(value, set | frozenset):
        # Sets have no order, and a different one in each process.
        return sorted(cast("set[object]", value), key=pack)
    if isinstance(value, bytearray | memoryview):
        return bytes(cast("bytearray", value))
    return to_jsonable_python(value)


def _extension(code: int, data: bytes) -> object:
    if code == _TUPLE and isinstance(items := unpack(data), list):
        return tuple(cast("list[object]", items))
    raise ValueError(f"extension type {code} is unknown")


def _ordered(value: Any) -> Any:
    """A value whose dicts are in an order of their own."""
    if isinstance(value, dict):
        items = cast("dict[object, object]", value)
        return {key: _ordered(items[key]) for key in sorted(items, key=pack)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in cast("list[object]", value)]
    return value
