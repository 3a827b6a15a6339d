"""The path on which the owner listens, which every process derives from the store's URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from taquba._objects.location import StoreLocation
from taquba._objects.owner_address import owner_address

NAME: Final = "producer.sock"
_LONGEST: Final = 92
"""Bytes that a path may have: the system's limit is 104 or 108, and an owner appends some."""


def socket_path(location: StoreLocation) -> Path:
    """The path of the socket. Blocking."""
    if location.folder is not None:
        path = location.folder / NAME
        if len(os.fsencode(path)) <= _LONGEST:
            return path
    return owner_address(location, "sock")
