"""A lock file in a store folder that tells other processes of this machine: an owner lives.

It keeps nobody out (fencing does that). What it says is true even after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from taquba._store.file_lock import FileLock

_NAME: Final = "owner.lock"
_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.005


class OwnerLock:
    """Held from the opening of a store folder to its closing. Blocking: call it from a thread.

    Where a file system has no locks, or the file cannot be made, nothing is held: an owner can do
    its work without, and is found by other signs.
    """

    def __init__(self, folder: Path) -> None:
        self._file: FileLock | None = None
        with contextlib.suppress(OSError):
            self._file = FileLock(folder / _NAME, create=True)
            self._take(self._file)

    @staticmethod
    def _take(file: FileLock) -> None:
        # Shared, because the owner that this one fences may still hold it.
        for _ in range(_ATTEMPTS):
            if file.take(shared=True):
                return
            # Somebody is looking whether the lock is held, which takes a moment.
            time.sleep(_PAUSE_SECONDS)

    def is_removed(self) -> bool:
        """Whether the file is gone, and with it the folder that the owner opened."""
        return self._file is not None and self._file.is_removed()

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_held(folder: Path) -> bool | None:
    """Whether a process of this machine owns the store; None where that cannot be told."""
    try:
        file = FileLock(folder / _NAME)
    except OSError:
        return None
    try:
        return not file.take()
    except OSError:
        return None
    finally:
        file.close()
