"""Lock files in a store folder that tell other processes of this machine: an owner lives.

They keep out only who would not fence a living owner (fencing does the rest). What they say is true
even after ``kill -9``. One is held as long as an owner has the store, another one only until it has
written to it: until then the store still says that its last owner closed it. The first one's file
names the process that has the store, for people: whether it lives, the lock says.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Final

from taquba._model.errors import StoreError
from taquba._model.holder import Holder
from taquba._objects.file_lock import FileLock
from taquba._objects.holder_text import describe_this_process, holder_in

_NAME: Final = "owner.lock"
_OPENING: Final = "opening.lock"
_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.005
_LONGEST_TEXT: Final = 4096


class OwnerLock:
    """Held from the opening of a store folder to its closing. Blocking: call it from a thread.

    Where a file system has no locks, or the file cannot be made, nothing is held: an owner can do
    its work without, and is found by other signs.
    """

    def __init__(self, folder: Path, since_ms: int, *, take_over: bool = True) -> None:
        """Take it.

        Args:
            folder: The store.
            since_ms: When this owner opens the store, for those who ask who has it; wall ms.
            take_over: Share it with an owner that has it already. Otherwise `taken` says whether
                there is one, and then this one waits for `share` or `release`.
        """
        self._path = folder / _NAME
        self._text = json.dumps(describe_this_process(since_ms)).encode()
        self._named = False
        self.others_live = False
        """Whether `is_alone` has found an owner of this machine that is alive. An owner that has
        learned that it was fenced does not count, nor does one that is still opening the store."""
        self._opening = _opened(folder / _OPENING)
        self._file = _opened(self._path)
        self._deciding = False
        self.being_opened = not take_over and not self._decide()
        """Whether another process is opening the store, which this one must leave to it."""
        self.taken = not take_over and (self.being_opened or _is_taken(self._file))
        """Whether there was another owner, which may have been fenced and not know it yet."""
        if not self.taken:
            self.share()

    def _decide(self) -> bool:
        """Be the only one that is opening the store; False if another process is.

        Of several that open it at the same time only one must find that nobody has it, so this
        lasts until the store says by itself that it is open.
        """
        self._deciding = not _is_taken(self._opening)
        return self._deciding

    def share(self) -> None:
        """Take it, whoever else has it."""
        if not self._deciding:
            _share(self._opening)
        _share(self._file)

    def opened(self) -> None:
        """The store no longer says that its last owner closed it."""
        self._name_this_process()
        self._close_opening()

    def is_alone(self) -> bool:
        """Whether no other owner of this machine lives; False where that cannot be told."""
        if self._file is None:
            return False
        alone = _is_only(self._file)
        if alone:
            # Another one is named only once it has been fenced.
            self._name_this_process()
        elif self._opening is not None:
            self.others_live = self._deciding or _is_only(self._opening)
        return alone

    def _name_this_process(self) -> None:
        if self._named or self._file is None:
            return
        self._named = True
        # In place, because the lock is on the file. It may be another user's.
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._text, 0)
            finally:
                os.close(descriptor)

    def is_removed(self) -> bool:
        """Whether the file is gone, and with it the folder that the owner opened."""
        return self._file is not None and self._file.is_removed()

    def release(self) -> None:
        """Release it. Idempotent."""
        self._close_opening()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _close_opening(self) -> None:
        if self._opening is not None:
            self._opening.close()
            self._opening = None


def _opened(path: Path) -> FileLock | None:
    """A lock file, where that can be."""
    try:
        return FileLock(path, create=True)
    except OSError:
        return None


def _is_taken(file: FileLock | None) -> bool:
    """Whether others have a lock; if not, this process has it for itself, where that can be."""
    for _ in range(_ATTEMPTS):
        try:
            if file is None or file.take():
                return False
            if file.take(shared=True):
                return True
        except OSError:
            # The file system has no locks.
            return False
        # Somebody is looking whether the lock is held, or opening the store, and has it alone.
        time.sleep(_PAUSE_SECONDS)
    return True


def _is_only(file: FileLock) -> bool:
    """Whether nobody else shares a lock."""
    alone = file.take()
    # Also where the other kind of lock was not taken, the first one may be lost.
    _share(file)
    return alone


def _share(file: FileLock | None) -> None:
    # Shared, because the owner that this one fences may still hold it.
    with contextlib.suppress(OSError):
        for _ in range(_ATTEMPTS):
            if file is None or file.take(shared=True):
                return
            # Somebody is looking whether the lock is held, which takes a moment.
            time.sleep(_PAUSE_SECONDS)


def folder_removed() -> StoreError:
    """The error of an owner whose lock is gone: the engine would continue in an empty folder."""
    return StoreError(
        "the store's folder was removed while it was open; restore it, and open it again",
        permanent=True,
    )


def holder_of(folder: Path) -> Holder:
    """The process that was last known to own the store, as far as its text can be read."""
    try:
        with (folder / _NAME).open("rb") as file:
            return holder_in(file.read(_LONGEST_TEXT))
    except OSError:
        return Holder()


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
