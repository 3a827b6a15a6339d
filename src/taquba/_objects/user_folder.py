"""A temporary folder that belongs only to this user, for sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def user_folder() -> Path:
    """The folder, created if missing. Anybody who could put a socket there could read the jobs.

    Raises:
        OSError: Somebody else's folder is in its place.
    """
    folder = Path(tempfile.gettempdir(), f"taquba-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise PermissionError(f"{folder} must be a folder that only this user can use; remove it")
    return folder
