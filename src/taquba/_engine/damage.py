"""What the engine's words about a file mean, and what to do about it."""

from __future__ import annotations

import re
from typing import Final

RESTORE: Final = (
    "restore that file from a backup, or from an older version of it if the bucket keeps them; "
    "otherwise restore the whole store, or start a new one"
)

_FILE: Final = r"((?:wal|manifest|compacted|compactions)/[\w.]+)"

_RULES: Final = (
    (rf"checksum mismatch in \S*?{_FILE}", "the file {0} is damaged: its checksum does not match"),
    (rf"{_FILE} not found: is directory", "{0} is a folder, and should be a file"),
    (rf"location \S*?{_FILE} not found", "the file {0} is missing"),
    (r"wal data error|wal unavailable \((?!object store)", "a file in wal/ is damaged"),
    (
        r"checksum mismatch|Requested range was invalid",
        "a file in compacted/ is damaged or cut off",
    ),
    (r"compaction|invalid sst error", "the newest file in compactions/ is damaged"),
    (r"manifest|RangeOutOfBounds", "the newest file in manifest/ is damaged"),
    (r"unsupported SST format", "a file in wal/ or compacted/ is damaged"),
)


def damage_in(text: str) -> str | None:
    """What an error of the engine says of the files it read, in words; None where it says nothing.

    The object store's own errors carry what a server answered, which is not about a file.
    """
    if re.search(r"status code|error sending request|wal truncated|object store error\)$", text):
        return None
    for pattern, what in _RULES:
        if found := re.search(pattern, text):
            return what.format(*found.groups())
    return None
