"""Caller-owned entries that were written last, so that reading them again asks nobody.

Only the owner writes, and every write passes through its engine; what is kept here is what the
engine would answer. An entry that is being written is not kept meanwhile: whether a reader sees it
already is the engine's to say, as it is for scans. Reads add nothing, so none can bring back what
a later write has changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from taquba._model.keys import USER, Op

MAX_BYTES: Final = 8 * 1024 * 1024
_LARGEST_VALUE: Final = 16 * 1024
_OVERHEAD: Final = 200
"""Rough cost in memory, in bytes, of an entry besides its key and value."""


class RecentEntries:
    """The entries written last, up to so many bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # To find the oldest entry of a dict takes the longer, the more were removed before it.
        self._values: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        """The value of a row; None where only the engine knows."""
        return self._values.get(key)

    def begin(self, ops: Sequence[Op]) -> list[Op]:
        """Rows are about to be written; returns those to `add` when they are."""
        entries = [op for op in ops if op[0].startswith(USER)]
        for key, _ in entries:
            self._forget(key)
        return entries

    def add(self, entries: Sequence[Op]) -> None:
        """They were written, in this order."""
        for key, value in entries:
            self._forget(key)
            if value is not None and len(value) <= _LARGEST_VALUE:
                self._values[key] = value
                self._bytes += _size(key, value)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._values)))

    def _forget(self, key: bytes) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= _size(key, value)


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD
