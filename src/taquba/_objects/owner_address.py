"""Where processes of one machine meet the owner of a store, whatever they have to say to it."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from taquba._objects.location import StoreLocation
from taquba._objects.user_folder import user_folder

_THIS_PROCESS: Final = secrets.token_hex(8)
"""Its number alone is that of another process in every other container."""


def owner_address(location: StoreLocation, kind: str) -> Path:
    """A path in this user's folder, the same for all who mean the same store. Blocking.

    Raises:
        OSError: There can be no such folder.
    """
    if location.folder is not None:
        store = ["folder", os.fsdecode(location.folder)]
    elif location.bucket is not None:
        store = [location.scheme, location.endpoint, location.bucket, location.path]
    else:
        store = ["memory", _THIS_PROCESS, str(os.getpid()), location.url]
    name = hashlib.sha256(os.fsencode("\n".join(store))).hexdigest()[:32]
    return user_folder() / f"{name}.{kind}"
