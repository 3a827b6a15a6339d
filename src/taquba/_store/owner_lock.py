"""A lock file in a store folder that tells other processes of this machine: an owner lives.

It keeps nobody out (fencing does that). The kernel lets go of it when its process ends, however
that ends, so what it says is true even after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

_NAME: Final = "owner.lock"
_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.005


class OwnerLock:
    """Held from the opening of a store folder to its closing. Blocking: call it from a thread.

    Where a file system has no locks, or the file cannot be made, nothing is held: an owner can do
    its work without, and is found by other signs.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = _open(folder, os.O_CREAT)
            self._take(self._descriptor)

    @staticmethod
    def _take(descriptor: int) -> None:
        # Shared, because the owner that this one fences may still hold it.
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                # Somebody is looking whether the lock is held, which takes a moment.
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def is_removed(self) -> bool:
        """Whether the file is gone, and with it the folder that the owner opened."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(folder: Path) -> bool | None:
    """Whether a process of this machine owns the store; None where that cannot be told."""
    try:
        descriptor = _open(folder)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _open(folder: Path, flags: int = 0) -> int:
    # To read, because the file may be another user's.
    return os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC | flags, 0o666)
