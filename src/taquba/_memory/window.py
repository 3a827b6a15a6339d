"""The ready window: the sorted front of a key space, so that taking from it reads nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from taquba._model.records import Job

MAX_ENTRIES: Final = 8192
MAX_BYTES: Final = 16 * 1024 * 1024

_ROW_OVERHEAD: Final = 1024
"""Rough cost in memory, in bytes, of an entry besides its payload."""

NOTHING: Final = b""
"""The horizon of a window that knows no row yet."""


class Window:
    """Rows of one key space, complete up to `horizon`.

    With no horizon (None) the window holds every row, and an empty window means an empty space.
    With a horizon, rows up to and including that key are here and rows above it are only in the
    store; `begin_refill` and `end_refill` frame the scan that moves the horizon up.

    A row enters when the write that put it is applied (`insert`), and leaves when somebody
    decides on it (`pop_front`, `remove`), which is before the write that deletes it is applied.
    Until `forget` says that it was, `leaving` remembers the key, so that a scan which still sees
    the row does not bring it back.
    """

    def __init__(
        self,
        horizon: bytes | None = NOTHING,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.horizon = horizon
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._keys: list[bytes] = []
        self._head = 0
        self._jobs: dict[bytes, Job] = {}
        self._leaving: set[bytes] = set()
        self._scan_changes: dict[bytes, Job | None] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, key: bytes) -> bool:
        return key in self._jobs

    @property
    def complete(self) -> bool:
        """True when no row is outside the window."""
        return self.horizon is None

    def first_key(self) -> bytes | None:
        return self._keys[self._head] if self._jobs else None

    def reached(self) -> bytes | None:
        """A key up to which the store has no row, neither here nor leaving; None if not known."""
        rows = set(self._leaving)
        if self._jobs:
            rows.add(self._keys[self._head])
        # A key without its last byte is below it, and above all rows but its neighbours.
        bounds = [min(rows)[:-1]] if rows else []
        if self.horizon is not None:
            # Also of rows beyond it some are leaving.
            bounds.append(self.horizon)
        return min(bounds, default=NOTHING) or None

    def jobs(self) -> list[Job]:
        """The rows of the window, in no order. May be called from any thread."""
        return list(self._jobs.values())

    def insert(self, key: bytes, job: Job) -> None:
        """A row was written: keep it if it is at or below the horizon."""
        if key in self._leaving:
            # A scan saw the row before this write was reported, and it was taken since.
            return
        if self.horizon is not None and key > self.horizon:
            if self._scan_changes is not None:
                self._scan_changes[key] = job
            return
        self._add(key, job)
        self._trim()

    def pop_front(self) -> tuple[bytes, Job]:
        """Take the first row. Its key stays in `leaving` until `forget`."""
        key = self._keys[self._head]
        self._head += 1
        if self._head > 512 and self._head * 2 > len(self._keys):
            del self._keys[: self._head]
            self._head = 0
        return key, self._take(key)

    def remove(self, key: bytes) -> Job | None:
        """A row is about to be deleted: drop it from the window and from a scan under way."""
        if self._scan_changes is not None:
            self._scan_changes[key] = None
        if key not in self._jobs:
            self._leaving.add(key)
            return None
        del self._keys[bisect_left(self._keys, key, self._head)]
        return self._take(key)

    def set_aside(self, key: bytes) -> bool:
        """A row was written that waits outside the window; False if it was taken since."""
        if key in self._leaving:
            return False
        self.remove(key)
        return True

    def forget(self, key: bytes) -> None:
        """The write that deleted the row was applied, so no new scan can see it."""
        self._leaving.discard(key)

    def begin_refill(self) -> bytes:
        """Start a scan; returns the key after which it must read."""
        if self.horizon is None or self._scan_changes is not None:
            raise RuntimeError("a complete window, or one being refilled, cannot be refilled")
        self._scan_changes = dict.fromkeys(self._leaving)
        return self.horizon

    def end_refill(self, rows: Iterable[tuple[bytes, Job]], horizon: bytes | None) -> None:
        """Merge the rows of a scan with the changes made meanwhile, and move the horizon up.

        Args:
            rows: All rows that the scan saw above the old horizon, up to `horizon`.
            horizon: The last key read, or None when the scan reached the end.
        """
        changes, self._scan_changes = self._scan_changes, None
        if changes is None:
            raise RuntimeError("no refill is under way")
        self.horizon = horizon
        merged = dict[bytes, Job | None](rows)
        for key, job in changes.items():
            if horizon is None or key <= horizon:
                merged[key] = job
        for key, job in merged.items():
            if job is not None:
                self._add(key, job)
        self._trim()

    def abandon_refill(self) -> None:
        """The scan failed; the window stays as it is."""
        self._scan_changes = None

    def _add(self, key: bytes, job: Job) -> None:
        if key in self._jobs:
            self._bytes -= _size(self._jobs[key])
        elif not self._jobs or key > self._keys[-1]:
            self._keys.append(key)
        else:
            self._keys.insert(bisect_left(self._keys, key, self._head), key)
        self._jobs[key] = job
        self._bytes += _size(job)

    def _take(self, key: bytes) -> Job:
        job = self._jobs.pop(key)
        self._bytes -= _size(job)
        self._leaving.add(key)
        if self._scan_changes is not None:
            self._scan_changes[key] = None
        if not self._jobs:
            self._keys.clear()
            self._head = 0
        return job

    def _trim(self) -> None:
        """Drop the tail of a window over its cap, but never its only entry."""
        jobs = self._jobs
        while len(jobs) > 1 and (len(jobs) > self._max_entries or self._bytes > self._max_bytes):
            key = self._keys.pop()
            job = jobs.pop(key)
            self._bytes -= _size(job)
            if self._scan_changes is not None:
                # The scan under way started above this key, so it will not read the row; but
                # the row lies below the horizon that the scan is going to set.
                self._scan_changes[key] = job
            self.horizon = self._keys[-1]


def _size(job: Job) -> int:
    return len(job.payload) + _ROW_OVERHEAD
