"""Keeping an opening from fencing an owner that lives, where such a one is known.

In a folder the lock of the owner tells, in a bucket the lease of an elected one, in memory what
this process has open. An owner on a bucket without an election cannot be seen, and is fenced.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final, NoReturn

from taquba._model.errors import StoreOwned
from taquba._model.holder import Holder
from taquba._objects import owner_lock
from taquba._objects.elected import elected_process
from taquba._objects.holder_text import this_process
from taquba._objects.location import StoreLocation, make_folder
from taquba._objects.owner_lock import OwnerLock
from taquba._queue.open_options import OpenSettings
from taquba._queue.presence import closed_at

_NAMELESS: Final = "memory://"
"""A store of its own at each opening."""


async def refuse_elected(settings: OpenSettings) -> None:
    """Refuse to fence a process that was elected to own a store in a bucket, and lives.

    Raises:
        StoreOwned: There is one.
        StoreError: The store cannot be reached or read.
    """
    location = settings.location
    if location.bucket is None or settings.take_over:
        return
    holder = await elected_process(location)
    if holder is not None:
        _refuse(location, holder)


async def lock_folder(settings: OpenSettings) -> OwnerLock | None:
    """The lock of the owner of a store folder; None if the store is elsewhere.

    Raises:
        StoreOwned: Another owner has it, and lives.
        StoreError: The folder cannot be made or used.
    """
    location, folder = settings.location, settings.location.folder
    if folder is None:
        return None
    lock = await _taken(settings, folder)
    if not lock.taken:
        return lock
    try:
        # An owner that was fenced, and does not know it yet, keeps its lock meanwhile. Nobody else
        # opens the store while this one decides.
        if lock.being_opened or await closed_at(location) is None:
            _refuse(location, await asyncio.to_thread(owner_lock.holder_of, folder))
        await asyncio.to_thread(lock.share)
    except BaseException:
        lock.release()
        raise
    return lock


async def _taken(settings: OpenSettings, folder: Path) -> OwnerLock:
    def take() -> OwnerLock:
        make_folder(folder)
        return OwnerLock(folder, settings.clock.time_ms(), take_over=settings.take_over)

    taking = asyncio.ensure_future(asyncio.to_thread(take))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        # A lock that nobody knows of would be held until the process ends.
        taking.add_done_callback(_let_go)
        raise


def _let_go(taking: asyncio.Future[OwnerLock]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        taking.result().release()


class MemoryHold:
    """A store in memory that has a name, held from its opening to its end.

    Raises:
        StoreOwned: This process has it open, or is opening it.
    """

    def __init__(self, settings: OpenSettings) -> None:
        self._url = settings.location.url
        self._holder = this_process(settings.clock.time_ms())
        self._loop = asyncio.get_running_loop()
        other = _in_memory.get(self._url)
        if not settings.take_over and other is not None and other._lives():
            _refuse(settings.location, other._holder)
        if self._url != _NAMELESS:
            _in_memory[self._url] = self

    def _lives(self) -> bool:
        # A forked child has a copy of what its parent had open.
        return not self._loop.is_closed() and self._holder.pid == os.getpid()

    def release(self) -> None:
        """Another owner may open it. Idempotent."""
        if _in_memory.get(self._url) is self:
            del _in_memory[self._url]


_in_memory: Final[dict[str, MemoryHold]] = {}


def _refuse(location: StoreLocation, holder: Holder) -> NoReturn:
    raise StoreOwned(location.url, *holder)
