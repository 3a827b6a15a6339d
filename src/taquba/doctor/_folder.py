"""Checks of a local folder: its disk, its file system, whether fsync works."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from taquba.doctor._diagnosis import Check

_ENOUGH_BYTES: Final = 256 * 1024 * 1024
"""The size of a small store while it is busy: write-ahead files, and old and new tables."""

_NETWORK_FILE_SYSTEM: Final = re.compile(
    r"9p|afs|ceph|cifs|davfs|glusterfs|lustre|ncpfs|nfs4?|smb3|smbfs"
    r"|fuse\.(?:gcsfuse|glusterfs|rclone|s3fs|sshfs)"
)


async def existing_part(folder: Path) -> Path:
    """The folder, or the nearest existing one above it."""

    def find() -> Path:
        return next(path for path in (folder, *folder.parents) if path.exists())

    return await asyncio.to_thread(find)


async def check_folder(folder: Path) -> list[Check]:
    """Checks that requests to the folder as an object store do not cover."""
    return await asyncio.to_thread(
        lambda: [_check_space(folder), _check_fsync(folder), *_check_file_system(folder)]
    )


def _check_space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(
        name="free space",
        ok=free >= _ENOUGH_BYTES,
        detail=f"{free // 1024**2:,} MiB are free",
        remedy=None if free >= _ENOUGH_BYTES else "free some space, or use a larger disk",
    )


def _check_fsync(folder: Path) -> Check:
    try:
        with tempfile.TemporaryDirectory(prefix="taquba-probe-", dir=folder) as inside:
            with open(Path(inside) / "file", "wb") as file:
                file.write(b"x" * 4096)
                file.flush()
                started = time.perf_counter()
                os.fsync(file.fileno())
                seconds = time.perf_counter() - started
            descriptor = os.open(inside, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        return Check(
            name="fsync",
            ok=False,
            detail=f"a file and its folder cannot be fsynced: {error.strerror}",
            remedy="choose a folder on a local disk; fsync=False works without it, but then "
            "acknowledged jobs do not survive a power loss",
        )
    return Check(
        name="fsync",
        ok=True,
        detail="files and folders can be fsynced",
        round_trip_ms=seconds * 1000,
    )


def _check_file_system(folder: Path) -> list[Check]:
    kind = file_system(folder, Path("/proc/self/mounts"))
    if kind is None:
        return []
    network = _NETWORK_FILE_SYSTEM.fullmatch(kind) is not None
    return [
        Check(
            name="file system",
            ok=not network,
            detail=f"{kind}, a network file system" if network else kind,
            remedy="choose a folder on a local disk, or a bucket: it is unknown what this file "
            "system does with fsync, and two machines may both believe that they own the store"
            if network
            else None,
        )
    ]


def file_system(folder: Path, mounts: Path) -> str | None:
    """The type of the file system that holds a folder; None if the system does not say."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    inside = folder.resolve()
    best: tuple[int, str] | None = None
    for line in lines:
        _device, escaped, kind, *_ = line.split(" ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), escaped))
        # Of two file systems mounted at one place, the later one covers the earlier one.
        if inside.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), kind)
    return None if best is None else best[1]
