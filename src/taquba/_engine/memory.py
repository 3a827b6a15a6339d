"""Hand memory that the storage engine has freed back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    """Glibc's malloc_trim(3); other C libraries return free memory by themselves."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


_trim = _find_trim()


def return_free_memory() -> None:
    """Give the allocator's free pages back; takes some ms, so call it from a thread.

    The engine's threads write tables of many MB, each in an arena of its own, which glibc keeps:
    after a million enqueues the owner would hold twice the memory it uses.
    """
    if _trim is not None:
        _trim(0)
