"""Why the engine cannot write to a local folder: the engine itself does not say."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import tempfile
from pathlib import Path
from typing import Final

from taquba._objects.problems import Problem

_LITTLE_BYTES: Final = 1024 * 1024
_ENGINE_FOLDERS: Final = ("wal", "manifest", "compacted", "compactions")
_ENGINE_FILE: Final = re.compile(r"\w+\.(?:sst|manifest|compactions)")

_REASONS: Final = {
    errno.ENOSPC: ("the disk of {folder} is full", "free some space on it"),
    errno.EDQUOT: (
        "the disk quota of this user is used up, at {folder}",
        "free space, or raise it",
    ),
    errno.EROFS: (
        "the file system of {folder} is read-only",
        "mount it for writing; if the system made it so, check the disk first",
    ),
    errno.EMFILE: (
        "this process has too many open files",
        "raise its limit (ulimit -n), or close files and connections",
    ),
    errno.ENFILE: ("this machine has too many open files", "raise its limit (fs.file-max)"),
    errno.EFBIG: ("files in {folder} may not grow further", "raise the limit (ulimit -f)"),
    errno.EACCES: (
        "no permission to write in {folder}",
        "change its owner or mode, or run as a user who has it",
    ),
    errno.EPERM: (
        "no permission to write in {folder}",
        "change its owner, mode or flags, or run as a user who has it",
    ),
    errno.EIO: ("the disk of {folder} fails", "check it, and restore the store on another one"),
    errno.ENOENT: ("{folder} does not exist", "mount or restore it"),
    errno.ENOTDIR: ("{folder} is not a folder", "restore it"),
}


def hindrance(folder: Path, error: OSError | None = None) -> Problem | None:
    """Why nothing can be written below a folder, tested now; None if it can. Blocking.

    `error` is the error of a system call, if there was one.
    """
    if error is not None and error.errno in _REASONS:
        return _problem(folder, error.errno)
    for name in ("", *_ENGINE_FOLDERS):
        place = folder / name
        try:
            if name and not place.exists():
                continue
            with tempfile.TemporaryFile(dir=place, prefix=".taquba-probe-") as file:
                file.write(b"\0" * 4096)
                file.flush()
        except OSError as failed:
            if failed.errno == errno.ENOSPC and _has_no_inodes(place):
                return Problem(
                    f"the file system of {place} has no inodes left for new files",
                    "remove files that nobody needs, or choose a file system with more",
                )
            return _problem(place, failed.errno or 0, failed.strerror)
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY:
        return Problem(
            f"files of this process may not grow beyond {most:,} bytes",
            "raise the limit (ulimit -f)",
            permanent=False,
        )
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < _LITTLE_BYTES:
        return _problem(folder, errno.ENOSPC)
    return None


def intruder(folder: Path) -> Problem | None:
    """Entries that are not files among the engine's files, on which it would hang. Blocking."""
    for name in _ENGINE_FOLDERS:
        try:
            with os.scandir(folder / name) as entries:
                for entry in entries:
                    if _ENGINE_FILE.fullmatch(entry.name) and _is_no_file(entry):
                        return Problem(
                            f"{entry.path} is not a file, but should be one",
                            "restore that file from a backup",
                        )
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            return Problem(f"{folder / name} is not a folder, but should be one", "restore it")
    return None


def _is_no_file(entry: os.DirEntry[str]) -> bool:
    # Most listings tell the kind of an entry without a look at it.
    return not entry.is_file(follow_symlinks=False) and not stat.S_ISREG(entry.stat().st_mode)


def _has_no_inodes(folder: Path) -> bool:
    free = os.statvfs(folder)
    return free.f_files > 0 and free.f_favail == 0


def _problem(folder: Path, number: int, said: str | None = None) -> Problem:
    what, remedy = _REASONS.get(
        number, (f"{{folder}} cannot be written to: {said}", "check the disk and its mount")
    )
    # A disk may have room again, and a limit may be raised.
    return Problem(what.format(folder=folder), remedy, permanent=False)
