"""MessagePack from strangers, read piece by piece: its use of memory is bounded.

A megabyte of MessagePack can hold a million arrays, each of which takes a hundred times its bytes
in memory. So the reader says which value it expects next, and everything else is refused unread.
"""

from __future__ import annotations

from typing import Final

import msgpack

UNREADABLE: Final = (ValueError, TypeError, OverflowError, msgpack.UnpackException)
"""Exceptions of reading if the bytes are not the expected value."""

LONGEST_TEXT: Final = 64 * 1024
"""UTF-8 bytes of a text: an error that shows one is then not much longer."""

_ARRAYS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_NIL: Final = 0xC0


_SMALL: Final = 64 * 1024
"""Bytes that take a few megabytes of memory at most, whatever they hold."""


def read_whole(data: bytes, most: int, depth: int) -> object:
    """Read bytes that are one value, which is not trusted; raises one of `UNREADABLE`.

    Args:
        data: The bytes.
        most: How many values it may hold in all, if it is large.
        depth: How deep they may be nested in a large one. A small one may be as deep as MessagePack
            allows.
    """
    if len(data) <= _SMALL:
        return msgpack.unpackb(data, max_str_len=LONGEST_TEXT, max_ext_len=0, strict_map_key=False)
    unpacking = Unpacking(data)
    value = unpacking.nested(most, depth)
    unpacking.end()
    return value


class Unpacking:
    """Reads values from bytes, one after the other; raises one of `UNREADABLE`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max(1, len(data)),
            max_str_len=LONGEST_TEXT,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
        self._unpacker.feed(data)
        self.scalar = self._unpacker.unpack
        """Reads a value that is neither an array nor a map, or an empty one."""

    def array(self) -> int:
        """Read the beginning of an array; returns how many values follow."""
        if self._next() not in _ARRAYS:
            raise TypeError(f"{type(self.scalar()).__name__} instead of an array")
        return int(self._unpacker.read_array_header())

    def mapping(self, most: int) -> dict[object, object] | None:
        """Read a map of scalars with at most `most` entries, or nil."""
        if self._next() == _NIL:
            self.scalar()
            return None
        length = self._unpacker.read_map_header()
        if length > most:
            raise ValueError(f"a map of {length} entries; at most {most} are allowed")
        scalar = self.scalar
        return {scalar(): scalar() for _ in range(length)}

    def nested(self, most: int, depth: int) -> object:
        """Read a value that holds at most so many others in all, nested at most so deep."""
        value, _ = self._nested(most, depth)
        return value

    def end(self) -> None:
        """Refuse bytes after the last value."""
        left = len(self._data) - self._unpacker.tell()
        if left:
            raise ValueError(f"{left} bytes more than it should have")

    def _nested(self, left: int, depth: int) -> tuple[object, int]:
        first = self._next()
        if first in _ARRAYS:
            length = self._unpacker.read_array_header()
        elif first in _MAPS:
            length = 2 * self._unpacker.read_map_header()
        else:
            return self.scalar(), left
        left -= length
        if left < 0 or not depth:
            raise ValueError("more values, or more deeply nested ones, than are expected")
        values: list[object] = []
        for _ in range(length):
            value, left = self._nested(left, depth - 1)
            values.append(value)
        if first in _ARRAYS:
            return values, left
        return dict(zip(values[::2], values[1::2], strict=True)), left

    def _next(self) -> int | None:
        at = self._unpacker.tell()
        return self._data[at] if at < len(self._data) else None
