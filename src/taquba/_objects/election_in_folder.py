"""Elections in a local folder: a lock file, which the kernel frees when its holder dies."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Final

from taquba._model.errors import StoreError
from taquba._objects import owner_lock
from taquba._objects.election import Election
from taquba._objects.file_lock import FileLock
from taquba._objects.location import StoreLocation, make_folder
from taquba._objects.places import SERVING, Complaints, Place

_log: Final = logging.getLogger(__name__)

_NAME: Final = "election.lock"
_LOOK_SECONDS: Final = 0.2


class FolderElection(Election):
    """The process that holds the lock is elected."""

    def __init__(self, location: StoreLocation, folder: Path) -> None:
        self._location = location
        self._folder = folder
        self._file: FileLock | None = None
        self._turn = threading.Lock()
        self._standing = False
        self._complaints = Complaints()

    async def win(self) -> None:
        self._standing = True
        while not await self._try_to_win():  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(_LOOK_SECONDS)
        told = False
        while await asyncio.to_thread(owner_lock.is_held, self._folder):
            if not told:
                _log.info("%s is already open, without an election; waiting", self._location.url)
            told = True
            await asyncio.sleep(_LOOK_SECONDS)

    async def lost(self) -> None:
        # The kernel gives the lock to nobody else while this process lives.
        await asyncio.get_running_loop().create_future()

    async def resign(self) -> None:
        await asyncio.to_thread(self._let_go)

    async def _try_to_win(self) -> bool:
        place = Place(self._location)
        try:
            won = await asyncio.to_thread(self._take)
        except StoreError as error:
            if place.gives_up(error):
                raise
            if self._complaints.due(asyncio.get_running_loop().time()):
                _log.warning("cannot stand for election: %s", error)
            return False
        self._complaints.clear()
        if not won:
            place.note(SERVING)
        return won

    def _take(self) -> bool:
        with self._turn:
            if not self._standing:
                # It resigned while this call was on its way to its thread.
                return False
            try:
                if self._file is not None and self._file.is_removed():
                    self._close()
                if self._file is None:
                    make_folder(self._folder)
                    self._file = FileLock(self._folder / _NAME, create=True)
                return self._file.take()
            except OSError as error:
                raise StoreError(
                    f"cannot lock {self._folder / _NAME}: {error.strerror}; processes can share "
                    "a folder only on a file system with locks, and as users who may write to it",
                    permanent=True,
                ) from error

    def _let_go(self) -> None:
        with self._turn:
            self._standing = False
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_elected(folder: Path) -> bool:
    """Whether a process holds the lock of a store folder. Blocking."""
    try:
        file = FileLock(folder / _NAME)
    except OSError:
        return False
    try:
        # A candidate that looks in this moment looks again.
        return not file.take(shared=True)
    except OSError:
        return False
    finally:
        file.close()
