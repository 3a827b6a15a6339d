"""Lock files. The kernel releases a lock when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from taquba._objects.forks import not_for_children


class FileLock:
    """A lock file, opened. Every method is blocking: call it from a thread.

    The constructor raises `OSError` where the file is not there, or cannot be made.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        # To read, because the file may be another user's.
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._descriptor = os.open(path, flags, 0o666)
        not_for_children.add(self)

    def fileno(self) -> int:
        return self._descriptor

    def take(self, *, shared: bool = False) -> bool:
        """Take the lock, unless somebody else has it; returns whether it was taken.

        Raises:
            OSError: The file system has no locks.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_removed(self) -> bool:
        """Whether the file is gone, and with it the folder it was in."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Release it. Idempotent."""
        if self in not_for_children:
            not_for_children.discard(self)
            # A child that was forked this moment has not closed its copy of the descriptor yet.
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1
