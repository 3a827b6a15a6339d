"""Lock files in a store folder that tell other processes of this machine: an owner lives.

They keep nobody out (fencing does that). What they say is true even after ``kill -9``. One is held
as long as an owner has the store, another one only until it has written to it: until then the
store still says that its last owner closed it.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from taquba._model.errors import StoreError
from taquba._objects.file_lock import FileLock

_NAME: Final = "owner.lock"
_OPENING: Final = "opening.lock"
_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.005


class OwnerLock:
    """Held from the opening of a store folder to its closing. Blocking: call it from a thread.

    Where a file system has no locks, or the file cannot be made, nothing is held: an owner can do
    its work without, and is found by other signs.
    """

    def __init__(self, folder: Path) -> None:
        self._opening = _held(folder / _OPENING)
        self._file = _held(folder / _NAME)
        self.others_live = False
        """Whether `is_alone` has found an owner of this machine that is alive. An owner that has
        learned that it was fenced does not count, nor does one that is still opening the store."""

    def opened(self) -> None:
        """The store no longer says that its last owner closed it."""
        if self._opening is not None:
            self._opening.close()
            self._opening = None

    def is_alone(self) -> bool:
        """Whether no other owner of this machine lives; False where that cannot be told."""
        if self._file is None:
            return False
        alone = _is_only(self._file)
        if not alone and self._opening is not None:
            self.others_live = _is_only(self._opening)
        return alone

    def is_removed(self) -> bool:
        """Whether the file is gone, and with it the folder that the owner opened."""
        return self._file is not None and self._file.is_removed()

    def release(self) -> None:
        """Release it. Idempotent."""
        self.opened()
        if self._file is not None:
            self._file.close()
            self._file = None


def _held(path: Path) -> FileLock | None:
    """A lock that is held, where that can be."""
    file: FileLock | None = None
    with contextlib.suppress(OSError):
        file = FileLock(path, create=True)
        _share(file)
    return file


def _is_only(file: FileLock) -> bool:
    """Whether nobody else shares a lock."""
    alone = file.take()
    # Also where the other kind of lock was not taken, the first one may be lost.
    _share(file)
    return alone


def _share(file: FileLock) -> None:
    # Shared, because the owner that this one fences may still hold it.
    for _ in range(_ATTEMPTS):
        if file.take(shared=True):
            return
        # Somebody is looking whether the lock is held, which takes a moment.
        time.sleep(_PAUSE_SECONDS)


def folder_removed() -> StoreError:
    """The error of an owner whose lock is gone: the engine would continue in an empty folder."""
    return StoreError(
        "the store's folder was removed while it was open; restore it, and open it again",
        permanent=True,
    )


def is_held(folder: Path) -> bool | None:
    """Whether a process on this machine owns the store; None if that is unknown."""
    return _is_held(folder / _NAME)


def is_opening(folder: Path) -> bool | None:
    """Whether a process on this machine is opening the store; None if that is unknown."""
    return _is_held(folder / _OPENING)


def _is_held(path: Path) -> bool | None:
    try:
        file = FileLock(path)
    except OSError:
        return None
    try:
        return not file.take()
    except OSError:
        return None
    finally:
        file.close()
