"""Where the owner of a store listens: a path that every process derives from the store's URL."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from taquba._store.location import StoreLocation
from taquba._store.user_folder import user_folder

NAME: Final = "producer.sock"
_LONGEST: Final = 92
"""Bytes that a path may have: the system's limit is 104 or 108, and an owner appends some."""

_ENDPOINTS: Final = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AZURE_STORAGE_ENDPOINT")
"""Buckets of one name at two of these are two buckets."""


def socket_path(location: StoreLocation) -> Path:
    """The path of the socket. Blocking."""
    if location.folder is None:
        endpoints = [os.environ.get(name, "") for name in _ENDPOINTS]
        key = "\n".join([location.scheme, location.bucket or "", location.path, *endpoints])
    else:
        path = location.folder / NAME
        if len(os.fsencode(path)) <= _LONGEST:
            return path
        key = os.path.realpath(location.folder)
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    return user_folder() / f"{name}.sock"
