"""Reports of progress: the newest one is written, at most once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from taquba import (
    ClaimLost,
    InvalidArgument,
    InvalidArgumentType,
    JobRecord,
    LeaseHandle,
    Store,
    TaqubaError,
)
from taquba.extending.checks import text, utf8
from taquba_jobs._rows import ProgressRow, encode, progress_key

_log: Final = logging.getLogger(__name__)

_GAP_MS: Final = 1000
_MOST: Final = 2**63 - 1


def _amount(value: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentType(f"{what} must be a number (int or float), not {value!r}")
    if isinstance(value, int) and not -_MOST <= value <= _MOST:
        raise InvalidArgument(f"{what} must be between -2**63 and 2**63, or a float; got {value}")
    return value


def _text(note: str) -> str:
    utf8(text(note, "note"), "note")
    return note


class ProgressReports:
    """The reports of one attempt. After `close` no write is under way: the settlement is last."""

    def __init__(self, store: Store, job: JobRecord, lease: LeaseHandle) -> None:
        self._store = store
        self._key = progress_key(job.id)
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._newest: ProgressRow | None = None
        self._writing: asyncio.Task[None] | None = None
        self._cancel_gap: Callable[[], None] | None = None
        self._closed = False
        self.any = False
        """Whether anything was reported."""

    def report(self, done: float, total: float | None, note: str | None) -> None:
        row = ProgressRow(
            _amount(done, "done"),
            None if total is None else _amount(total, "total"),
            None if note is None else _text(note),
            self._store.clock.time_ms(),
        )
        self._loop.call_soon_threadsafe(self._take, row)

    def _take(self, row: ProgressRow) -> None:
        if self._closed:
            return
        self.any = True
        self._newest = row
        self._write_newest()

    def _write_newest(self) -> None:
        if self._newest is None or self._writing is not None or self._cancel_gap is not None:
            return
        row, self._newest = self._newest, None
        self._cancel_gap = self._store.clock.call_later(_GAP_MS, self._gap_over).cancel
        self._writing = asyncio.create_task(self._write(row))
        self._writing.add_done_callback(self._written)

    def _gap_over(self) -> None:
        self._cancel_gap = None
        self._write_newest()

    async def _write(self, row: ProgressRow) -> None:
        try:
            # Raises when the job was taken back: another attempt reports now.
            _ = self._lease.expires_at
            await self._store.kv_put(self._key, encode(row))
        except ClaimLost:
            self._closed = True
        except TaqubaError as error:
            _log.warning("the progress under %s could not be written: %s", self._key, error)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        self._write_newest()

    def stop(self) -> None:
        """Drop reports that are not written yet."""
        self._closed = True
        self._newest = None
        if self._cancel_gap is not None:
            self._cancel_gap()
            self._cancel_gap = None

    async def close(self) -> None:
        """Stop, and wait for the write under way."""
        self.stop()
        if self._writing is not None:
            await asyncio.wait([self._writing])
