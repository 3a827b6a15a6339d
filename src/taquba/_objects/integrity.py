"""What objects beside the database are checked by, each time they are read.

A payload's object is checked against its name, which its job's record holds: it has the size of
the content and its digest. Objects of `Queue.objects`, and batches of the inbox, have names of
their own, so size and digest, of name and content, follow the content itself, as its last 32
bytes: they are written and copied with it, and cost no request of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

READS: Final = 3
"""How often an object is read before it is called damaged: a transfer may be, and not what is
stored."""

_DIGEST_BYTES: Final = 16
_SEAL: Final = struct.Struct(f">{_DIGEST_BYTES}sQ8s")
_SIGN: Final = b"taquba\0\1"
"""How a seal ends; its last byte tells its format."""

SEAL_SIZE: Final = _SEAL.size

_INLINE: Final = 1024 * 1024
"""Bytes that are digested in less than a millisecond; more would hold the event loop for long."""


class Damaged(Exception):
    """What was read is not what was written; the message says how that shows."""


async def aside(function: Callable[..., T], size: int, *args: object) -> T:
    """Call a function on so many bytes, in a thread where they are many."""
    return function(*args) if size <= _INLINE else await asyncio.to_thread(function, *args)


def mark_of(content: bytes) -> str:
    """Size and digest of a content, as a part of a name: ``5000.`` and 32 hexadecimal digits."""
    return f"{len(content)}.{_digest(content).hex()}"


def check_mark(content: bytes, mark: str) -> None:
    """Raise `Damaged` unless this is the content with that mark."""
    size, _, digest = mark.partition(".")
    if size != str(len(content)):
        raise Damaged(f"it has {len(content)} bytes instead of {size}")
    found = _digest(content).hex()
    if found != digest:
        raise Damaged(f"its {size} bytes have the SHA-256 {found}... instead of {digest}...")


def seal(key: str, content: bytes) -> bytes:
    """The content of the object `key`, followed by what it is checked by."""
    return b"".join((content, _SEAL.pack(_digest(content, key), len(content), _SIGN)))


def unseal(key: str, sealed: bytes) -> bytes:
    """The content of the object `key`; raises `Damaged` where it is not what was sealed."""
    if len(sealed) < SEAL_SIZE or not sealed.endswith(_SIGN):
        raise Damaged(f"the end of its {len(sealed)} bytes is missing, or something follows it")
    content = sealed[:-SEAL_SIZE]
    digest, size, _ = _SEAL.unpack(sealed[-SEAL_SIZE:])
    if size != len(content):
        raise Damaged(f"it has {len(content)} bytes instead of {size}")
    found = _digest(content, key)
    if found != digest:
        raise Damaged(
            f"its {size} bytes and its key have the SHA-256 {found.hex()}... instead of "
            f"{digest.hex()}..."
        )
    return content


def _digest(content: bytes, key: str | None = None) -> bytes:
    """A half of the SHA-256, which many processors compute faster than any other digest."""
    hashed = hashlib.sha256() if key is None else hashlib.sha256(f"{key}\0".encode())
    hashed.update(content)
    return hashed.digest()[:_DIGEST_BYTES]
