"""Durability of a local folder: the storage engine writes files but does not fsync them.

Two things make a commit survive power loss. New WAL files are fsynced, and then their folder,
before a commit is acknowledged. All other files (tables, manifests) are written synchronously by
the file system itself, where it can (ext4, XFS, Btrfs: the inode flags of ``chattr +SD``), so a
table is on disk before the manifest that names it; they are fsynced before the next
acknowledgement as well, which is all there is on other file systems.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_WAL: Final = "wal"
_SYNCHRONOUS_FOLDERS: Final = ("manifest", "compacted", "compactions")

# From linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_SYNC_FL, FS_DIRSYNC_FL.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_SYNC_FLAGS: Final = 0x00000008 | 0x00010000

_TIMESTAMP_SLACK_NS: Final = 50_000_000
"""A folder that changed this recently may change again under the same modification time."""


class DurableFolder:
    """Puts what the engine wrote below a folder on disk. Blocking: call it from a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wal = folder / _WAL
        self._next_wal = 0
        self._settled: dict[Path, int] = {}
        self._synced: dict[Path, set[str]] = {}

    def prepare(self) -> None:
        """Make the engine's folders, before it opens, and put them on disk."""
        for name in (_WAL, *_SYNCHRONOUS_FOLDERS):
            path = self._folder / name
            path.mkdir(exist_ok=True)
            if name != _WAL:
                _write_synchronously(path)
            _fsync(path)
        _fsync(self._folder)
        for parent in self._folder.parents:
            # Folders above that were just made are on disk only when their own parent is.
            _fsync(parent)

    def sync_all(self) -> None:
        """Put every file on disk, whoever wrote it; once, after opening."""
        self._next_wal = 0
        self._list_wal()
        self._settled.clear()
        self._synced.clear()
        self._sync_others()

    def sync(self) -> None:
        """Put on disk what was written since the last call."""
        self._sync_others()
        self._sync_wal()

    def _sync_wal(self) -> None:
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
        numbers = sorted(int(stem) for stem in stems if stem.isdigit())
        for number in numbers[bisect_left(numbers, self._next_wal) :]:
            _fsync(self._wal_file(number))
            self._next_wal = number + 1
        _fsync(self._wal)

    def _wal_file(self, number: int) -> Path:
        return self._wal / f"{number:020d}.sst"

    def _sync_others(self) -> None:
        for name in _SYNCHRONOUS_FOLDERS:
            path = self._folder / name
            changed = path.stat().st_mtime_ns
            if self._settled.get(path) == changed:
                continue
            looked_at = time.time_ns()
            names = set(_names(path))
            for new in sorted(names - self._synced.get(path, set())):
                _fsync(path / new)
            _fsync(path)
            self._synced[path] = names
            if looked_at - changed > _TIMESTAMP_SLACK_NS:
                self._settled[path] = changed


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            # A name with "#" is a file still being written; it is renamed when it is whole.
            if entry.is_file() and "#" not in entry.name:
                yield entry.name


@contextmanager
def _opened(path: Path) -> Generator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> bool:
    """Put a file or folder on disk; False when it is not there (any more) or not ours to open."""
    with _opened(path) as descriptor:
        if descriptor is None:
            return False
        os.fsync(descriptor)
        return True


def _write_synchronously(folder: Path) -> None:
    """Ask the file system to write whatever is made in `folder` synchronously."""
    if sys.platform != "linux":
        return
    import fcntl

    with _opened(folder) as descriptor:
        if descriptor is None:
            return
        try:
            flags = bytearray(8)
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            (current,) = struct.unpack("q", flags)
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("q", current | _SYNC_FLAGS))
        except OSError:
            # Not every file system knows the flags; the fsyncs above remain.
            return
