"""Durability of a local folder: the storage engine writes files but does not fsync them.

Before a commit is acknowledged, every file that the engine has written is put on disk: tables
first, then the manifests that name them, then the write-ahead files and their folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_WAL: Final = "wal"
_MANIFEST: Final = "manifest"
_TABLE_FOLDERS: Final = ("compacted", "compactions", _MANIFEST)
"""In the order in which they are synced: a manifest must not be on disk before its tables."""

_TIMESTAMP_SLACK_NS: Final = 50_000_000
"""A folder that changed this recently may change again under the same modification time."""


class DurableFolder:
    """Puts what the engine wrote below a folder on disk. Blocking: call it from a thread.

    Each call that touches the disk hands the interpreter lock over and back, so there are as few
    of them as possible on the path that every commit waits for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wal = str(folder / _WAL)
        self._next_wal = 0
        self._others = [_Listed(str(folder / name)) for name in _TABLE_FOLDERS]

    def prepare(self) -> None:
        """Make the engine's folders, before it opens, and put them on disk."""
        for name in (_WAL, *_TABLE_FOLDERS):
            path = self._folder / name
            path.mkdir(exist_ok=True)
            _fsync(str(path))
        for parent in (self._folder, *self._folder.parents):
            # Folders above that were just made are on disk only when their own parent is. Where
            # this user may not open one, it was not made now.
            with contextlib.suppress(PermissionError):
                _fsync(str(parent))

    def sync_all(self) -> None:
        """Put every file on disk, whoever wrote it; once, after opening."""
        self._next_wal = 0
        self._list_wal()
        for listed in self._others:
            listed.forget()
        self.sync_tables()

    def sync_tables(self) -> None:
        """Put new tables and manifests on disk."""
        # Manifests are looked for first and synced last: the tables of each are there by then.
        for listed in reversed(self._others):
            listed.look()
        for listed in self._others:
            listed.sync()

    def sync(self) -> None:
        """Put on disk what was written since the last call."""
        self.sync_tables()
        # WAL files are numbered without gaps, so the new ones are found by asking for them:
        # listing a folder of thousands of files would cost more than the fsync.
        first = self._next_wal
        while _fsync(self._wal_file(self._next_wal)):
            self._next_wal += 1
        if self._next_wal == first:
            self._list_wal()
        else:
            _fsync(self._wal)

    def _list_wal(self) -> None:
        """Find new WAL files by listing: at first, and where asking for the next found none."""
        stems = (name.removesuffix(".sst") for name in _names(self._wal))
        numbers = sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())
        for number in numbers[bisect_left(numbers, self._next_wal) :]:
            _fsync(self._wal_file(number))
            self._next_wal = number + 1
        _fsync(self._wal)

    def _wal_file(self, number: int) -> str:
        return f"{self._wal}/{number:020d}.sst"


class _Listed:
    """A folder whose new files are found by listing it, when it changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._synced: set[str] = set()
        self._settled_at = -1
        self._found: set[str] | None = None

    def forget(self) -> None:
        self._synced = set()
        self._settled_at = -1

    def look(self) -> None:
        """See what is there, if the folder changed since it was last seen."""
        changed = os.stat(self._path).st_mtime_ns
        if changed == self._settled_at:
            return
        looked_at = time.time_ns()
        self._found = set(_names(self._path))
        if looked_at - changed > _TIMESTAMP_SLACK_NS:
            self._settled_at = changed

    def sync(self) -> None:
        """Put what `look` saw on disk."""
        if self._found is None:
            return
        for name in sorted(self._found - self._synced):
            _fsync(f"{self._path}/{name}")
        _fsync(self._path)
        self._synced, self._found = self._found, None


def put_on_disk(path: Path, top: Path) -> None:
    """Put a file or folder on disk, and those that lead to it from `top`. Blocking."""
    _fsync(str(path))
    for parent in path.parents:
        with contextlib.suppress(PermissionError):
            _fsync(str(parent))
        if parent == top:
            return


def remove_unfinished(folder: Path, seconds: float) -> None:
    """Remove files below a folder that were being written when their writer died. Blocking.

    Their names have a "#" until they are whole, and listings pass over them. One that was written
    to within the last `seconds`, of real time, may still have its writer.
    """
    before = time.time() - seconds
    if folder.is_symlink():
        # What it leads to is somebody else's.
        return
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            # One that may not be removed must not keep the others.
            with contextlib.suppress(OSError):
                info = file.lstat()
                # What is no file was not left by a writer.
                if "#" in name and stat.S_ISREG(info.st_mode) and info.st_mtime < before:
                    file.unlink()


_UNFINISHED: Final = re.compile(r"[^#]+\.(?:sst|manifest|compactions)#\d+")
_READERS_SECONDS: Final = 1.0
"""Readers write manifests, too, which takes them some ms."""


def remove_unfinished_of_engine(folder: Path, seconds: float) -> None:
    """Remove what an engine that was killed was writing, where it writes. Blocking.

    Args:
        folder: The store.
        seconds: For how long nobody has written to it, by real time; 0 while nobody owns the store.
    """
    for name in (_WAL, *_TABLE_FOLDERS):
        age = max(seconds, _READERS_SECONDS) if name == _MANIFEST else seconds
        before = time.time() - age
        with contextlib.suppress(OSError), os.scandir(folder / name) as entries:
            for entry in entries:
                if not _UNFINISHED.fullmatch(entry.name):
                    continue
                # One that may not be removed must not keep the others.
                with contextlib.suppress(OSError):
                    seen = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(seen.st_mode) and seen.st_mtime <= before:
                        os.unlink(entry.path)


def _names(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            # A name with "#" is a file still being written; it is renamed when it is whole.
            # Nor is what a link leads to a file of the engine's.
            if entry.is_file(follow_symlinks=False) and "#" not in entry.name:
                yield entry.name


def _fsync(path: str) -> bool:
    """Put a file or folder on disk; False when it is not there (any more)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True
