"""Notifications from producers on the same machine that the inbox has requests.

It is a datagram to a socket whose place both know. It may get lost, and where one of them has no
such place there is none: the owner also looks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

from taquba._objects.location import StoreLocation
from taquba._objects.owner_address import owner_address

_READ_BYTES: Final = 16
_KIND: Final = "wake"


class _Bound(NamedTuple):
    """A socket at a place."""

    receiver: socket.socket
    path: Path
    inode: int


def _bind(location: StoreLocation) -> _Bound:
    path = owner_address(location, _KIND)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        receiver.setblocking(False)
        # The one that is there is an owner's that is gone, or is fenced by now.
        path.unlink(missing_ok=True)
        receiver.bind(str(path))
        return _Bound(receiver, path, path.stat().st_ino)
    except BaseException:
        receiver.close()
        raise


def _remove(bound: _Bound) -> None:
    with contextlib.suppress(OSError):
        # Another owner may have put its own there.
        if bound.path.stat().st_ino == bound.inode:
            bound.path.unlink()


class WakeListener:
    """The owner's side: calls back when a producer has sent a notification."""

    def __init__(self, location: StoreLocation, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._binding = asyncio.ensure_future(asyncio.to_thread(_bind, location))

    async def listen(self) -> None:
        """Begin, where this machine has a place for it."""
        with contextlib.suppress(OSError):
            # Who is cancelled here leaves it to `close` to tidy up.
            receiver = (await asyncio.shield(self._binding)).receiver
            asyncio.get_running_loop().add_reader(receiver, self._heard, receiver)

    async def close(self) -> None:
        await asyncio.wait([self._binding])
        if self._binding.cancelled():
            return
        with contextlib.suppress(OSError):
            bound = self._binding.result()
            asyncio.get_running_loop().remove_reader(bound.receiver)
            bound.receiver.close()
            await asyncio.to_thread(_remove, bound)

    def _heard(self, receiver: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                receiver.recv(_READ_BYTES)
        self._callback()


class WakeHint:
    """The producer's side."""

    def __init__(self, path: Path | None, sender: socket.socket) -> None:
        self._path = None if path is None else str(path)
        self._sender = sender

    @classmethod
    async def open(cls, location: StoreLocation) -> Self:
        return await asyncio.to_thread(cls._make, location)

    @classmethod
    def _make(cls, location: StoreLocation) -> Self:
        path = None
        with contextlib.suppress(OSError):
            path = owner_address(location, _KIND)
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        return cls(path, sender)

    def send(self) -> None:
        """Notify the owner, if it listens on this machine; never waits."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._sender.sendto(b"", self._path)

    def close(self) -> None:
        self._sender.close()
