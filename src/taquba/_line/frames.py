"""The frames of the protocol: each has the size of its body, a version, and the body.

A body is a MessagePack array: a request is ``[number, method, *arguments]``, its reply
``[number, True, result]`` or ``[number, False, [kind, text]]`` or, of an error with a state,
``[number, False, [kind, state, text]]``. Requests are answered in any order. ``[number, "drop",
other]`` says that nobody waits for the reply to the request `other` any longer. What needs no reply
is ``[nil, kind, *fields]``, in both directions. The last thing that an owner says is ``[nil,
"farewell", *numbers]``: it has carried out, or refused, all requests that it has answered, perhaps
those with these numbers, and no others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, cast

import msgpack

from taquba._model.unpacking import UNREADABLE, read_whole

VERSION: Final = 4
"""Changes with the meaning of a body; both ends refuse any other version."""

MAX_BODY: Final = 17 * 1024 * 1024
"""Bytes; no frame is larger, so that none needs much memory or time."""

_MOST_VALUES: Final = 200
_DEEPEST: Final = 16
"""More fields than any request or reply has."""

DROP: Final = "drop"
"""The method that drops a request."""

FAREWELL: Final = "farewell"
"""The kind of the last thing that an owner says."""

_HEADER: Final = struct.Struct(">IB")
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class BrokenFrame(Exception):
    """The other end does not speak this protocol."""


class TooLarge(Exception):
    """A body has more than `MAX_BODY` bytes."""


class Body(NamedTuple):
    """The contents of a frame.

    Attributes:
        fields: The array.
        size: Its size in the frame, in bytes.
    """

    fields: list[object]
    size: int


def frame(*fields: object) -> bytes:
    """The frame of a body.

    Raises:
        TooLarge: It would be too large.
    """
    body = _pack(fields)
    if len(body) > MAX_BODY:
        raise TooLarge(f"{len(body)} bytes, of at most {MAX_BODY}")
    return _HEADER.pack(len(body), VERSION) + body


class Frames:
    """Finds the frames in the bytes that arrive."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def unfinished(self) -> int:
        """Size of the body of which a part has arrived; 0 if there is none."""
        if len(self._pending) < _HEADER.size:
            return 0
        size, _ = _HEADER.unpack_from(self._pending)
        return int(size)

    @property
    def begun(self) -> bool:
        """Whether a part of a frame has arrived."""
        return bool(self._pending)

    def feed(self, data: bytes) -> Iterator[Body]:
        """Return the bodies that are complete now.

        Raises:
            BrokenFrame: The bytes are not a frame of this version, or the frame is too large.
        """
        self._pending += data
        start = 0
        while start + _HEADER.size <= len(self._pending):
            size, version = _HEADER.unpack_from(self._pending, start)
            if version != VERSION:
                raise BrokenFrame(f"version {version}, this end speaks version {VERSION}")
            if size > MAX_BODY:
                raise BrokenFrame(f"a frame of {size} bytes, of at most {MAX_BODY}")
            end = start + _HEADER.size + size
            if end > len(self._pending):
                break
            yield Body(_fields(bytes(self._pending[start + _HEADER.size : end])), size)
            start = end
        del self._pending[:start]


def _fields(body: bytes) -> list[object]:
    try:
        fields = read_whole(body, _MOST_VALUES, _DEEPEST)
    except UNREADABLE as error:
        raise BrokenFrame(f"a body that is not valid MessagePack: {error!s:.200}") from None
    if not isinstance(fields, list):
        raise BrokenFrame("a body that is not an array")
    return cast("list[object]", fields)
