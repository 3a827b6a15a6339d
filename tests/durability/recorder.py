"""Watches fsync, and copies of a folder what a power loss would leave of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import threading
from pathlib import Path

# From linux/fs.h: FS_IOC_GETFLAGS, FS_SYNC_FL, FS_DIRSYNC_FL.
_GET_FLAGS = 0x80086601
_SYNC, _DIRSYNC = 0x00000008, 0x00010000


def is_written_synchronously(folder: Path) -> bool:
    """Whether the file system itself writes files and names of `folder` synchronously."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    (value,) = struct.unpack("q", flags)
    return value & _SYNC != 0 and value & _DIRSYNC != 0


class Recorder:
    """Stands before the real `os.fsync`, and remembers what was on disk after each call."""

    def __init__(self) -> None:
        self.calls: list[Path] = []
        self._fsync = os.fsync
        self._lock = threading.Lock()
        self._contents: dict[tuple[Path, int], int] = {}
        """Bytes on disk per file, which is known by its path and inode."""
        self._names: dict[Path, dict[str, int]] = {}
        """Names on disk per folder, with their inodes."""

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        before = os.fstat(descriptor)
        # What appears while the call runs may miss it.
        names = _inodes(path) if path.is_dir() else None
        self._fsync(descriptor)
        with self._lock:
            self.calls.append(path)
            if names is None:
                self._contents[path, before.st_ino] = before.st_size
            else:
                self._names[path] = names

    def survivors(self, root: Path) -> dict[Path, int]:
        """Files below `root`, with their sizes, that are on disk with their name and content."""
        found: dict[Path, int] = {}
        with self._lock:
            folders = [path for path in self._names if path == root or root in path.parents]
            for folder in folders:
                assert self._has_name(folder), f"the name of {folder} is not on disk"
                for name, inode in self._names[folder].items():
                    size = self._contents.get((folder / name, inode))
                    if size is not None:
                        found[folder / name] = size
        for folder in (root / name for name in ("manifest", "compacted", "compactions")):
            if folder.is_dir() and is_written_synchronously(folder):
                for path in folder.iterdir():
                    if "#" not in path.name:
                        found[path] = path.stat().st_size
        return found

    def _has_name(self, folder: Path) -> bool:
        if folder.parent == folder:
            return True
        return folder.name in self._names.get(folder.parent, ()) or self._existed(folder)

    def _existed(self, folder: Path) -> bool:
        return folder in self.old

    old: frozenset[Path] = frozenset()
    """Folders that were there before, and count as on disk."""

    def copy_survivors(self, root: Path, target: Path) -> None:
        """Make `target` what a power loss at this moment would leave of `root`."""
        target.mkdir()
        files = self.survivors(root)
        # A manifest names tables that were there before it, so it is copied before them.
        for path in sorted(files, key=lambda path: path.parent.name != "manifest"):
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            os.truncate(copy, files[path])


def _inodes(folder: Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in entries}
